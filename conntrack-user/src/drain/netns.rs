//! The network namespaces of this machine. No descriptor of one is held: that would keep it alive.

use std::collections::HashMap;
use std::ffi::{CStr, OsString};
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use rustix::fd::OwnedFd;
use rustix::fs::{CWD, Mode, OFlags, RawDir, openat, readlinkat_raw};

pub use super::netns_enter::in_namespace;

/// How many processes of a namespace are named.
pub const MAX_PIDS: usize = 64;

/// A network namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Namespace {
    /// Its inode, as `ls -i /proc/PID/ns/net` prints it.
    pub inum: u32,
    /// What to open to enter it: the first process's, else a bind mount. It can be gone, or be another
    /// namespace, by the time it is opened: [`in_namespace`] checks.
    pub path: PathBuf,
    /// Processes in it, sorted, at most [`MAX_PIDS`]. Empty: only a bind mount keeps it.
    pub pids: Vec<u32>,
    /// Is it the host's, that is the namespace of PID 1?
    pub host: bool,
}

/// What one look at all processes and mounts gave.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Scan {
    /// As [`list_namespaces`] gives them.
    pub namespaces: Vec<Namespace>,
    /// Processes that this one may not look at: a namespace that only they are in is missing.
    pub denied: u64,
}

/// Every namespace that a process is in, or that is bind-mounted where PID 1 or this process sees it; by inode.
/// Not found: one that only a thread (not its process), a socket or an open descriptor is in.
///
/// # Errors
/// When `procfs` cannot be read, or the host's namespace cannot be told: `1/ns/net` is unreadable and this thread
/// is not in the initial namespace. Processes that end meanwhile are no error.
pub fn list_namespaces(procfs: &Path) -> io::Result<Vec<Namespace>> {
    Ok(scan_namespaces(procfs)?.namespaces)
}

/// As [`list_namespaces`], with how much of it could not be seen.
///
/// # Errors
/// As [`list_namespaces`].
pub fn scan_namespaces(procfs: &Path) -> io::Result<Scan> {
    let directory = openat(CWD, procfs, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
        .map_err(|errno| named(errno.into(), procfs, "is procfs mounted there?"))?;
    let host = host_inum(procfs, &directory)?;
    let mut found = Found { host, namespaces: Vec::new(), index: HashMap::new(), denied: 0 };
    scan_processes(procfs, &directory, &mut found)?;
    // This process's own mounts come first: their paths need no access to PID 1.
    for (mountinfo, root) in [("self/mountinfo", PathBuf::from("/")), ("1/mountinfo", procfs.join("1/root"))]
    {
        // Without them the namespaces of processes still stand.
        if let Ok(text) = std::fs::read(procfs.join(mountinfo)) {
            for (inum, mount_point) in mounts(&text) {
                let below = mount_point.strip_prefix("/").unwrap_or(&mount_point);
                found.add(inum, None, || root.join(below));
            }
        }
    }
    let Found { mut namespaces, denied, .. } = found;
    for namespace in &mut namespaces {
        namespace.pids.sort_unstable();
    }
    namespaces.sort_unstable_by_key(|namespace| namespace.inum);
    Ok(Scan { namespaces, denied })
}

/// The inode of PID 1's namespace. Where PID 1 is not ours to look at, that of this thread serves if it is the
/// initial namespace, the only one to have `net.core.netdev_budget`.
fn host_inum(procfs: &Path, directory: &OwnedFd) -> io::Result<u32> {
    let error = match namespace_of(directory, "1") {
        Ok(inum) => return Ok(inum),
        Err(error) => error,
    };
    let in_initial = procfs.join("sys/net/core/netdev_budget").exists();
    if error.kind() == io::ErrorKind::PermissionDenied && in_initial {
        return namespace_of(directory, "thread-self")
            .map_err(|error| named(error, &procfs.join("thread-self/ns/net"), "is procfs mounted there?"));
    }
    let hint = "run as root with CAP_SYS_PTRACE, in the host's PID namespace";
    Err(named(error, &procfs.join("1/ns/net"), hint))
}

struct Found {
    host: u32,
    namespaces: Vec<Namespace>,
    index: HashMap<u32, usize>,
    denied: u64,
}

impl Found {
    fn add(&mut self, inum: u32, pid: Option<u32>, path: impl FnOnce() -> PathBuf) {
        let at = *self.index.entry(inum).or_insert_with(|| {
            let host = inum == self.host;
            self.namespaces.push(Namespace { inum, path: path(), pids: Vec::new(), host });
            self.namespaces.len() - 1
        });
        let pids = &mut self.namespaces[at].pids;
        pids.extend(pid.filter(|_| pids.len() < MAX_PIDS));
    }
}

fn scan_processes(procfs: &Path, directory: &OwnedFd, found: &mut Found) -> io::Result<()> {
    let mut buffer = Vec::with_capacity(32 << 10);
    let mut entries = RawDir::new(directory, buffer.spare_capacity_mut());
    while let Some(entry) = entries.next() {
        let entry = entry.map_err(|errno| named(errno.into(), procfs, "is procfs mounted there?"))?;
        let Some(pid) = parse_pid(entry.file_name()) else { continue };
        match namespace_of(directory, pid) {
            Ok(inum) => found.add(inum, Some(pid), || procfs.join(format!("{pid}/ns/net"))),
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => found.denied += 1,
            // Gone meanwhile, or a zombie.
            Err(_) => {}
        }
    }
    Ok(())
}

fn parse_pid(name: &CStr) -> Option<u32> {
    name.to_str().ok()?.parse().ok()
}

/// The inode of a process's network namespace: one readlink, no allocation.
fn namespace_of(procfs: &OwnedFd, process: impl std::fmt::Display) -> io::Result<u32> {
    use io::Write;
    let mut path = [0_u8; 32];
    write!(&mut path[..], "{process}/ns/net\0")?;
    let path = CStr::from_bytes_until_nul(&path).map_err(io::Error::other)?;
    let mut target = [0_u8; 32];
    let length = readlinkat_raw(procfs, path, &mut target)?;
    parse_inum(&target[..length])
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "not of the form net:[INODE]"))
}

