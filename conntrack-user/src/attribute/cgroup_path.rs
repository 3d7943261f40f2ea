//! What a cgroup path says about the workload in it.
//!
//! Paths are bytes: whoever owns a delegated cgroup names its children as they like, in any bytes but `/`
//! and newline. What looks like a pod below a login session or a service is therefore not believed, unless the
//! service is one that makes pods.

use super::pod_uid;

#[cfg(test)]
mod tests;

/// The workload a cgroup belongs to.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Workload {
    /// A Kubernetes pod, or a container of one.
    Pod {
        /// Pod uid, with dashes; 32 hexadecimal digits for a static pod.
        uid: String,
        /// The container, where the path goes as deep.
        container_id: Option<String>,
    },
    /// A container that is in no pod.
    Container {
        /// "docker", "podman", "containerd", "crio", "lxc"; "unknown" where only the id shows that it is one.
        runtime: &'static str,
        /// Its id; of podman's pods, whose containers share a network namespace, the pod's; LXC's have a name.
        id: String,
        /// Path of the container's (podman's pod's) own cgroup, children left out.
        path: Vec<u8>,
    },
    /// Anything else below the root.
    Service {
        /// Path down to the first systemd unit (`.service` or `.scope`), or all of it where there is none.
        path: Vec<u8>,
    },
    /// The root cgroup, or an ancestor of the reader's cgroup namespace: says nothing about whose it is.
    Root,
}

/// Kernel's mark of a cgroup that was removed while something still holds it.
const DELETED: &[u8] = b" (deleted)";

/// What the path of a cgroup (as in `/proc/PID/cgroup`, or relative to the cgroup mount) says.
///
/// A reader in its own cgroup namespace sees others' paths begin with `/..`; those parts are left out.
/// Of pods one in another the outermost is meant: it is the one on this node.
#[must_use]
pub fn classify(path: &[u8]) -> Workload {
    let path = path.strip_suffix(DELETED).unwrap_or(path);
    let all: Vec<&[u8]> = path.split(|&byte| byte == b'/').filter(|part| !part.is_empty()).collect();
    let relative = all.first() == Some(&&b".."[..]);
    let parts: Vec<&[u8]> = all.into_iter().filter(|part| *part != b"..").collect();
    if parts.is_empty() {
        return Workload::Root;
    }
    pod(&parts, relative)
        .or_else(|| container(&parts))
        .unwrap_or_else(|| Workload::Service { path: join(&parts[..unit_depth(&parts)]) })
}

fn pod(parts: &[&[u8]], relative: bool) -> Option<Workload> {
    for at in 0..parts.len() {
        // Who was given a cgroup may name its children like anyone's pod.
        if parts[at] == b"user.slice" || (is_unit(parts[at]) && !makes_pods(parts[at])) {
            return None;
        }
        let (slice, inner) = split_colons(parts[at]);
        if let Some(uid) = slice_uid(slice) {
            let container_id = inner.map(|(_, id)| id).or_else(|| container_id(&parts[at + 1..]));
            return Some(Workload::Pod { uid, container_id });
        }
        if let Some(uid) = parts[at].strip_prefix(b"pod").and_then(pod_uid::from_api_spelling)
            && below_kubepods(&parts[..at], relative)
        {
            return Some(Workload::Pod { uid, container_id: container_id(&parts[at + 1..]) });
        }
    }
    None
}

/// Is it a unit below which real pods are found? A container that is a node itself (kind), and the services that run
/// pods: of a runtime that is told to use cgroupfs the pods can be below it.
fn makes_pods(unit: &[u8]) -> bool {
    const SERVICES: [&[u8]; 9] = [
        b"containerd.service",
        b"crio.service",
        b"docker.service",
        b"cri-docker.service",
        b"kubelet.service",
        b"k3s.service",
        b"k3s-agent.service",
        b"rke2-server.service",
        b"rke2-agent.service",
    ];
    SERVICES.contains(&unit) || named_container(unit).is_some()
}

/// cgroupfs driver: `kubepods`, then the class for all but guaranteed pods. From inside a sibling's cgroup
/// namespace these levels may be hidden behind `..`.
fn below_kubepods(parents: &[&[u8]], relative: bool) -> bool {
    let rest = match parents {
        [rest @ .., b"burstable" | b"besteffort"] => rest,
        rest => rest,
    };
    match rest.last() {
        Some(last) => *last == b"kubepods",
        None => relative,
    }
}

/// systemd driver: `[prefix-]kubepods[-burstable|-besteffort]-pod<uid>.slice`.
fn slice_uid(part: &[u8]) -> Option<String> {
    let mut tokens = part.strip_suffix(b".slice")?.rsplit(|&byte| byte == b'-');
    let uid = tokens.next()?.strip_prefix(b"pod").and_then(pod_uid::from_slice_spelling)?;
    let mut parent = tokens.next()?;
    if parent == b"burstable" || parent == b"besteffort" {
        parent = tokens.next()?;
    }
    (parent == b"kubepods").then_some(uid)
}

