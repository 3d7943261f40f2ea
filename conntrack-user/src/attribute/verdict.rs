//! What the table did to a connection: its effect, its cause, and how sure that is.
//!
//! A verdict needs a token, which a refusal or an eviction left in the kernel, and which the probes matched with this
//! very flow. Nothing is ever concluded from time alone.

use conntrack_common::EventKind;
use conntrack_common::event::{FLAG_BY_KERNEL, FLAG_DATAGRAM, FLAG_LOOKUP, FLAG_NAT, FLAG_REPEATED};
use serde::Serialize;

/// What a connection suffered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Effect {
    /// A TCP connection was reset.
    Reset,
    /// A TCP connection was given up before it came about.
    ConnectTimeout,
    /// A TCP connection came about late.
    SlowConnect,
    /// An open TCP connection had to wait for a retransmission.
    Stall,
    /// A datagram was lost.
    UdpRefused,
    /// A lookup of a name was lost: its resolver waits, and asks again.
    DnsStall,
}

impl Effect {
    /// As events name it: a lookup's is a stall too.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Reset => "reset",
            Self::ConnectTimeout => "connect_timeout",
            Self::SlowConnect => "slow_connect",
            Self::Stall | Self::DnsStall => "stall",
            Self::UdpRefused => "udp_refused",
        }
    }
}

/// The table was full.
pub const CAUSE_TABLE_FULL: &str = "table_full";
/// The kernel had no memory for an entry.
pub const CAUSE_NO_MEMORY: &str = "no_memory";
/// The entry was evicted.
pub const CAUSE_EVICTED: &str = "evicted";
/// A packet of it was INVALID, and went on untranslated.
pub const CAUSE_INVALID: &str = "invalid";
/// Another packet made the same entry first.
pub const CAUSE_RACE: &str = "race";
/// Nothing seen here explains it.
pub const CAUSE_UNRELATED: &str = "unrelated";

/// The token is this very connection's, and such a token makes such an effect.
pub const CONFIDENCE_EXACT: &str = "exact";
/// It is of the same flow and near in time; something else could have made it.
pub const CONFIDENCE_WINDOW: &str = "window";
/// What left the token was concluded itself; of what is unrelated: no token is known, which is no proof of another
/// cause.
pub const CONFIDENCE_INFERRED: &str = "inferred";

/// What a connection suffered, and why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// What.
    pub effect: Effect,
    /// `CAUSE_*`.
    pub cause: &'static str,
    /// `CONFIDENCE_*`.
    pub confidence: &'static str,
    /// The rule that matched.
    pub rule: &'static str,
    /// Who gave a connection up: "kernel" or "application".
    pub by: Option<&'static str>,
}

/// The verdict on a record of this kind, with a token of that kind. None: it is no outcome, or nothing is proved.
///
/// These three, `token` and the bits of `flags` that a [`conntrack_common::SourceKey`] has, are all that is needed: so
/// the same is said of records that the limiter held back.
#[must_use]
pub fn judge(kind: EventKind, token: Option<EventKind>, flags: u32) -> Option<Verdict> {
    let verdict = |effect, (cause, confidence), rule| Verdict { effect, cause, confidence, rule, by: None };
    match kind {
        EventKind::ResetSent | EventKind::ResetReceived => {
            let (cause, rule, confidence) = of_reset(kind, token?, flags)?;
            Some(verdict(Effect::Reset, (cause, confidence), rule))
        }
        EventKind::ConnectGivenUp => {
            let by = if flags & FLAG_BY_KERNEL != 0 { "kernel" } else { "application" };
            let refused = of_refusal(token?)?;
            Some(Verdict { by: Some(by), ..verdict(Effect::ConnectTimeout, refused, "refused_never_let_in") })
        }
        EventKind::ConnectedLate => {
            Some(verdict(Effect::SlowConnect, of_refusal(token?)?, "refused_then_established"))
        }
        EventKind::Stalled => Some(verdict(Effect::Stall, of_refusal(token?)?, "refused_then_retransmitted")),
        _ if flags & FLAG_DATAGRAM != 0 => {
            let effect = if flags & FLAG_LOOKUP != 0 { Effect::DnsStall } else { Effect::UdpRefused };
            Some(verdict(effect, of_refusal(kind)?, "datagram_refused"))
        }
        _ => None,
    }
}

/// An evicted entry is to blame if it was translated: without it a reply arrives untranslated, and whoever gets it resets a
/// connection it does not know. An untranslated flow's packets arrive all the same and make its entry anew: its reset is an
/// application's that aborts, and its eviction leaves no token.
///
/// An INVALID packet of a translated entry goes on as it came: who answers that very packet with a reset got it
/// untranslated. Received, the reset may have come of something else, if it was not seen to be sent. Either is told only
/// while the entry is there and no reset has gone through it.
fn of_reset(
    kind: EventKind,
    token: EventKind,
    flags: u32,
) -> Option<(&'static str, &'static str, &'static str)> {
    let received = kind == EventKind::ResetReceived;
    Some(match token {
        EventKind::Invalid if received => (CAUSE_INVALID, "invalid_then_reset_received", CONFIDENCE_WINDOW),
        EventKind::Invalid => (CAUSE_INVALID, "invalid_answered_by_reset", CONFIDENCE_EXACT),
        EventKind::EvictedEarlyDrop | EventKind::EvictedGc if flags & FLAG_NAT != 0 => {
            (CAUSE_EVICTED, "evicted_translation_lost", CONFIDENCE_EXACT)
        }
        _ => return None,
    })
}