/// The inode in `net:[INODE]`.
fn parse_inum(text: &[u8]) -> Option<u32> {
    let digits = text.strip_prefix(b"net:[")?.strip_suffix(b"]")?;
    std::str::from_utf8(digits).ok()?.parse().ok()
}

/// The network namespaces bind-mounted in a mountinfo: (inode, mount point).
fn mounts(mountinfo: &[u8]) -> impl Iterator<Item = (u32, PathBuf)> {
    mountinfo.split(|&byte| byte == b'\n').filter_map(|line| {
        let mut fields = line.split(|&byte| byte == b' ');
        let inum = parse_inum(fields.nth(3)?)?;
        let mount_point = PathBuf::from(OsString::from_vec(unescape(fields.next()?)));
        fields.find(|field| *field == b"-")?;
        (fields.next()? == b"nsfs").then_some((inum, mount_point))
    })
}

/// Undoes mountinfo's `\040`.
fn unescape(field: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&byte, after)) = rest.split_first() {
        match (byte, after) {
            (b'\\', [a @ b'0'..=b'3', b @ b'0'..=b'7', c @ b'0'..=b'7', tail @ ..]) => {
                out.push((a - b'0') << 6 | (b - b'0') << 3 | (c - b'0'));
                rest = tail;
            }
            _ => {
                out.push(byte);
                rest = after;
            }
        }
    }
    out
}

/// The error with the file it is about and what to do.
fn named(error: io::Error, path: &Path, hint: &str) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}; {hint}", path.display()))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn parses_links() {
        assert_eq!(parse_inum(b"net:[4026531840]"), Some(4_026_531_840));
        for wrong in [&b"mnt:[4026531840]"[..], b"net:[]", b"net:[1", b"net:[99999999999]", b""] {
            assert_eq!(parse_inum(wrong), None);
        }
    }

    #[test]
    fn finds_only_network_namespaces_in_mountinfo() {
        let text = b"36 35 0:4 net:[4026532299] /run/netns/a\\040b rw shared:5 master:2 - nsfs nsfs rw\n\
            37 35 0:4 mnt:[4026532300] /run/x rw - nsfs nsfs rw\n\
            38 35 8:1 net:[4026532301] /run/y rw - ext4 /dev/vda rw\n\
            39 35 8:1 / / rw - ext4 /dev/vda rw\n\
            cut";
        assert_eq!(mounts(text).collect::<Vec<_>>(), [(4_026_532_299, PathBuf::from("/run/netns/a b"))]);
    }

    #[test]
    fn unescapes() {
        assert_eq!(unescape(b"\\134\\012x\\9\\04"), b"\\\nx\\9\\04");
    }

    #[test]
    fn a_procfs_of_many_processes() {
        let root = std::env::temp_dir().join(format!("netns-{}", std::process::id()));
        let process = |name: &str, target: Option<&str>| {
            let folder = root.join(name).join("ns");
            std::fs::create_dir_all(&folder).unwrap();
            if let Some(target) = target {
                symlink(target, folder.join("net")).unwrap();
            }
        };
        assert!(list_namespaces(&root).is_err(), "no procfs");
        process("2", Some("net:[10]"));
        let error = list_namespaces(&root).unwrap_err().to_string();
        assert!(error.contains("1/ns/net") && error.contains("root"), "{error}");
        process("1", Some("net:[10]"));
        process("77", Some("net:[5]"));
        process("78", None);
        process("self", Some("net:[6]"));
        for pid in 1000..1100 {
            process(&pid.to_string(), Some("net:[10]"));
        }
        std::fs::write(
            root.join("1/mountinfo"),
            "1 1 0:4 net:[9] /run/netns/a rw - nsfs nsfs rw\n1 1 0:4 net:[5] /run/netns/b rw - nsfs nsfs rw\n",
        )
        .unwrap();
        std::fs::write(root.join("self/mountinfo"), "1 1 0:4 net:[8] /mine rw - nsfs nsfs rw\n").unwrap();

        let all = list_namespaces(&root).unwrap();
        let summary: Vec<_> = all.iter().map(|n| (n.inum, n.host, n.pids.len())).collect();
        assert_eq!(summary, [(5, false, 1), (8, false, 0), (9, false, 0), (10, true, MAX_PIDS)]);
        assert_eq!(all[0].path, root.join("77/ns/net"));
        assert_eq!(all[1].path, Path::new("/mine"));
        assert_eq!(all[2].path, root.join("1/root/run/netns/a"));
        assert!(all[3].pids.is_sorted());
        std::fs::remove_dir_all(&root).unwrap();
    }
}
