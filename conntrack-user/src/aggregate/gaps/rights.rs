//! Gaps by what this kernel, and this process's rights in it, allow.

use super::Gap;
use crate::aggregate::snapshot::ProbeState;
use crate::drain::surroundings::Surroundings;
use crate::export::coverage::{NOT_ATTACHED, attached};

/// (bit, name, what is lost without it). `CAP_SYS_ADMIN` stands for the first two.
const WANTED: [(u32, &str, &str); 5] = [
    (39, "CAP_BPF", "no probe can be loaded"),
    (38, "CAP_PERFMON", "no probe can be attached"),
    (12, "CAP_NET_ADMIN", "tables and rules cannot be read"),
    (21, "CAP_SYS_ADMIN", "the namespaces of pods cannot be entered"),
    (19, "CAP_SYS_PTRACE", "other users' processes, and so their namespaces, are not found"),
];
const SYS_ADMIN: u32 = 21;

/// Has the process this capability? None: not known.
fn has(around: &Surroundings, bit: u32) -> Option<bool> {
    let held = |bit: u32| Some(around.capabilities? & (1 << bit) != 0);
    Some(held(bit)? || (matches!(bit, 38 | 39) && held(SYS_ADMIN)?))
}

/// May it load and attach BPF programs, as far as capabilities go? None: not known.
pub(crate) fn may_load(around: &Surroundings) -> Option<bool> {
    Some(has(around, 39)? && has(around, 38)?)
}

pub(super) fn capabilities(around: &Surroundings) -> Gap {
    const KIND: &str = "capabilities";
    if around.capabilities.is_none() {
        return Gap::unknown(KIND, "this process's capabilities could not be read", "look at --path.procfs");
    }
    let missing: Vec<_> = WANTED.iter().filter(|(bit, ..)| has(around, *bit) == Some(false)).collect();
    if missing.is_empty() {
        return Gap::absent(KIND);
    }
    let means: Vec<_> = missing.iter().map(|(_, name, lost)| format!("{name} is missing: {lost}")).collect();
    let names: Vec<_> = missing.iter().map(|(_, name, _)| *name).collect();
    Gap::present(KIND, means.join("; "), &format!("run as root, or add {}", names.join(", ")))
}

pub(super) fn user_namespace(around: &Surroundings) -> Gap {
    const KIND: &str = "user_namespace";
    match around.user_namespace {
        Some(false) => Gap::absent(KIND),
        Some(true) => Gap::present(
            KIND,
            "this process is in a user namespace: its capabilities count for nothing outside, so no probe loads and \
             the host's namespaces cannot be entered",
            "run it in the initial user namespace (no rootless container, `hostUsers: true`)",
        ),
        None => {
            Gap::unknown(KIND, "this process's user namespace could not be read", "look at --path.procfs")
        }
    }
}

pub(super) fn lockdown(around: &Surroundings) -> Gap {
    const KIND: &str = "lockdown";
    // Not to be read where securityfs is not mounted: then the probes' own errors tell.
    match around.lockdown.as_deref() {
        Some("confidentiality") => Gap::present(
            KIND,
            "kernel lockdown is in confidentiality mode: BPF programs may not read kernel memory and kprobes are \
             refused",
            "boot with lockdown=integrity or none; until then the kernel's statistics are all there is",
        ),
        _ => Gap::absent(KIND),
    }
}

pub(super) fn btf(around: &Surroundings) -> Gap {
    const KIND: &str = "no_btf";
    if around.btf {
        return Gap::absent(KIND);
    }
    Gap::present(
        KIND,
        "the kernel has no BTF (/sys/kernel/btf/vmlinux), from which the probes know its structures: none is loaded, \
         and refusals, evictions and resets are not seen singly",
        "boot a kernel with CONFIG_DEBUG_INFO_BTF=y, or mount /sys and name it with --path.sysfs; the kernel's \
         statistics stay exact",
    )
}

pub(super) fn kprobes(around: &Surroundings) -> Gap {
    const KIND: &str = "no_kprobes";
    if around.kprobes {
        return Gap::absent(KIND);
    }
    Gap::present(
        KIND,
        "the kernel has no kprobes: nothing can be hooked on conntrack by them",
        "boot a kernel with CONFIG_KPROBE_EVENTS=y, as distributions' have; until then refusals are inferred from \
         kfree_skb and evictions are the kernel's own statistic",
    )
}

/// Refused: some probe says that fentry failed.
pub(super) fn fentry(around: &Surroundings, probes: &[ProbeState]) -> Gap {
    const KIND: &str = "no_fentry";
    let failed = probes.iter().find_map(|p| {
        let reason = p.reason.as_deref().filter(|_| p.mechanism != "fentry")?;
        reason.split("; ").find_map(|part| part.strip_prefix("fentry: ").map(|why| (p, why)))
    });
    let Some((probe, why)) = failed else { return Gap::absent(KIND) };
    let instead = if attached(probe) {
        format!(
            "it is attached by {}, whose runs the kernel can skip (conntrack_probe_missed_total)",
            probe.mechanism
        )
    } else {
        "it is not attached at all".to_owned()
    };
    let advice = if around.btf && probe.mechanism != NOT_ATTACHED {
        "counts are exact while nothing is missed; fentry on a module needs its BTF, which kernels before 5.11 lack"
    } else {
        "boot a kernel that allows fentry or kprobes; the kernel's statistics stay exact"
    };
    Gap::present(KIND, format!("fentry is refused for {} ({why}): {instead}", probe.probe), advice)
}

pub(super) fn hidden_namespaces(around: &Surroundings) -> Gap {
    const KIND: &str = "hidden_namespaces";
    if around.denied == 0 {
        return Gap::absent(KIND);
    }
    Gap::present(
        KIND,
        format!(
            "processes that cannot be looked at: {}; a namespace that only such are in is not found",
            around.denied
        ),
        "run as root with CAP_SYS_PTRACE in the host's PID and user namespace",
    )
}
