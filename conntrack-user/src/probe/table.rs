//! The probes as data: what each serves and the ways to attach it, best first.

use conntrack_common::turn::Twin;

use crate::cli::MechanismArg;
use crate::export::coverage::{
    ALLOC, AUDIT, CLASH, CONFIRM, DELETE, EARLY_DROP, FREE, GC, INVALID, KFREE_SKB, RETRANSMIT, STATE,
};

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
    /// Their twins, in the same order: see [`conntrack_common::turn`]. Without them the way still serves.
    pub twins: Option<(Twin, &'static [(&'static str, Hook)])>,
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
    /// Only where programs can exchange a word if it is what they expect (5.12 and later).
    WithExchange,
    /// Only where they cannot.
    WithoutExchange,
}

/// What decides over conditions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Given {
    /// Refusals are seen at the function that refuses.
    pub alloc_attached: bool,
    /// Programs can compare and exchange.
    pub exchange: bool,
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

/// The mechanism of tracing programs.
pub const FENTRY: &str = "fentry";
/// The mechanism of kprobes and kretprobes.
pub const KPROBE: &str = "kprobe";

impl Probe {
    /// The mechanism that `NAME:MECHANISM` names, if that is a way of this probe.
    #[must_use]
    pub fn way_meant(&self, text: &str) -> Option<&'static str> {
        let mechanism = text.strip_prefix(self.name)?.strip_prefix(':')?;
        self.ways.iter().map(|(_, way)| way.mechanism).find(|way| *way == mechanism)
    }

    /// Whether the text names this probe or one way of it.
    #[must_use]
    pub fn is_meant(&self, text: &str) -> bool {
        text == self.name || self.way_meant(text).is_some()
    }
}

type Programs = &'static [(&'static str, Hook)];

const fn fentry(programs: Programs) -> (Condition, Way) {
    (Condition::Always, Way { mechanism: FENTRY, programs, twins: None })
}

const fn twice(programs: Programs, twin: Twin, twins: Programs) -> (Condition, Way) {
    (Condition::Always, Way { mechanism: FENTRY, programs, twins: Some((twin, twins)) })
}

const fn kprobe(programs: Programs) -> (Condition, Way) {
    kprobe_if(Condition::Always, programs)
}

const fn kprobe_if(condition: Condition, programs: Programs) -> (Condition, Way) {
    (condition, Way { mechanism: KPROBE, programs, twins: None })
}

const fn raw(condition: Condition, programs: Programs) -> (Condition, Way) {
    (condition, Way { mechanism: "raw_tracepoint", programs, twins: None })
}

const ALLOC_FN: Hook = Hook::Function(&["__nf_conntrack_alloc"]);
const FREE_FN: Hook = Hook::Function(&["nf_conntrack_free"]);
const EARLY_DROP_FN: Hook = Hook::Function(&["early_drop"]);
const GC_FN: Hook = Hook::Function(&["gc_worker"]);
// On 5.10 what runs is the part that the compiler split off, which only a kprobe reaches.
const DELETE_FN: Hook = Hook::Function(&["nf_ct_delete.part.0", "nf_ct_delete"]);
const DELETE_WHOLE: Hook = Hook::Function(&["nf_ct_delete"]);
const CONFIRM_FN: Hook = Hook::Function(&["__nf_conntrack_confirm"]);
const CLASH_FN: Hook = Hook::Function(&["nf_ct_resolve_clash"]);
const INVALID_FN: Hook = Hook::Function(&["nf_ct_l4proto_log_invalid"]);
const AUDIT_FN: Hook = Hook::Function(&["nf_ct_get_id"]);

