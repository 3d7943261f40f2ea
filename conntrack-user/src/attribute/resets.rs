//! Which resets an eviction explains.

use std::time::Duration;

use conntrack_common::event::{FLAG_NAT, FLAG_REPEATED, FLAG_REPLY};
use conntrack_common::{Event, EventKind, RESET_WINDOW_NS};

use super::decode::token_evidence;

/// How long after its eviction a flow's reset may still be blamed on it; the probes too match no older token.
#[must_use]
pub const fn reset_window() -> Duration {
    Duration::from_nanos(RESET_WINDOW_NS)
}

/// Cause of a reset that an eviction explains.
pub const CAUSE_EVICTED: &str = "evicted";
/// Cause of a reset that nothing seen here explains.
pub const CAUSE_UNRELATED: &str = "unrelated";
/// The reset belongs to the evicted entry, and losing the entry is what makes such a reset.
pub const CONFIDENCE_EXACT: &str = "exact";
/// The reset is of the same flow and near in time; something else could have made it.
pub const CONFIDENCE_WINDOW: &str = "window";
/// No eviction is known for the reset: that is no proof of another cause.
pub const CONFIDENCE_INFERRED: &str = "inferred";

/// An eviction explains this reset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ResetVerdict {
    /// Always [`CAUSE_EVICTED`] so far.
    pub cause: &'static str,
    /// [`CONFIDENCE_EXACT`] or [`CONFIDENCE_WINDOW`].
    pub confidence: &'static str,
    /// From the eviction to the reset.
    pub age: Duration,
}

/// What made the reset of this record. None: no eviction within `window`, or not a reset.
///
/// Exact is a translated entry's reset: without its entry a reply arrives untranslated, and whoever gets it
/// resets a connection it does not know. Exact too is a reset *received* on the evicted flow's own tuple. A
/// reset *sent* on an untranslated flow can as well be a server that closed with data unread.
#[must_use]
pub fn judge(event: &Event, window: Duration) -> Option<ResetVerdict> {
    let token = token_evidence(event)?;
    if token.age > window || !matches!(token.kind, Some(EventKind::EvictedEarlyDrop | EventKind::EvictedGc)) {
        return None;
    }
    let received = EventKind::from_raw(event.kind) == Some(EventKind::ResetReceived);
    // Untranslated, an entry's reply tuple is the inverse of its original: one key stands for both.
    let same_tuple = event.flags & FLAG_REPLY != 0 && event.orig.flow_key() == event.reply.flow_key();
    let exact = event.flags & FLAG_NAT != 0 || (received && same_tuple);
    Some(ResetVerdict {
        cause: CAUSE_EVICTED,
        confidence: if exact { CONFIDENCE_EXACT } else { CONFIDENCE_WINDOW },
        age: token.age,
    })
}

/// Was an earlier reset of the same connection matched already? Then log it, but do not count it again.
#[must_use]
pub fn is_repeated(event: &Event) -> bool {
    event.flags & FLAG_REPEATED != 0
}

#[cfg(test)]
mod tests {
    use conntrack_common::Tuple;

    use super::super::decode::tests::tuple;
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    fn inverse(tuple: Tuple) -> Tuple {
        Tuple { saddr: tuple.daddr, daddr: tuple.saddr, sport: tuple.dport, dport: tuple.sport, ..tuple }
    }

    fn reset(kind: EventKind, flags: u32, age_s: u64) -> Event {
        let orig = tuple("10.244.1.5", 40000, "192.0.2.9", 443);
        Event {
            ktime_ns: 1_000 * SECOND,
            kind: kind as u32,
            flags: flags | FLAG_REPLY,
            netns: 1,
            ifindex: 0,
            cgroup_id: 0,
            status: 0,
            token_netns: 2,
            token_ktime_ns: (1_000 - age_s) * SECOND,
            token_kind: EventKind::EvictedEarlyDrop as u32,
            suppressed: 0,
            orig: inverse(orig),
            reply: orig,
            account: 0,
            responder: 0,
        }
    }

    #[test]
    fn a_translated_flows_reset_is_exact() {
        let mut event = reset(EventKind::ResetSent, FLAG_NAT, 2);
        event.orig = tuple("192.0.2.9", 443, "203.0.113.1", 40000);
        let verdict = judge(&event, reset_window()).unwrap();
        assert_eq!((verdict.cause, verdict.confidence), ("evicted", "exact"));
        assert_eq!(verdict.age, Duration::from_secs(2));
    }

    #[test]
    fn untranslated_resets_are_exact_only_when_received() {
        let received = judge(&reset(EventKind::ResetReceived, 0, 2), reset_window()).unwrap();
        assert_eq!(received.confidence, "exact");
        let sent = judge(&reset(EventKind::ResetSent, 0, 2), reset_window()).unwrap();
        assert_eq!(sent.confidence, "window");
        let mut other = reset(EventKind::ResetReceived, 0, 2);
        other.orig.sport = 444;
        assert_eq!(judge(&other, reset_window()).unwrap().confidence, "window");
        let mut no_tuple = reset(EventKind::ResetReceived, 0, 2);
        no_tuple.flags = 0;
        assert_eq!(judge(&no_tuple, reset_window()).unwrap().confidence, "window");
    }

    #[test]
    fn the_window() {
        assert_eq!(reset_window(), Duration::from_secs(120));
        assert!(judge(&reset(EventKind::ResetSent, FLAG_NAT, 120), reset_window()).is_some());
        assert_eq!(judge(&reset(EventKind::ResetSent, FLAG_NAT, 121), reset_window()), None);
    }

    #[test]
    fn what_no_eviction_explains() {
        let mut later = reset(EventKind::ResetSent, FLAG_NAT, 0);
        later.token_ktime_ns += 1;
        assert_eq!(judge(&later, reset_window()), None);
        let mut none = reset(EventKind::ResetSent, 0, 0);
        none.token_ktime_ns = 0;
        assert_eq!(judge(&none, reset_window()), None);
        let mut kind = reset(EventKind::ResetSent, FLAG_NAT, 1);
        kind.token_kind = EventKind::RefusedTableFull as u32;
        assert_eq!(judge(&kind, reset_window()), None);
        assert_eq!(judge(&reset(EventKind::RefusedTableFull, FLAG_NAT, 1), reset_window()), None);
    }

    #[test]
    fn the_other_end_of_a_connection_is_marked() {
        assert!(is_repeated(&reset(EventKind::ResetReceived, FLAG_NAT | FLAG_REPEATED, 1)));
        assert!(!is_repeated(&reset(EventKind::ResetReceived, FLAG_NAT, 1)));
    }
}
