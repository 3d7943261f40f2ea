//! What to do about a probe that is not attached.

use crate::aggregate::gaps::may_load;
use crate::aggregate::snapshot::ProbeState;
use crate::drain::surroundings::Surroundings;
use crate::export::coverage::attached;
use crate::probe::without;

/// One line; None for a probe that is attached.
#[must_use]
pub fn remedy(probe: &ProbeState, around: &Surroundings) -> Option<String> {
    if attached(probe) {
        return None;
    }
    let todo = todo(probe, around);
    let instead = without::of(probe.probe).and_then(|w| w.instead);
    Some(instead.map_or_else(|| todo.to_owned(), |instead| format!("{todo}; until then: {instead}")))
}

/// The first obstacle: once it is out of the way the next, if any, is told.
fn todo(probe: &ProbeState, around: &Surroundings) -> &'static str {
    let reason = probe.reason.as_deref().unwrap_or_default();
    let says = |text: &str| reason.contains(text);
    if says("--test.refuse-probe") {
        "start it without --test.refuse-probe"
    } else if says("--probe.mechanism") {
        "start it without --probe.mechanism"
    } else if !around.conntrack_loaded {
        "nothing: it is attached as soon as something loads conntrack"
    } else if may_load(around) == Some(false) {
        "run as root, or with CAP_BPF and CAP_PERFMON (before 5.8: CAP_SYS_ADMIN)"
    } else if around.user_namespace == Some(true) {
        "run it in the initial user namespace (no rootless container)"
    } else if !around.btf {
        "boot a kernel with CONFIG_DEBUG_INFO_BTF=y"
    } else if around.lockdown.as_deref() == Some("confidentiality") {
        "boot with lockdown=integrity or none"
    } else if says("gives no reason for a drop") {
        "boot Linux 5.17 or later, or one with kprobes"
    } else if says("kprobe") && !around.kprobes {
        "boot a kernel with CONFIG_KPROBE_EVENTS=y, as distributions' have"
    } else if says("No such file or directory") || says("os error 2") || says("ENOENT") {
        "nothing: this kernel has no such function or tracepoint under a known name; report its version"
    } else if says("EPERM") || says("not permitted") || says("os error 1)") {
        "let it use bpf(2) and perf_event_open(2): a seccomp profile or a security module refuses them"
    } else {
        "report this line with the kernel's version"
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::export::fixture;

    fn clear() -> Surroundings {
        Surroundings {
            conntrack_loaded: true,
            btf: true,
            kprobes: true,
            capabilities: Some(u64::MAX),
            ..Surroundings::default()
        }
    }

    fn refused(name: &'static str, reason: &str) -> ProbeState {
        ProbeState { reason: Some(reason.to_owned()), ..fixture::probe(name, "none") }
    }

    fn told(reason: &str, around: &Surroundings) -> String {
        remedy(&refused("alloc", reason), around).unwrap()
    }

    #[test]
    fn an_attached_probe_needs_none() {
        assert_eq!(remedy(&fixture::probe("alloc", "kprobe"), &clear()), None);
    }

    #[test]
    fn the_obstacle_that_comes_first_is_told_first() {
        let nothing = Surroundings { capabilities: Some(0), ..Surroundings::default() };
        let seen = told("not tried yet: conntrack is not loaded", &nothing);
        assert!(seen.starts_with("nothing: it is attached as soon"), "{seen}");
        let loaded = Surroundings { conntrack_loaded: true, ..nothing };
        assert!(told("x", &loaded).starts_with("run as root"), "{}", told("x", &loaded));
        let rightful = Surroundings { capabilities: Some(u64::MAX), ..loaded };
        assert!(told("x", &rightful).starts_with("boot a kernel with CONFIG_DEBUG_INFO_BTF"));
        let refused = told("refused by --test.refuse-probe", &clear());
        assert!(refused.starts_with("start it without --test.refuse-probe; until then: refusals inferred"));
    }

    #[test]
    fn every_reason_has_a_remedy() {
        let without_kprobes = Surroundings { kprobes: false, ..clear() };
        let file =
            "kprobe: `/sys/bus/event_source/devices/kprobe/type`: No such file or directory (os error 2)";
        assert!(told(file, &without_kprobes).starts_with("boot a kernel with CONFIG_KPROBE_EVENTS"));
        assert!(
            told("kprobe: early_drop: No such file or directory (os error 2)", &clear())
                .contains("no such function")
        );
        assert!(told("kprobe: Operation not permitted (os error 1)", &clear()).contains("seccomp"));
        assert!(told("something new", &clear()).starts_with("report this line"));
        let reset = remedy(&refused("receive_reset", "?"), &clear()).unwrap();
        assert!(!reset.contains("until then"), "nothing stands in: {reset}");
    }
}
