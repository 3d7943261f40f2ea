//! `/proc/PID/cgroup`: which of its lines tells whose process it is.

use super::cgroup_path::{Workload, classify};

/// The v1 hierarchies that runtimes and systemd fill, most telling first.
const V1: [&[u8]; 4] = [b"name=systemd", b"memory", b"pids", b"cpu"];

/// The path that tells most about the process's workload. None: every line says the root, there is none, or
/// two lines name two pods.
///
/// The order is the v2 line, then v1's name=systemd, memory, pids, cpu; but a line that names a pod or a
/// container goes before one that does not, since on hybrid hosts older runtimes left the v2 line at their
/// own service.
#[must_use]
pub fn telling_path(text: &[u8]) -> Option<&[u8]> {
    let paths = candidates(text);
    let mut best: Option<(&[u8], Workload)> = None;
    for path in paths {
        let found = classify(path);
        best = match (best, found) {
            (best, Workload::Root) => best,
            (None, found) => Some((path, found)),
            (Some((_, Workload::Pod { uid, .. })), Workload::Pod { uid: other, .. }) if uid != other => {
                return None;
            }
            (Some((_, known)), found) if rank(&found) > rank(&known) => Some((path, found)),
            (best, _) => best,
        };
    }
    best.map(|(path, _)| path)
}

fn rank(workload: &Workload) -> u8 {
    match workload {
        Workload::Root => 0,
        Workload::Service { .. } => 1,
        Workload::Container { .. } => 2,
        Workload::Pod { .. } => 3,
    }
}

/// Paths of the lines worth reading, in order.
fn candidates(text: &[u8]) -> Vec<&[u8]> {
    let lines: Vec<(&[u8], &[u8])> = text.split(|&byte| byte == b'\n').filter_map(split_line).collect();
    let v2 = lines.iter().filter(|(controllers, _)| controllers.is_empty());
    let v1 = V1.iter().flat_map(|wanted| {
        lines
            .iter()
            .filter(move |(controllers, _)| controllers.split(|&byte| byte == b',').any(|c| c == *wanted))
    });
    v2.chain(v1).map(|(_, path)| *path).collect()
}

/// `id:controllers:path`; the path may hold colons.
fn split_line(line: &[u8]) -> Option<(&[u8], &[u8])> {
    let mut fields = line.splitn(3, |&byte| byte == b':');
    let _id = fields.next()?;
    Some((fields.next()?, fields.next()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    const POD: &str = "/kubepods/burstable/pod0a1b2c3d-1111-4222-8333-1234567890ab";

    fn telling(text: &str) -> Option<String> {
        telling_path(text.as_bytes()).map(|path| String::from_utf8(path.to_vec()).unwrap())
    }

    #[test]
    fn v2_alone() {
        assert_eq!(telling("0::/system.slice/a.service\n").as_deref(), Some("/system.slice/a.service"));
        assert_eq!(telling("0::/\n"), None);
        assert_eq!(telling("0::/x:y:z\n").as_deref(), Some("/x:y:z"));
    }

    #[test]
    fn v1_in_the_order_of_what_tells_most() {
        let text = "12:cpu,cpuacct:/c\n11:pids:/p\n10:blkio:/b\n4:memory:/m\n1:name=systemd:/s\n";
        assert_eq!(telling(text).as_deref(), Some("/s"));
        assert_eq!(telling("12:cpu,cpuacct:/c\n10:blkio:/b\n").as_deref(), Some("/c"));
        assert_eq!(telling("10:blkio:/b\n"), None);
    }

    #[test]
    fn hybrid() {
        assert_eq!(telling("4:memory:/m\n1:name=systemd:/\n0::/\n").as_deref(), Some("/m"));
        assert_eq!(telling("4:memory:/m\n0::/u\n").as_deref(), Some("/u"));
        let text = format!("4:memory:{POD}\n0::/system.slice/containerd.service\n");
        assert_eq!(telling(&text).as_deref(), Some(POD));
    }

    #[test]
    fn two_pods_in_one_file_are_no_pod() {
        let other = POD.replace("0a1b", "ffff");
        assert_eq!(telling(&format!("4:memory:{POD}\n0::{other}\n")), None);
        assert_eq!(telling(&format!("4:memory:{POD}\n0::{POD}/child\n")), Some(format!("{POD}/child")));
    }

    #[test]
    fn lines_that_are_no_lines() {
        for text in ["", "\n", "x", "0:", "0::", "a:b", "::\n::"] {
            assert_eq!(telling(text), None, "{text:?}");
        }
    }
}
