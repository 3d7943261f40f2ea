//! Generates cgroup paths by the grammar of the runtimes that make them, each with the owner it proves.

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;
use proptest::strategy::Union;

/// Whose a path is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Whose {
    /// A pod's: its uid as the API spells it, and the container.
    Pod(String, Option<String>),
    /// A container's or a service's, that is of the cgroup with this path.
    Cgroup(Vec<u8>),
}

/// A path and whose it is.
pub(super) type Case = (Vec<u8>, Whose);

/// A container's id.
pub(super) fn id() -> impl Strategy<Value = String> + Clone {
    "[0-9a-f]{64}"
}

/// A pod's uid as the API spells it; a static pod's one time in four.
pub(super) fn uid() -> impl Strategy<Value = String> + Clone {
    prop_oneof![3 => "[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}", 1 => "[0-9a-f]{32}"]
}

/// What a workload may put below its own cgroup: plain names, other runtimes' shapes, imitations of pods, long
/// names and bytes of any kind.
fn children() -> impl Strategy<Value = Vec<u8>> {
    let imitation = (uid(), id(), class()).prop_flat_map(|(uid, id, class)| {
        let underscored = uid.replace('-', "_");
        select(vec![
            format!("kubepods/pod{uid}/{id}"),
            format!("kubepods/burstable/pod{uid}"),
            format!("kubepods.slice/kubepods-{class}-pod{underscored}.slice/cri-containerd-{id}.scope"),
            format!("kubepods-pod{underscored}.slice:cri-containerd:{id}"),
            format!("docker/{id}/kubelet/kubepods/pod{uid}/{id}"),
            format!("docker-{id}.scope/kubepods/pod{uid}/{id}"),
            format!("containerd.service/kubepods/pod{uid}/{id}"),
            format!("../pod{uid}/{id}"),
        ])
    });
    let any_name =
        vec(any::<u8>().prop_filter("cannot be in a name", |b| !matches!(b, b'/' | b'\n' | 0)), 1..64);
    let plain = select(vec![
        "worker",
        "init.scope",
        "system.slice",
        "user.slice",
        "a b",
        "x:y:z",
        "..x",
        "app.service",
    ]);
    let one = Union::new(vec![
        plain.prop_map(|name| name.as_bytes().to_vec()).boxed(),
        imitation.prop_map(String::into_bytes).boxed(),
        any_name.boxed(),
        // The longest name there is: a path of 4 KiB has sixteen.
        Just(vec![b'n'; 255]).boxed(),
    ]);
    vec(one, 0..4)
        .prop_map(|names| names.into_iter().flat_map(|name| [b"/".to_vec(), name].concat()).collect())
}

/// The class of a pod that has one.
fn class() -> impl Strategy<Value = &'static str> + Clone {
    select(vec!["burstable", "besteffort"])
}

/// The classes, "" for guaranteed.
fn any_class() -> impl Strategy<Value = &'static str> + Clone {
    select(vec!["", "burstable", "besteffort"])
}

/// Where a kubelet's cgroups begin by the cgroupfs driver: at the root, in a node that is a container, or elsewhere.
fn cgroupfs_root() -> impl Strategy<Value = Vec<String>> + Clone {
    id().prop_flat_map(|id| {
        select(vec![
            vec![],
            vec![],
            vec!["docker".to_owned(), id.clone(), "kubelet".to_owned()],
            vec!["system.slice".to_owned(), format!("docker-{id}.scope"), "kubelet".to_owned()],
            vec!["lxc.payload.node".to_owned()],
            vec!["k8s".to_owned()],
        ])
    })
}

/// Parts of a pod's path down to the pod, and the uid: cgroupfs driver.
fn cgroupfs_pod() -> impl Strategy<Value = (Vec<String>, String, bool)> {
    (cgroupfs_root(), any_class(), uid()).prop_map(|(mut parts, class, uid)| {
        parts.push("kubepods".to_owned());
        parts.extend(Some(class.to_owned()).filter(|class| !class.is_empty()));
        parts.push(format!("pod{uid}"));
        (parts, uid, false)
    })
}

/// The same by the systemd driver: every level repeats those above it, and a dash in the uid is `_`.
fn systemd_pod() -> impl Strategy<Value = (Vec<String>, String, bool)> {
    (select(vec!["", "kubelet-", "a_b-c-"]), any_class(), uid()).prop_map(|(root, class, uid)| {
        let mut parts = Vec::new();
        let mut name = String::new();
        let class = if class.is_empty() { vec![] } else { vec![class.to_owned()] };
        let levels = root.split_terminator('-').map(str::to_owned).chain(["kubepods".to_owned()]);
        for level in levels.chain(class).chain([format!("pod{}", uid.replace('-', "_"))]) {
            name = if name.is_empty() { level } else { format!("{name}-{level}") };
            parts.push(format!("{name}.slice"));
        }
        (parts, uid, true)
    })
}

/// The container's part of a pod's path, and its id; None: the pod's own cgroup.
fn in_pod(systemd: bool) -> impl Strategy<Value = Option<(String, String)>> {
    let prefixes: Vec<&str> = if systemd {
        vec!["cri-containerd-", "crio-", "docker-", "crio-conmon-"]
    } else {
        vec!["", "crio-", "crio-conmon-"]
    };
    let part = (id(), select(prefixes))
        .prop_map(move |(id, prefix)| (format!("{prefix}{id}{}", if systemd { ".scope" } else { "" }), id));
    prop_oneof![1 => Just(None), 4 => part.prop_map(Some)]
}

fn joined(parts: &[String]) -> Vec<u8> {
    parts.iter().flat_map(|part| [b"/", part.as_bytes()].concat()).collect()
}

