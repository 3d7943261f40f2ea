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

/// Adds what the processes' cgroups say, the oldest process's first. The host's are not read: they say nothing about
/// the namespace. A process that is gone, or whose pid is another's by now, is passed over for the next.
#[must_use]
pub fn read_facts(procfs: &Path, found: FoundNamespace) -> NamespaceFacts {
    let pids: &[u32] = if found.host { &[] } else { &found.pids };
    let known = |pid| Some((pid, cgroup_of(procfs, pid, found.netns)?));
    let residents: Vec<(u32, Vec<u8>)> =
        from_both_ends(pids).filter_map(known).take(PIDS_PER_NAMESPACE).collect();
    let alike = residents.windows(2).all(|pair| pair[0].1 == pair[1].1);
    let cgroups = if alike {
        residents.into_iter().map(|(_, path)| path).collect()
    } else {
        oldest_first(procfs, found.netns, residents.iter().map(|(pid, _)| *pid))
    };
    NamespaceFacts { netns: found.netns, host: found.host, cgroups, addresses: found.addresses }
}

/// Lowest, highest, next lowest, …: pids ascend until they begin anew, so that the oldest process has the lowest, or
/// is among the highest.
fn from_both_ends(pids: &[u32]) -> impl Iterator<Item = u32> {
    let (low, high) = pids.split_at(pids.len().div_ceil(2));
    let pairs = low.iter().zip(high.iter().rev()).flat_map(|(low, high)| [*low, *high]);
    pairs.chain(low.get(high.len()).copied())
}

/// The processes' cgroups by how long they have been running.
fn oldest_first(procfs: &Path, netns: u32, pids: impl Iterator<Item = u32>) -> Vec<Vec<u8>> {
    // The cgroup is read again, after the time: should the pid be another's by then, its namespace is looked at last.
    let aged = |pid| Some((started(procfs, pid)?, pid, cgroup_of(procfs, pid, netns)?));
    let mut aged: Vec<_> = pids.filter_map(aged).collect();
    aged.sort();
    aged.into_iter().map(|(.., path)| path).collect()
}

/// When a process started, in the kernel's ticks since the boot.
fn started(procfs: &Path, pid: u32) -> Option<u64> {
    /// Of the fields behind the name, which can have blanks and brackets in it: proc_pid_stat(5) counts from 1, and
    /// the name is the second.
    const START: usize = 22 - 3;
    let text = std::fs::read(procfs.join(pid.to_string()).join("stat")).ok()?;
    let behind = text.iter().rposition(|&byte| byte == b')')? + 1;
    std::str::from_utf8(&text[behind..]).ok()?.split_ascii_whitespace().nth(START)?.parse().ok()
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
        process_since(root, pid, netns, cgroup, u64::from(pid));
    }

    fn process_since(root: &Path, pid: u32, netns: u32, cgroup: &[u8], started: u64) {
        let directory = root.join(pid.to_string());
        std::fs::create_dir_all(directory.join("ns")).unwrap();
        std::fs::write(directory.join("cgroup"), cgroup).unwrap();
        let stat =
            format!("{pid} (a) S 9 (b)) S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 {started} 20 21\n");
        std::fs::write(directory.join("stat"), stat).unwrap();
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
    fn of_processes_that_differ_the_oldest_comes_first() {
        let root: PathBuf = std::env::temp_dir().join(format!("discover-age-{}", std::process::id()));
        // The maker's pid is above the last of those that began anew.
        process_since(&root, 32_000, 40, b"0::/maker\n", 500);
        for pid in 300..320 {
            process_since(&root, pid, 40, b"0::/joined\n", 900 + u64::from(pid));
        }
        let pids: Vec<u32> = (300..320).chain([32_000]).collect();
        let facts = read_facts(&root, found(false, pids.clone()));
        let all: Vec<u32> = from_both_ends(&pids).collect();
        std::fs::remove_dir_all(&root).unwrap();
        assert_eq!(facts.cgroups[0], b"/maker");
        assert_eq!(facts.cgroups.len(), PIDS_PER_NAMESPACE);
        assert!(facts.cgroups[1..].iter().all(|path| path == b"/joined"));
        assert_eq!(all[..4], [300, 32_000, 301, 319]);
        let mut sorted = all;
        sorted.sort_unstable();
        assert_eq!(sorted, pids);
    }

    #[test]
    fn this_process_has_started_after_the_first() {
        let [first, own] = [1, std::process::id()].map(|pid| started(Path::new("/proc"), pid).unwrap());
        assert!(first < own, "{first} {own}");
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
