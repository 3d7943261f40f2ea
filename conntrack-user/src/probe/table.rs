//! The probes as data: what each serves and the ways to attach it, best first.

use crate::export::coverage::{ALLOC, CLASH, CONFIRM, DELETE, EARLY_DROP, FREE, GC, KFREE_SKB};

/// A kernel place to hook a program to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hook {
    /// Entry or return (as the program says) of the first of these functions that the kernel has.
    Function(&'static [&'static str]),
    /// A raw tracepoint.
    RawTracepoint(&'static str),
}

/// One way to get what a probe is for: all of its programs, or none.
#[derive(Clone, Copy, Debug)]
pub struct Way {
    /// As the metrics name it.
    pub mechanism: &'static str,
    /// (program in the object, hook), in the order of attachment: entry before return.
    pub programs: &'static [(&'static str, Hook)],
}

/// When a way is right.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Condition {
    /// Always.
    Always,
    /// Only where refusals are seen at the function that refuses.
    WithAlloc,
    /// Only where they are not.
    WithoutAlloc,
}

/// A probe.
#[derive(Clone, Copy, Debug)]
pub struct Probe {
    /// Its name in metrics and flags.
    pub name: &'static str,
    /// What it serves, for people.
    pub purpose: &'static str,
    /// Ways to attach it, best first.
    pub ways: &'static [(Condition, Way)],
}

const fn kprobe(programs: &'static [(&'static str, Hook)]) -> (Condition, Way) {
    (Condition::Always, Way { mechanism: "kprobe", programs })
}

const fn raw(condition: Condition, programs: &'static [(&'static str, Hook)]) -> (Condition, Way) {
    (condition, Way { mechanism: "raw_tracepoint", programs })
}

const ALLOC_FN: Hook = Hook::Function(&["__nf_conntrack_alloc"]);
const FREE_FN: Hook = Hook::Function(&["nf_conntrack_free"]);
const EARLY_DROP_FN: Hook = Hook::Function(&["early_drop"]);
const GC_FN: Hook = Hook::Function(&["gc_worker"]);
// On 5.10 what runs is the part that the compiler split off.
const DELETE_FN: Hook = Hook::Function(&["nf_ct_delete.part.0", "nf_ct_delete"]);
const CONFIRM_FN: Hook = Hook::Function(&["__nf_conntrack_confirm"]);
const CLASH_FN: Hook = Hook::Function(&["nf_ct_resolve_clash"]);

/// Every probe, in the order of attachment: `early_drop` before `alloc`, which relies on its mark; frees
/// before allocations, so that no entry is ever counted in and not out.
pub const PROBES: &[Probe] = &[
    Probe {
        name: FREE,
        purpose: "entries that stop counting against the limit",
        ways: &[kprobe(&[("free_enter", FREE_FN)])],
    },
    Probe {
        name: EARLY_DROP,
        purpose: "table full proper",
        ways: &[kprobe(&[("early_drop_enter", EARLY_DROP_FN), ("early_drop_return", EARLY_DROP_FN)])],
    },
    Probe {
        name: GC,
        purpose: "evictions by the garbage collector told apart",
        ways: &[kprobe(&[("gc_enter", GC_FN), ("gc_return", GC_FN)])],
    },
    Probe {
        name: DELETE,
        purpose: "evictions under pressure",
        ways: &[kprobe(&[("delete_enter", DELETE_FN), ("delete_return", DELETE_FN)])],
    },
    Probe {
        name: CLASH,
        purpose: "insert races lost",
        ways: &[kprobe(&[("clash_enter", CLASH_FN), ("clash_return", CLASH_FN)])],
    },
    Probe {
        name: CONFIRM,
        purpose: "entries inserted by the packet path, and inserts that failed",
        ways: &[kprobe(&[("confirm_enter", CONFIRM_FN), ("confirm_return", CONFIRM_FN)])],
    },
    Probe {
        name: ALLOC,
        purpose: "allocations and refusals",
        ways: &[kprobe(&[("alloc_enter", ALLOC_FN), ("alloc_return", ALLOC_FN)])],
    },
    Probe {
        name: KFREE_SKB,
        purpose: "the packet of a refusal: its socket and device; without probes, the refusal itself",
        ways: &[
            raw(Condition::WithAlloc, &[("kfree_skb", Hook::RawTracepoint("kfree_skb"))]),
            raw(Condition::WithoutAlloc, &[("kfree_skb_inferred", Hook::RawTracepoint("kfree_skb"))]),
        ],
    },
    Probe {
        name: "send_reset",
        purpose: "resets sent",
        ways: &[
            kprobe(&[
                ("send_reset_enter", Hook::Function(&["tcp_v4_send_reset"])),
                ("send_reset_enter", Hook::Function(&["tcp_v6_send_reset"])),
            ]),
            raw(Condition::Always, &[("tcp_send_reset", Hook::RawTracepoint("tcp_send_reset"))]),
        ],
    },
    Probe {
        name: "receive_reset",
        purpose: "resets received",
        ways: &[raw(Condition::Always, &[("tcp_receive_reset", Hook::RawTracepoint("tcp_receive_reset"))])],
    },
];

/// The ways of a probe that apply, given the mechanism forced (if any) and whether refusals are seen.
pub fn plan(probe: &Probe, kprobes: bool, alloc_attached: bool) -> impl Iterator<Item = Way> {
    probe.ways.iter().filter_map(move |(condition, way)| {
        let applies = match condition {
            Condition::Always => true,
            Condition::WithAlloc => alloc_attached,
            Condition::WithoutAlloc => !alloc_attached,
        };
        (applies && (kprobes || way.mechanism != "kprobe")).then_some(*way)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_kprobes_only_raw_tracepoints_are_planned() {
        let planned: Vec<_> =
            PROBES.iter().flat_map(|p| plan(p, false, false)).flat_map(|w| w.programs).map(|p| p.0).collect();
        assert_eq!(planned, ["kfree_skb_inferred", "tcp_send_reset", "tcp_receive_reset"]);
    }

    #[test]
    fn a_refusal_is_either_counted_or_inferred() {
        let kfree = PROBES.iter().find(|p| p.name == KFREE_SKB).unwrap();
        assert_eq!(plan(kfree, true, true).next().unwrap().programs[0].0, "kfree_skb");
        assert_eq!(plan(kfree, true, false).next().unwrap().programs[0].0, "kfree_skb_inferred");
    }
}