/// " (deleted)" one time in five, as the kernel says of a removed cgroup.
fn ending() -> impl Strategy<Value = &'static str> {
    prop_oneof![4 => Just(""), 1 => Just(" (deleted)")]
}

/// A pod's path from the hierarchy's root, or from within another cgroup namespace, which hides what is above.
pub(super) fn pod() -> impl Strategy<Value = Case> {
    let nested = prop_oneof![cgroupfs_pod(), systemd_pod()].prop_flat_map(|(parts, uid, systemd)| {
        let depth = parts.len();
        (
            Just((parts, uid)),
            in_pod(systemd),
            children(),
            prop_oneof![Just(None), (0..depth).prop_map(Some)],
            ending(),
        )
    });
    let nested = nested.prop_map(|((mut parts, uid), container, children, hidden, ending)| {
        let mut path: Vec<u8> = Vec::new();
        if let Some(hidden) = hidden {
            path = b"/..".repeat(hidden + 1);
            parts.drain(..hidden);
        }
        path.extend(joined(&parts));
        let (part, id) = container.unzip();
        // Only a container has children of its own making.
        let below = if part.is_some() { children } else { Vec::new() };
        path.extend(part.iter().flat_map(|part| [b"/", part.as_bytes()].concat()));
        path.extend(below);
        path.extend(ending.as_bytes());
        (path, Whose::Pod(uid, id))
    });
    // A runtime told cgroupfs below a kubelet that speaks systemd.
    let colons = (select(vec!["containerd", "crio", "docker"]), class(), uid(), id(), ending());
    let colons = colons.prop_map(|(service, class, uid, id, ending)| {
        let slice = format!("kubepods-{class}-pod{}.slice", uid.replace('-', "_"));
        let path = format!("/system.slice/{service}.service/{slice}:cri-containerd:{id}{ending}");
        (path.into_bytes(), Whose::Pod(uid, Some(id)))
    });
    prop_oneof![9 => nested, 1 => colons]
}

/// The path of a container that is in no pod, by every runtime and driver.
pub(super) fn container() -> impl Strategy<Value = Case> {
    let own = (id(), id()).prop_flat_map(|(id, other)| {
        select(vec![
            (format!("/docker/{id}"), String::new()),
            (format!("/system.slice/docker-{id}.scope"), String::new()),
            (format!("/system.slice:docker:{id}"), String::new()),
            (format!("/ci.slice/docker-{id}.scope"), String::new()),
            (format!("/machine.slice/libpod-{id}.scope"), "/container".to_owned()),
            (format!("/machine.slice/libpod-conmon-{id}.scope"), String::new()),
            (format!("/libpod_parent/libpod-{id}"), String::new()),
            (
                format!("/machine.slice/machine-libpod_pod_{id}.slice"),
                format!("/libpod-{other}.scope/container"),
            ),
            (format!("/libpod_parent/{id}"), format!("/libpod-{other}")),
            (
                format!("/user.slice/user-1000.slice/user@1000.service/user.slice/libpod-{id}.scope"),
                String::new(),
            ),
            (
                format!("/user.slice/user-1000.slice/user@1000.service/app.slice/docker-{id}.scope"),
                String::new(),
            ),
            (format!("/default/{id}"), String::new()),
            (format!("/system.slice/nerdctl-{id}.scope"), String::new()),
            (format!("/system.slice/crio-{id}.scope"), String::new()),
            (format!("/ci/{id}"), String::new()),
        ])
    });
    // The container's cgroup may not be imitated by what it makes below: only pods are told from there, of nodes that are
    // containers themselves.
    let below = select(vec!["", "/init.scope", "/system.slice/nginx.service", "/docker/x", "/user.slice"]);
    (own, below, ending()).prop_map(|((own, inner), below, ending)| {
        let path = format!("{own}{inner}{below}{ending}");
        (path.into_bytes(), Whose::Cgroup(own.into_bytes()))
    })
}

/// The path of a service or a login session, whatever it makes below.
pub(super) fn service() -> impl Strategy<Value = Case> {
    let own = select(vec![
        "/system.slice/sshd.service",
        "/system.slice/system-serial\\x2dgetty.slice/serial-getty@ttyS0.service",
        "/init.scope",
        "/system.slice/run-r1a2b.scope",
        "/machine.slice/machine-web.scope",
        "/machine.slice/systemd-nspawn@web.service",
        "/system.slice/kubepods.service",
    ]);
    let session = select(vec![
        "/user.slice/user-1000.slice/session-1.scope",
        "/user.slice/user-1000.slice/user@1000.service",
    ]);
    // Containers of users are told apart, which only their own owner can imitate: see `container`.
    let is_container = |below: &[u8]| below.windows(64).any(|w| w.iter().all(u8::is_ascii_hexdigit));
    let below =
        children().prop_map(move |below| if is_container(&below) { strip_ids(&below) } else { below });
    (prop_oneof![own, session], below, ending()).prop_map(|(own, below, ending)| {
        let path = [own.as_bytes(), &below, ending.as_bytes()].concat();
        (path, Whose::Cgroup(own.as_bytes().to_vec()))
    })
}

/// The same, with what could be a container's id made shorter.
fn strip_ids(below: &[u8]) -> Vec<u8> {
    let mut run = 0;
    let keep = |byte: &&u8| {
        run = if byte.is_ascii_hexdigit() { run + 1 } else { 0 };
        run < 64
    };
    below.iter().filter(keep).copied().collect()
}

/// Any path of those.
pub(super) fn any_case() -> impl Strategy<Value = Case> {
    prop_oneof![3 => pod(), 2 => container(), 2 => service()]
}
