//! cgroup v2 ids to paths: the id of a cgroup is the inode of its directory.

use std::collections::{HashMap, HashSet};
use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Directories one walk looks at.
pub const MAX_DIRECTORIES: usize = 20_000;
/// A miss walks again, but no more often than this.
const WALK_EVERY: Duration = Duration::from_secs(1);
/// A removed cgroup is remembered this long: the facts of a job's last second arrive after its end.
const REMEMBER: Duration = Duration::from_secs(60);
/// Ids known not to be found.
const MAX_UNFOUND: usize = 4_096;

/// The place where the v2 hierarchy is mounted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CgroupMount {
    /// Mount point.
    pub mount_point: PathBuf,
    /// Path of the cgroup that is the mount's root, empty where it is the hierarchy's.
    pub root: Vec<u8>,
}

/// The cgroup2 mount that shows most of the hierarchy, from the text of `/proc/self/mountinfo`; of those that
/// show all of it, one at or below `place`. On hybrid hosts that is usually `/sys/fs/cgroup/unified`. None: not
/// mounted.
#[must_use]
pub fn find_mount(mountinfo: &[u8], place: &Path) -> Option<CgroupMount> {
    let mounts = mountinfo.split(|&byte| byte == b'\n').filter_map(parse_mount);
    // The whole before a part of it. A root of `/..` lies above our cgroup namespace, the more of them the
    // higher; a longer path lies lower.
    mounts
        .min_by_key(|(ups, mount)| {
            let elsewhere = !mount.mount_point.starts_with(place);
            (!mount.root.is_empty(), std::cmp::Reverse(*ups), mount.root.len(), elsewhere)
        })
        .map(|(_, mount)| mount)
}

/// `id parent major:minor root mount_point options [optional…] - type source super_options`
fn parse_mount(line: &[u8]) -> Option<(usize, CgroupMount)> {
    let fields: Vec<&[u8]> = line.split(|&byte| byte == b' ').collect();
    let separator = fields.iter().skip(6).position(|field| *field == b"-")? + 6;
    if fields.get(separator + 1)? != b"cgroup2" {
        return None;
    }
    let root = unescape(fields[3]);
    let parts: Vec<&[u8]> = root.split(|&byte| byte == b'/').filter(|part| !part.is_empty()).collect();
    let ups = parts.iter().take_while(|part| **part == b"..").count();
    let root = parts[ups..].iter().flat_map(|part| [b"/", *part]).collect::<Vec<_>>().concat();
    let mount_point = PathBuf::from(OsString::from_vec(unescape(fields[4])));
    Some((ups, CgroupMount { mount_point, root }))
}

/// The kernel writes blank, tab, newline and backslash as `\ooo`.
fn unescape(field: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&first, tail)) = rest.split_first() {
        let octal = (first == b'\\').then(|| tail.get(..3)).flatten().and_then(|digits| {
            let digits = std::str::from_utf8(digits).ok()?;
            u8::from_str_radix(digits, 8).ok()
        });
        match octal {
            Some(byte) => {
                bytes.push(byte);
                rest = &tail[3..];
            }
            None => {
                bytes.push(first);
                rest = tail;
            }
        }
    }
    bytes
}

/// The known cgroups.
#[derive(Debug)]
pub struct CgroupTree {
    mount: CgroupMount,
    known: HashMap<u64, Known>,
    unfound: HashSet<u64>,
    walked: Option<Instant>,
    truncated: bool,
}

#[derive(Debug)]
struct Known {
    path: Vec<u8>,
    gone: Option<Instant>,
}

impl CgroupTree {
    /// A tree that is read at the first lookup.
    #[must_use]
    pub fn new(mount: CgroupMount) -> Self {
        Self { mount, known: HashMap::new(), unfound: HashSet::new(), walked: None, truncated: false }
    }

    /// Path of the cgroup with this id, `/` for the root. An id not known costs a walk of the tree, at most
    /// once a second, and only once for each id: ids are not used twice, so one that is not there is gone for
    /// good. None: not known, perhaps only until the next second.
    pub fn lookup(&mut self, id: u64, now: Instant) -> Option<&[u8]> {
        let rested = self.walked.is_none_or(|walked| now.saturating_duration_since(walked) >= WALK_EVERY);
        if !self.known.contains_key(&id) && !self.unfound.contains(&id) && rested {
            self.walk(now);
            if !self.known.contains_key(&id) {
                if self.unfound.len() >= MAX_UNFOUND {
                    self.unfound.clear();
                }
                self.unfound.insert(id);
            }
        }
        self.known.get(&id).map(|known| known.path.as_slice())
    }

