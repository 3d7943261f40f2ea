//! Pod names without the API: the kubelet makes `/var/log/pods/<namespace>_<name>_<uid>` for every pod.

use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use super::pod_uid;

/// Where the kubelet puts pods' logs, unless told otherwise.
pub const POD_LOGS: &str = "/var/log/pods";

/// At most this many directories are read: twenty times what a node is made for.
const MAX_PODS: usize = 10_000;

/// What a pod is called.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PodName {
    /// Kubernetes namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
    /// Uid, as in the pod's cgroup path; 32 hexadecimal digits for a static pod.
    pub uid: String,
}

/// The pod whose log directory has this name. None where it is no such name.
#[must_use]
pub fn parse_name(directory: &OsStr) -> Option<PodName> {
    // Neither a namespace nor a pod name can hold an underscore.
    let parts: Vec<&[u8]> = directory.as_bytes().split(|&byte| byte == b'_').collect();
    let [namespace, name, uid] = parts[..] else { return None };
    Some(PodName {
        namespace: dns_name(namespace, 63)?,
        name: dns_name(name, 253)?,
        uid: pod_uid::from_api_spelling(uid)?,
    })
}

pub(super) fn dns_name(text: &[u8], longest: usize) -> Option<String> {
    let plain =
        |&byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-' || byte == b'.';
    (!text.is_empty() && text.len() <= longest && text.iter().all(plain))
        .then(|| text.iter().copied().map(char::from).collect())
}

/// The pods that have a directory in `root`; directories of other names are skipped. The logs of a pod that
/// is gone may stay a while, so a name here does not mean that the pod runs.
///
/// # Errors
/// `root` cannot be read; that it does not exist (no kubelet here) is an empty list.
pub fn read(root: &Path) -> io::Result<Vec<PodName>> {
    let entries = match std::fs::read_dir(root) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut pods = Vec::new();
    for entry in entries.take(MAX_PODS) {
        pods.extend(parse_name(&entry?.file_name()));
    }
    Ok(pods)
}

#[cfg(test)]
mod tests {
    use super::*;

    const UID: &str = "0a1b2c3d-1111-4222-8333-1234567890ab";

    fn parsed(text: &str) -> Option<(String, String, String)> {
        parse_name(OsStr::new(text)).map(|pod| (pod.namespace, pod.name, pod.uid))
    }

    #[test]
    fn names() {
        let expected = Some(("shop".to_owned(), "cart-7d9f.x".to_owned(), UID.to_owned()));
        assert_eq!(parsed(&format!("shop_cart-7d9f.x_{UID}")), expected);
        let fixed = "a7a4b7cc60c0a1b5b7e6bd9a5f0f3e11";
        assert_eq!(parsed(&format!("kube-system_etcd-node1_{fixed}")).unwrap().2, fixed);
    }

    #[test]
    fn what_is_no_name() {
        for text in [
            "",
            "shop_cart",
            "shop_cart_x",
            &format!("shop_ca_rt_{UID}"),
            &format!("_cart_{UID}"),
            &format!("shop__{UID}"),
            &format!("Shop_cart_{UID}"),
            &format!("{}_cart_{UID}", "n".repeat(64)),
        ] {
            assert_eq!(parsed(text), None, "{text}");
        }
        assert_eq!(parse_name(OsStr::from_bytes(b"shop_c\xff_0123456789abcdef0123456789abcdef")), None);
    }

    #[test]
    fn reads_a_tree() {
        let root = std::env::temp_dir().join(format!("pods-{}", std::process::id()));
        std::fs::create_dir_all(root.join(format!("shop_cart_{UID}"))).unwrap();
        std::fs::create_dir_all(root.join("lost+found")).unwrap();
        let pods = read(&root).unwrap();
        std::fs::remove_dir_all(&root).unwrap();
        assert_eq!(pods.len(), 1);
        assert_eq!(pods[0].name, "cart");
        assert!(read(&root).unwrap().is_empty());
    }
}
