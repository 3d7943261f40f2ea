//! What is lost without each probe, and what then stands in: for `doctor` and docs/kernels.md.

use crate::export::coverage::{
    ALLOC, AUDIT, CLASH, CONFIRM, DELETE, EARLY_DROP, FREE, GC, INVALID, KFREE_SKB, RETRANSMIT, STATE,
};

/// What it means that a probe is not attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Without {
    /// What is not seen.
    pub lost: &'static str,
    /// What stands in for it; None: nothing.
    pub instead: Option<&'static str>,
}

const fn without(lost: &'static str, instead: &'static str) -> Without {
    Without { lost, instead: Some(instead) }
}

const fn nothing_instead(lost: &'static str) -> Without {
    Without { lost, instead: None }
}

/// By a probe's name. None: not a probe of the table.
#[must_use]
pub fn of(probe: &str) -> Option<Without> {
    Some(match probe {
        FREE => nothing_instead(
            "the books of entries (conntrack_accounted_entries) beside the kernel's own count",
        ),
        EARLY_DROP => without(
            "refusals by a full table told apart from those by lack of memory, and evictions by early_drop singly",
            "events of refusals without their reason; the kernel's drop and early_drop statistics",
        ),
        GC => nothing_instead(
            "evictions by the garbage collector under pressure, of which the kernel has no statistic",
        ),
        DELETE => without(
            "evictions singly, their owners, and the resets they cause",
            "the kernel's early_drop statistic",
        ),
        CLASH => without("insert races lost, singly", "the kernel's insert_failed statistic"),
        CONFIRM => without(
            "entries inserted, and inserts that failed, by reason",
            "the kernel's insert_failed and chain_too_long statistics; inserts have none",
        ),
        ALLOC => without(
            "refusals with their addresses and owners, exactly, and the books of entries",
            "refusals inferred from kfree_skb while a table is at its limit; the kernel's drop statistic",
        ),
        AUDIT => nothing_instead(
            "owners of entries older than this program, which are nobody's known, and the repair of the books by owner",
        ),
        KFREE_SKB => without(
            "the socket and device of a refused packet, and so some owners",
            "addresses and namespaces alone; without probes on conntrack the kernel's drop statistic is all there is",
        ),
        "send_reset" => nothing_instead("resets this node sends, and so those of evicted connections"),
        "receive_reset" => nothing_instead("resets this node receives, and so those of evicted connections"),
        INVALID => without(
            "resets caused by INVALID packets that pass untranslated, which count as unrelated",
            "the kernel's invalid statistic",
        ),
        STATE => nothing_instead(
            "connections given up, or late, because they were refused; timeouts that nothing here explains",
        ),
        RETRANSMIT => without(
            "stalls of open connections whose data was refused, where no packet of theirs is refused again",
            "a packet of theirs that is refused again",
        ),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::probe::table::PROBES;

    #[test]
    fn every_probe_of_the_table_is_told() {
        for probe in PROBES {
            assert!(of(probe.name).is_some(), "say in probe/without.rs what is lost without {}", probe.name);
        }
        assert_eq!(of("no such probe"), None);
    }
}