    /// Every cgroup there is, by id, from a walk now or within the last second.
    pub fn all(&mut self, now: Instant) -> impl Iterator<Item = (u64, &[u8])> {
        if self.walked.is_none_or(|walked| now.saturating_duration_since(walked) >= WALK_EVERY) {
            self.walk(now);
        }
        self.known
            .iter()
            .filter(|(_, known)| known.gone.is_none())
            .map(|(id, known)| (*id, known.path.as_slice()))
    }

    /// What changes whenever cgroups come or go, for the price of one small file: how many there are, and how many
    /// that were removed are still held. None: this kernel does not tell.
    #[must_use]
    pub fn counts(&self) -> Option<Vec<u8>> {
        std::fs::read(self.mount.mount_point.join("cgroup.stat")).ok()
    }

    /// Did the last walk stop at [`MAX_DIRECTORIES`], so that some cgroups cannot be named?
    #[must_use]
    pub fn truncated(&self) -> bool {
        self.truncated
    }

    /// Breadth first, so that the bound costs the deepest directories. What vanishes meanwhile is skipped.
    fn walk(&mut self, now: Instant) {
        let mut seen = HashMap::new();
        let top = self.mount.mount_point.clone();
        let mut level = vec![(top, self.mount.root.clone())];
        self.truncated = false;
        while !level.is_empty() && !self.truncated {
            let mut next = Vec::new();
            for (directory, path) in level {
                let Ok(metadata) = std::fs::symlink_metadata(&directory) else { continue };
                if seen.len() == MAX_DIRECTORIES {
                    self.truncated = true;
                    break;
                }
                next.extend(children(&directory, &path));
                let path = if path.is_empty() { b"/".to_vec() } else { path };
                seen.insert(metadata.ino(), Known { path, gone: None });
            }
            level = next;
        }
        for (id, mut known) in self.known.drain() {
            let gone = *known.gone.get_or_insert(now);
            if now.saturating_duration_since(gone) < REMEMBER && seen.len() < 2 * MAX_DIRECTORIES {
                seen.entry(id).or_insert(known);
            }
        }
        self.known = seen;
        self.walked = Some(now);
    }
}