/// Every probe, in the order of attachment: `early_drop` before `alloc`, which relies on its mark; frees
/// before allocations, so that no entry is ever counted in and not out.
pub const PROBES: &[Probe] = &[
    Probe {
        name: FREE,
        purpose: "entries that stop counting against the limit",
        ways: &[
            twice(&[("free_entry", FREE_FN)], Twin::Free, &[("free_entry_again", FREE_FN)]),
            kprobe_if(Condition::WithExchange, &[("free_enter", FREE_FN)]),
            kprobe_if(Condition::WithoutExchange, &[("free_enter_old", FREE_FN)]),
        ],
    },
    Probe {
        name: EARLY_DROP,
        purpose: "table full proper",
        ways: &[
            twice(
                &[("early_drop_entry", EARLY_DROP_FN), ("early_drop_exit", EARLY_DROP_FN)],
                Twin::EarlyDrop,
                &[("early_drop_entry_again", EARLY_DROP_FN), ("early_drop_exit_again", EARLY_DROP_FN)],
            ),
            kprobe(&[("early_drop_enter", EARLY_DROP_FN), ("early_drop_return", EARLY_DROP_FN)]),
        ],
    },
    Probe {
        name: GC,
        purpose: "evictions by the garbage collector told apart",
        ways: &[
            fentry(&[("gc_entry", GC_FN), ("gc_exit", GC_FN)]),
            kprobe(&[("gc_enter", GC_FN), ("gc_return", GC_FN)]),
        ],
    },
    Probe {
        name: DELETE,
        purpose: "evictions under pressure",
        ways: &[
            twice(&[("delete_exit", DELETE_WHOLE)], Twin::Delete, &[("delete_exit_again", DELETE_WHOLE)]),
            kprobe(&[("delete_enter", DELETE_FN), ("delete_return", DELETE_FN)]),
        ],
    },
    Probe {
        name: CLASH,
        purpose: "insert races lost",
        ways: &[
            twice(&[("clash_exit", CLASH_FN)], Twin::Clash, &[("clash_exit_again", CLASH_FN)]),
            kprobe(&[("clash_enter", CLASH_FN), ("clash_return", CLASH_FN)]),
        ],
    },
    Probe {
        name: CONFIRM,
        purpose: "entries inserted by the packet path, and inserts that failed",
        ways: &[
            twice(&[("confirm_exit", CONFIRM_FN)], Twin::Confirm, &[("confirm_exit_again", CONFIRM_FN)]),
            kprobe_if(
                Condition::WithExchange,
                &[("confirm_enter", CONFIRM_FN), ("confirm_return", CONFIRM_FN)],
            ),
            kprobe_if(
                Condition::WithoutExchange,
                &[("confirm_enter_old", CONFIRM_FN), ("confirm_return_old", CONFIRM_FN)],
            ),
        ],
    },
    Probe {
        name: ALLOC,
        purpose: "allocations and refusals",
        ways: &[
            twice(&[("alloc_exit", ALLOC_FN)], Twin::Alloc, &[("alloc_exit_again", ALLOC_FN)]),
            kprobe_if(Condition::WithExchange, &[("alloc_enter", ALLOC_FN), ("alloc_return", ALLOC_FN)]),
            kprobe_if(
                Condition::WithoutExchange,
                &[("alloc_enter_old", ALLOC_FN), ("alloc_return_old", ALLOC_FN)],
            ),
        ],
    },
    Probe {
        name: AUDIT,
        purpose: "entries that a dump shows, and no account holds",
        ways: &[
            fentry(&[("audit_entry", AUDIT_FN)]),
            kprobe_if(Condition::WithExchange, &[("audit_enter", AUDIT_FN)]),
            kprobe_if(Condition::WithoutExchange, &[("audit_enter_old", AUDIT_FN)]),
        ],
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
            fentry(&[
                ("send_reset_entry", Hook::Function(&["tcp_v4_send_reset"])),
                ("send_reset_entry", Hook::Function(&["tcp_v6_send_reset"])),
            ]),
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
    Probe {
        name: INVALID,
        purpose: "INVALID packets of translated connections, and so the resets they cause",
        ways: &[kprobe(&[("invalid_enter", INVALID_FN)])],
    },
    Probe {
        name: STATE,
        purpose: "connection attempts that come to an end",
        ways: &[raw(
            Condition::Always,
            &[("inet_sock_set_state", Hook::RawTracepoint("inet_sock_set_state"))],
        )],
    },
    Probe {
        name: RETRANSMIT,
        purpose: "retransmissions of open connections",
        ways: &[raw(Condition::Always, &[("tcp_retransmit_skb", Hook::RawTracepoint("tcp_retransmit_skb"))])],
    },
];

/// Whether a way is among those asked for. Raw tracepoints always are: nobody has to do without them.
fn allowed(mechanism: &str, asked: MechanismArg) -> bool {
    match asked {
        MechanismArg::Auto => true,
        MechanismArg::Fentry => mechanism != KPROBE,
        MechanismArg::Kprobe => mechanism != FENTRY,
        MechanismArg::None => mechanism != FENTRY && mechanism != KPROBE,
    }
}

/// Names of every function that some way attaches to by fentry.
pub fn traced() -> impl Iterator<Item = &'static str> {
    let ways = PROBES.iter().flat_map(|probe| probe.ways).filter(|(_, way)| way.mechanism == FENTRY);
    ways.flat_map(|(_, way)| way.programs)
        .flat_map(|(_, hook)| match hook {
            Hook::Function(names) => *names,
            Hook::RawTracepoint(_) => &[],
        })
        .copied()
}