/// Cause and confidence, by what refused.
fn of_refusal(kind: EventKind) -> Option<(&'static str, &'static str)> {
    Some(match kind {
        EventKind::RefusedTableFull => (CAUSE_TABLE_FULL, CONFIDENCE_EXACT),
        EventKind::RefusedNoMemory => (CAUSE_NO_MEMORY, CONFIDENCE_EXACT),
        // The refusal was seen, but not whether the table was full.
        EventKind::Refused | EventKind::InferredRefusal => (CAUSE_TABLE_FULL, CONFIDENCE_INFERRED),
        EventKind::ClashLost => (CAUSE_RACE, CONFIDENCE_EXACT),
        _ => return None,
    })
}

/// Was an earlier outcome of the same connection counted already? Then log this one, but do not count it again.
#[must_use]
pub fn is_repeated(flags: u32) -> bool {
    flags & FLAG_REPEATED != 0
}

#[cfg(test)]
mod tests {
    use super::*;

    const EVICTED: Option<EventKind> = Some(EventKind::EvictedEarlyDrop);
    const FULL: Option<EventKind> = Some(EventKind::RefusedTableFull);

    fn said(
        kind: EventKind,
        token: Option<EventKind>,
        flags: u32,
    ) -> Option<(&'static str, &'static str, &'static str)> {
        judge(kind, token, flags).map(|verdict| (verdict.effect.name(), verdict.cause, verdict.confidence))
    }

    #[test]
    fn a_translated_flows_reset_is_exact() {
        assert_eq!(said(EventKind::ResetSent, EVICTED, FLAG_NAT), Some(("reset", "evicted", "exact")));
    }

    #[test]
    fn an_untranslated_flows_reset_is_not_its_evictions() {
        for kind in [EventKind::ResetReceived, EventKind::ResetSent] {
            assert_eq!(said(kind, EVICTED, 0), None, "{kind:?}");
        }
    }

    #[test]
    fn who_answers_an_invalid_packet_with_a_reset_got_it_untranslated() {
        let invalid = Some(EventKind::Invalid);
        assert_eq!(said(EventKind::ResetSent, invalid, FLAG_NAT), Some(("reset", "invalid", "exact")));
        assert_eq!(said(EventKind::ResetReceived, invalid, FLAG_NAT), Some(("reset", "invalid", "window")));
    }

    #[test]
    fn a_connection_given_up_says_by_whom() {
        let by = |flags| judge(EventKind::ConnectGivenUp, FULL, flags).unwrap();
        assert_eq!((by(FLAG_BY_KERNEL).by, by(0).by), (Some("kernel"), Some("application")));
        assert_eq!(
            said(EventKind::ConnectGivenUp, FULL, 0),
            Some(("connect_timeout", "table_full", "exact"))
        );
    }

    #[test]
    fn what_refusals_and_races_make() {
        let race = Some(EventKind::ClashLost);
        assert_eq!(said(EventKind::ConnectedLate, race, 0), Some(("slow_connect", "race", "exact")));
        assert_eq!(said(EventKind::Stalled, FULL, 0), Some(("stall", "table_full", "exact")));
        let inferred = Some(EventKind::InferredRefusal);
        assert_eq!(said(EventKind::Stalled, inferred, 0), Some(("stall", "table_full", "inferred")));
    }

    #[test]
    fn a_datagram_is_lost_when_it_is_refused() {
        let full = EventKind::RefusedTableFull;
        assert_eq!(said(full, None, FLAG_DATAGRAM), Some(("udp_refused", "table_full", "exact")));
        let raced = said(EventKind::ClashLost, None, FLAG_DATAGRAM | FLAG_LOOKUP);
        assert_eq!(raced, Some(("stall", "race", "exact")));
        assert_eq!(
            said(full, None, 0),
            None,
            "a connection's packet: what becomes of it is still to be seen"
        );
    }

    #[test]
    fn without_its_token_nothing_is_proved() {
        for kind in [
            EventKind::ResetSent,
            EventKind::ResetReceived,
            EventKind::ConnectGivenUp,
            EventKind::ConnectedLate,
            EventKind::Stalled,
        ] {
            assert_eq!(judge(kind, None, FLAG_NAT | FLAG_BY_KERNEL), None, "{kind:?}");
        }
        assert_eq!(judge(EventKind::ResetSent, FULL, FLAG_NAT), None, "a refusal makes no reset");
        assert_eq!(judge(EventKind::ConnectGivenUp, EVICTED, 0), None, "an eviction refuses nothing");
    }
}
