//! Whose network namespace it is, by the cgroups of its processes.

use std::collections::HashMap;

use super::cgroup_path::{Workload, classify, printable};
use super::owner::Owner;
use super::pods::PodName;

/// Pod names by uid.
pub type PodNames = HashMap<String, PodName>;

/// The owner that a cgroup path proves. None: the root, which proves nothing.
#[must_use]
pub fn owner_of_cgroup(path: &[u8], names: &PodNames) -> Option<Owner> {
    owner_of_workload(classify(path), names)
}

fn owner_of_workload(workload: Workload, names: &PodNames) -> Option<Owner> {
    match workload {
        Workload::Pod { uid, .. } => Some(match names.get(&uid) {
            Some(known) => Owner::Pod { namespace: known.namespace.clone(), pod: known.name.clone(), uid },
            None => Owner::Pod { namespace: String::new(), pod: uid.clone(), uid },
        }),
        Workload::Container { path, .. } | Workload::Service { path } => {
            Some(Owner::Cgroup { cgroup: printable(&path) })
        }
        Workload::Root => None,
    }
}

/// The one owner that all processes of a namespace agree on; [`Owner::Unknown`] where they do not, or where
/// there is none. `cgroups` are theirs, the oldest process's first.
///
/// Containers may share a namespace (`--network container:…`): it is the one's whose process is the oldest. Who joins a
/// namespace finds it there, so whoever made it was running before; and when the maker ends and others stay, the next
/// oldest has it. Of pods and services nothing of the kind is usual: two of them are none.
///
/// Who comes to look (`nsenter` from a login session) does not own: cgroups below `user.slice` count only
/// where there are no others.
#[must_use]
pub fn owner_of_processes(cgroups: &[Vec<u8>], names: &PodNames) -> Owner {
    let (visitors, residents): (Vec<_>, Vec<_>) = cgroups.iter().partition(|path| is_login(path));
    agreed(&residents, names).or_else(|| agreed(&visitors, names)).unwrap_or(Owner::Unknown)
}

/// None: no path proves anything. Unknown: they prove different things.
fn agreed(cgroups: &[&Vec<u8>], names: &PodNames) -> Option<Owner> {
    let workloads: Vec<_> =
        cgroups.iter().map(|path| classify(path)).filter(|workload| *workload != Workload::Root).collect();
    let only_containers = workloads.iter().all(|workload| matches!(workload, Workload::Container { .. }));
    let mut owners = workloads.into_iter().filter_map(|workload| owner_of_workload(workload, names));
    let first = owners.next()?;
    Some(if only_containers || owners.all(|owner| owner == first) { first } else { Owner::Unknown })
}

fn is_login(path: &[u8]) -> bool {
    let mut parts = path.split(|&byte| byte == b'/').filter(|part| !part.is_empty() && *part != b"..");
    parts.next() == Some(b"user.slice")
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: &str = "/kubepods/burstable/podaaaaaaaa-1111-4222-8333-1234567890ab/x";
    const B: &str = "/kubepods/podbbbbbbbb-1111-4222-8333-1234567890ab";
    const SERVICE: &str = "/system.slice/proxy.service";
    const LOGIN: &str = "/user.slice/user-0.slice/session-1.scope";

    fn owner(paths: &[&str]) -> Owner {
        let paths: Vec<Vec<u8>> = paths.iter().map(|path| path.as_bytes().to_vec()).collect();
        owner_of_processes(&paths, &PodNames::new())
    }

    fn pod(uid: &str) -> Owner {
        Owner::Pod { namespace: String::new(), pod: uid.to_owned(), uid: uid.to_owned() }
    }

    #[test]
    fn agreement() {
        let a = pod("aaaaaaaa-1111-4222-8333-1234567890ab");
        assert_eq!(owner(&[A, A]), a);
        assert_eq!(owner(&[A, "/", LOGIN]), a);
        assert_eq!(owner(&[A, B]), Owner::Unknown);
        assert_eq!(owner(&[A, SERVICE]), Owner::Unknown);
        assert_eq!(owner(&[A, SERVICE, LOGIN]), Owner::Unknown);
        assert_eq!(
            owner(&[SERVICE, "/system.slice/proxy.service/child"]),
            Owner::Cgroup { cgroup: SERVICE.to_owned() }
        );
        assert_eq!(owner(&[LOGIN]), Owner::Cgroup { cgroup: LOGIN.to_owned() });
        assert_eq!(owner(&["/", "/"]), Owner::Unknown);
        assert_eq!(owner(&[]), Owner::Unknown);
    }

    #[test]
    fn a_namespace_that_containers_share_is_the_oldest_ones() {
        let docker = format!("/docker/{}", "a".repeat(64));
        let podman = format!("/machine.slice/libpod-{}.scope", "b".repeat(64));
        let child = format!("{podman}/container");
        let cgroup = |path: &str| Owner::Cgroup { cgroup: path.to_owned() };
        assert_eq!(owner(&[&docker, &podman, &docker]), cgroup(&docker));
        assert_eq!(owner(&["/", LOGIN, &child, &docker]), cgroup(&podman));
        for other in [A, SERVICE] {
            assert_eq!(owner(&[&docker, other]), Owner::Unknown, "no container: {other}");
            assert_eq!(owner(&[other, &docker]), Owner::Unknown, "no container: {other}");
        }
    }

    #[test]
    fn names_of_pods() {
        let uid = "aaaaaaaa-1111-4222-8333-1234567890ab".to_owned();
        let name = PodName { namespace: "shop".to_owned(), name: "cart".to_owned(), uid: uid.clone() };
        let names = PodNames::from([(uid.clone(), name)]);
        let expected = Owner::Pod { namespace: "shop".to_owned(), pod: "cart".to_owned(), uid };
        assert_eq!(owner_of_cgroup(A.as_bytes(), &names), Some(expected));
    }
}