/// A runtime told to use cgroupfs below a kubelet that speaks systemd makes `<slice>:<prefix>:<id>` one name.
fn split_colons(part: &[u8]) -> (&[u8], Option<(&'static str, String)>) {
    let mut fields = part.splitn(3, |&byte| byte == b':');
    let (Some(slice), Some(prefix), Some(id)) = (fields.next(), fields.next(), fields.next()) else {
        return (part, None);
    };
    let runtime = match prefix {
        b"docker" => "docker",
        b"libpod" => "podman",
        b"cri-containerd" | b"nerdctl" => "containerd",
        b"crio" => "crio",
        _ => return (part, None),
    };
    match hex_id(id) {
        Some(id) => (slice, Some((runtime, id))),
        None => (part, None),
    }
}

fn container_id(below_pod: &[&[u8]]) -> Option<String> {
    below_pod.iter().find_map(|part| hex_id(part).or_else(|| named_container(part).map(|(_, id)| id)))
}

fn container(parts: &[&[u8]]) -> Option<Workload> {
    parts.iter().enumerate().find_map(|(at, part)| {
        let parent = at.checked_sub(1).map(|parent| parts[parent]);
        let bare = || {
            let runtime = match parent {
                Some(b"docker") => "docker",
                // The namespace that containerd's own clients use unless told otherwise.
                Some(b"default") => "containerd",
                Some(b"libpod_parent") => "podman",
                _ => "unknown",
            };
            hex_id(part).map(|id| (runtime, id))
        };
        let (runtime, id) = podman_pod(part)
            .or_else(|| lxc(part))
            .or_else(|| named_container(part))
            .or_else(|| split_colons(part).1)
            .or_else(bare)?;
        Some(Workload::Container { runtime, id, path: join(&parts[..=at]) })
    })
}

/// `<parent>-libpod_pod_<id>.slice`.
fn podman_pod(part: &[u8]) -> Option<(&'static str, String)> {
    let name = part.strip_suffix(b".slice")?.rsplit(|&byte| byte == b'-').next()?;
    Some(("podman", hex_id(name.strip_prefix(b"libpod_pod_")?)?))
}

/// `lxc.payload.<name>`: a system of its own, whose services must not be taken for so many owners.
fn lxc(part: &[u8]) -> Option<(&'static str, String)> {
    Some(("lxc", printable(part.strip_prefix(b"lxc.payload.")?)))
}

/// `<prefix>-<id>.scope` (systemd) or `<prefix>-<id>` (cgroupfs).
fn named_container(part: &[u8]) -> Option<(&'static str, String)> {
    const PREFIXES: [(&[u8], &str); 7] = [
        (b"docker-", "docker"),
        (b"libpod-conmon-", "podman"),
        (b"libpod-", "podman"),
        (b"cri-containerd-", "containerd"),
        (b"nerdctl-", "containerd"),
        (b"crio-conmon-", "crio"),
        (b"crio-", "crio"),
    ];
    let name = part.strip_suffix(b".scope").unwrap_or(part);
    PREFIXES.iter().find_map(|(prefix, runtime)| Some((*runtime, hex_id(name.strip_prefix(*prefix)?)?)))
}

/// Runtimes make their ids of 64 hexadecimal digits.
fn hex_id(text: &[u8]) -> Option<String> {
    (text.len() == 64 && text.iter().all(u8::is_ascii_hexdigit))
        .then(|| text.iter().copied().map(char::from).collect())
}

/// How many parts lead to the first systemd unit: what a service makes below it is still that service.
fn unit_depth(parts: &[&[u8]]) -> usize {
    parts.iter().position(|part| is_unit(part)).map_or(parts.len(), |at| at + 1)
}

fn is_unit(part: &[u8]) -> bool {
    part.ends_with(b".service") || part.ends_with(b".scope")
}

fn join(parts: &[&[u8]]) -> Vec<u8> {
    parts.iter().flat_map(|part| [b"/", *part]).collect::<Vec<_>>().concat()
}

/// What stands before a byte that cannot be shown.
const MARK: char = '\u{fffd}';

/// A path for people, labels and terminals. A byte that is not UTF-8, or of a control character or of a mark itself,
/// becomes a mark and two hexadecimal digits, so that no name does anything to a terminal, and two names stay two;
/// a backslash, which systemd writes into the names of units, stays.
#[must_use]
pub fn printable(path: &[u8]) -> String {
    let mut text = String::with_capacity(path.len());
    let hex = |text: &mut String, bytes: &[u8]| {
        for byte in bytes {
            text.push_str(&format!("{MARK}{byte:02x}"));
        }
    };
    for chunk in path.utf8_chunks() {
        for c in chunk.valid().chars() {
            if c.is_control() || c == MARK {
                hex(&mut text, c.encode_utf8(&mut [0; 4]).as_bytes());
            } else {
                text.push(c);
            }
        }
        hex(&mut text, chunk.invalid());
    }
    text
}
