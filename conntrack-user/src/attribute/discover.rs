//! Reads the cgroups of namespaces' processes: the only part of this stage, with the readers of pod logs and
//! of the cgroup tree, that touches the system.

use std::fs::File;
use std::io::Read;
use std::net::IpAddr;
use std::path::Path;

use super::index::NamespaceFacts;
use super::proc_cgroup::telling_path;

/// Processes looked at for one namespace: enough to see that they disagree.
const PIDS_PER_NAMESPACE: usize = 8;
/// Bytes read of one `/proc/PID/cgroup`: a dozen hierarchies with paths of the longest kind.
const MAX_CGROUP_FILE: u64 = 64 << 10;

/// One namespace as found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FoundNamespace {
    /// Its inode.
    pub netns: u32,
    /// Is it the host's?
    pub host: bool,
    /// Its processes.
    pub pids: Vec<u32>,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
}

/// Adds what the processes' cgroups say. The host's are not read: they say nothing about the namespace.
/// A process that is gone, or whose pid is another's by now, is passed over for the next.
#[must_use]
pub fn read_facts(procfs: &Path, found: FoundNamespace) -> NamespaceFacts {
    let pids: &[u32] = if found.host { &[] } else { &found.pids };
    let cgroups =
        pids.iter().filter_map(|&pid| cgroup_of(procfs, pid, found.netns)).take(PIDS_PER_NAMESPACE).collect();
    NamespaceFacts { netns: found.netns, host: found.host, cgroups, addresses: found.addresses }
}

/// The process's telling cgroup path; `/` where it is in the root. None: it is not, or no longer, in `netns`.
fn cgroup_of(procfs: &Path, pid: u32, netns: u32) -> Option<Vec<u8>> {
    let process = procfs.join(pid.to_string());
    let mut text = Vec::new();
    File::open(process.join("cgroup")).ok()?.take(MAX_CGROUP_FILE).read_to_end(&mut text).ok()?;
    // Asked afterwards: had the pid passed to another process before the reading, it would show here.
    let link = std::fs::read_link(process.join("ns/net")).ok()?;
    if link.as_os_str() != format!("net:[{netns}]").as_str() {
        return None;
    }
    Some(telling_path(&text).unwrap_or(b"/").to_vec())
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    fn process(root: &Path, pid: u32, netns: u32, cgroup: &[u8]) {
        let directory = root.join(pid.to_string());
        std::fs::create_dir_all(directory.join("ns")).unwrap();
        std::fs::write(directory.join("cgroup"), cgroup).unwrap();
        std::os::unix::fs::symlink(format!("net:[{netns}]"), directory.join("ns/net")).unwrap();
    }

    fn found(host: bool, pids: Vec<u32>) -> FoundNamespace {
        FoundNamespace { netns: 40, host, pids, addresses: vec!["10.0.0.1".parse().unwrap()] }
    }

    #[test]
    fn reads_a_tree() {
        let root: PathBuf = std::env::temp_dir().join(format!("discover-{}", std::process::id()));
        process(&root, 7, 40, b"0::/a\xff\n");
        process(&root, 8, 41, b"0::/another/namespace/by/now\n");
        process(&root, 9, 40, b"0::/\n");
        for pid in 100..120 {
            process(&root, pid, 40, b"0::/b\n");
        }
        let facts = read_facts(&root, found(false, vec![6, 7, 8, 9]));
        let many = read_facts(&root, found(false, (100..120).collect()));
        let host = read_facts(&root, found(true, vec![7]));
        std::fs::remove_dir_all(&root).unwrap();
        assert_eq!(facts.cgroups, [b"/a\xff".to_vec(), b"/".to_vec()]);
        assert_eq!((facts.netns, facts.addresses.len()), (40, 1));
        assert_eq!(many.cgroups.len(), 8);
        assert!(host.host && host.cgroups.is_empty());
    }

    #[test]
    fn reads_this_process() {
        let link = std::fs::read_link("/proc/self/ns/net").unwrap();
        let inode = link.to_str().unwrap().trim_start_matches("net:[").trim_end_matches(']').parse().unwrap();
        let own = FoundNamespace {
            netns: inode,
            host: false,
            pids: vec![std::process::id()],
            addresses: Vec::new(),
        };
        assert_eq!(read_facts(Path::new("/proc"), own).cgroups.len(), 1);
    }
}