/// The ways of a probe that apply, best first, given the mechanism asked for and what decides over conditions.
pub fn plan(probe: &Probe, asked: MechanismArg, given: Given) -> impl Iterator<Item = Way> {
    probe.ways.iter().filter_map(move |(condition, way)| {
        let applies = match condition {
            Condition::Always => true,
            Condition::WithAlloc => given.alloc_attached,
            Condition::WithoutAlloc => !given.alloc_attached,
            Condition::WithExchange => given.exchange,
            Condition::WithoutExchange => !given.exchange,
        };
        (applies && allowed(way.mechanism, asked)).then_some(*way)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const RECENT: Given = Given { alloc_attached: true, exchange: true };

    fn programs(asked: MechanismArg) -> Vec<&'static str> {
        let given = Given { alloc_attached: false, exchange: true };
        PROBES.iter().flat_map(|p| plan(p, asked, given)).flat_map(|w| w.programs).map(|p| p.0).collect()
    }

    #[test]
    fn without_probes_on_conntrack_only_raw_tracepoints_are_planned() {
        assert_eq!(
            programs(MechanismArg::None),
            [
                "kfree_skb_inferred",
                "tcp_send_reset",
                "tcp_receive_reset",
                "inet_sock_set_state",
                "tcp_retransmit_skb"
            ]
        );
    }

    #[test]
    fn fentry_comes_first_and_one_mechanism_alone_can_be_asked_for() {
        for probe in PROBES {
            let order: Vec<_> = plan(probe, MechanismArg::Auto, RECENT).map(|w| w.mechanism).collect();
            // No tracing program can be attached to a variadic function.
            if order.contains(&KPROBE) && probe.name != INVALID {
                assert_eq!(order[..2], [FENTRY, KPROBE], "{}", probe.name);
            }
        }
        let (fentry, kprobe) = (programs(MechanismArg::Fentry), programs(MechanismArg::Kprobe));
        assert!(fentry.contains(&"alloc_exit") && !fentry.contains(&"alloc_return"));
        assert!(kprobe.contains(&"alloc_return") && !kprobe.contains(&"alloc_exit"));
        assert!(fentry.contains(&"tcp_receive_reset") && kprobe.contains(&"tcp_receive_reset"));
    }

    #[test]
    fn fentry_goes_by_plain_names() {
        assert!(traced().any(|name| name == "__nf_conntrack_alloc"));
        assert!(traced().all(|name| !name.contains('.')));
    }

    #[test]
    fn a_refusal_is_either_counted_or_inferred() {
        let kfree = PROBES.iter().find(|p| p.name == KFREE_SKB).unwrap();
        let first = |alloc_attached| {
            let given = Given { alloc_attached, ..RECENT };
            plan(kfree, MechanismArg::Auto, given).next().unwrap().programs[0].0
        };
        assert_eq!((first(true), first(false)), ("kfree_skb", "kfree_skb_inferred"));
    }

    #[test]
    fn what_keeps_places_keeps_them_one_way() {
        for (exchange, old) in [(true, false), (false, true)] {
            let given = Given { alloc_attached: true, exchange };
            for name in [ALLOC, CONFIRM, FREE] {
                let probe = PROBES.iter().find(|p| p.name == name).unwrap();
                let way = plan(probe, MechanismArg::Kprobe, given).next().unwrap();
                assert_eq!(way.programs.last().unwrap().0.ends_with("_old"), old, "{name}");
            }
        }
    }

    #[test]
    fn a_twin_is_its_program_again() {
        for way in PROBES.iter().flat_map(|probe| probe.ways).map(|(_, way)| way) {
            let Some((_, twins)) = way.twins else { continue };
            let again: Vec<_> =
                way.programs.iter().map(|(name, hook)| (format!("{name}_again"), *hook)).collect();
            let twins: Vec<_> = twins.iter().map(|(name, hook)| ((*name).to_owned(), *hook)).collect();
            assert_eq!(again, twins);
        }
    }
}