fn children(directory: &std::path::Path, path: &[u8]) -> Vec<(PathBuf, Vec<u8>)> {
    let Ok(entries) = std::fs::read_dir(directory) else { return Vec::new() };
    entries
        .filter_map(Result::ok)
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        .map(|entry| (entry.path(), [path, b"/", entry.file_name().as_bytes()].concat()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const V2: &str = "30 23 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n";
    const HYBRID: &str = "31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755\n\
        35 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory\n\
        41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw\n";

    fn found(text: &str) -> Option<(String, String)> {
        find_mount(text.as_bytes(), Path::new("/sys/fs/cgroup"))
            .map(|m| (m.mount_point.to_str().unwrap().to_owned(), String::from_utf8(m.root).unwrap()))
    }

    #[test]
    fn finds_the_mount() {
        assert_eq!(found(V2), Some(("/sys/fs/cgroup".to_owned(), String::new())));
        assert_eq!(found(HYBRID), Some(("/sys/fs/cgroup/unified".to_owned(), String::new())));
        assert_eq!(found("31 23 0:28 / / rw - ext4 cgroup2 rw\n"), None);
        assert_eq!(found("garbage\n\n1 2 3\n- cgroup2\n"), None);
    }

    #[test]
    fn takes_the_mount_that_shows_most() {
        let own = "40 23 0:26 /kubepods/x /sys/fs/cgroup ro - cgroup2 cgroup rw\n";
        let host = "41 23 0:26 /../../.. /host/sys\\040fs/cgroup ro - cgroup2 cgroup rw\n";
        assert_eq!(found(own), Some(("/sys/fs/cgroup".to_owned(), "/kubepods/x".to_owned())));
        assert_eq!(found(&format!("{own}{V2}")), Some(("/sys/fs/cgroup".to_owned(), String::new())));
        let expected = Some(("/host/sys fs/cgroup".to_owned(), String::new()));
        assert_eq!(found(&format!("{V2}{own}{host}")), expected);
        let sibling = "42 23 0:26 /../../sibling /mnt ro - cgroup2 cgroup rw\n";
        assert_eq!(found(&format!("{sibling}{V2}")), Some(("/sys/fs/cgroup".to_owned(), String::new())));
    }

    #[test]
    fn of_two_that_show_all_takes_the_one_it_was_told() {
        let two = format!("50 23 0:26 / /other rw - cgroup2 cgroup rw\n{V2}");
        assert_eq!(found(&two), Some(("/sys/fs/cgroup".to_owned(), String::new())));
        let other = find_mount(two.as_bytes(), Path::new("/other")).unwrap();
        assert_eq!(other.mount_point, Path::new("/other"));
    }

    #[test]
    fn unescapes() {
        assert_eq!(unescape(b"/a\\040b\\134c\\"), b"/a b\\c\\");
        assert_eq!(unescape(b"\\999"), b"\\999");
    }

    #[test]
    fn looks_up_by_inode_and_walks_at_most_once_a_second() {
        let top = std::env::temp_dir().join(format!("cgroup-tree-{}", std::process::id()));
        let pod = top.join("kubepods").join("pod1");
        std::fs::create_dir_all(&pod).unwrap();
        let inode = |path: &std::path::Path| std::fs::metadata(path).unwrap().ino();
        let mut tree = CgroupTree::new(CgroupMount { mount_point: top.clone(), root: Vec::new() });
        let start = Instant::now();
        assert_eq!(tree.lookup(inode(&pod), start), Some(&b"/kubepods/pod1"[..]));
        assert_eq!(tree.lookup(inode(&top), start), Some(&b"/"[..]));
        assert!(!tree.truncated());

        let late = top.join("late");
        std::fs::create_dir(&late).unwrap();
        let id = inode(&late);
        assert_eq!(tree.lookup(id, start + Duration::from_millis(999)), None);
        let second = start + Duration::from_secs(1);
        assert_eq!(tree.lookup(id, second), Some(&b"/late"[..]));

        std::fs::remove_dir(&late).unwrap();
        assert_eq!(tree.lookup(u64::MAX, second + WALK_EVERY), None);
        assert_eq!(tree.lookup(id, second + WALK_EVERY), Some(&b"/late"[..]), "remembered for a while");
        assert_eq!(tree.lookup(u64::MAX - 1, second + WALK_EVERY + REMEMBER), None);
        assert_eq!(tree.lookup(id, second + WALK_EVERY + REMEMBER), None);
        std::fs::remove_dir_all(&top).unwrap();
    }

    #[test]
    fn reads_the_tree_of_this_host() {
        let Some(mount) = find_mount(&std::fs::read("/proc/self/mountinfo").unwrap(), Path::new("/")) else {
            return;
        };
        let mut tree = CgroupTree::new(mount.clone());
        let root = std::fs::metadata(&mount.mount_point).unwrap().ino();
        assert!(tree.lookup(root, Instant::now()).is_some());
    }

    #[test]
    fn a_new_cgroup_shows_in_the_counts_of_this_host() {
        let Some(mount) = find_mount(&std::fs::read("/proc/self/mountinfo").unwrap(), Path::new("/")) else {
            return;
        };
        let mut tree = CgroupTree::new(mount.clone());
        let new = mount.mount_point.join(format!("counts-{}", std::process::id()));
        let before = tree.counts();
        if before.is_none() || std::fs::create_dir(&new).is_err() {
            println!("skipped: no cgroup can be made here");
            return;
        }
        let during = tree.counts();
        let id = std::fs::metadata(&new).unwrap().ino();
        let named = tree.all(Instant::now()).any(|(found, path)| found == id && path.starts_with(b"/"));
        std::fs::remove_dir(&new).unwrap();
        assert_ne!(before, during);
        assert!(named);
        assert_ne!(during, tree.counts());
    }

    #[test]
    fn an_id_that_is_not_there_costs_one_walk() {
        let top = std::env::temp_dir().join(format!("cgroup-unfound-{}", std::process::id()));
        std::fs::create_dir_all(&top).unwrap();
        let mut tree = CgroupTree::new(CgroupMount { mount_point: top.clone(), root: b"/sub".to_vec() });
        let start = Instant::now();
        assert_eq!(tree.lookup(u64::MAX, start), None);
        assert_eq!(tree.walked, Some(start));
        assert_eq!(tree.lookup(u64::MAX, start + Duration::from_secs(9)), None);
        assert_eq!(tree.walked, Some(start));
        let id = std::fs::metadata(&top).unwrap().ino();
        assert_eq!(tree.lookup(id, start), Some(&b"/sub"[..]));
        std::fs::remove_dir_all(&top).unwrap();
    }
}
