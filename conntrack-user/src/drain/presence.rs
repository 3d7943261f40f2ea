//! Is conntrack in this kernel, and what its sysctls say.
//!
//! Read before anything is asked over ctnetlink: the question alone would load the module.

use std::io;
use std::path::Path;

const NETFILTER: &str = "sys/net/netfilter";

/// Is conntrack in this kernel, built in or loaded? Loads nothing.
///
/// `procfs` is where procfs is mounted, normally `/proc`.
#[must_use]
pub fn conntrack_loaded(procfs: &Path) -> bool {
    procfs.join(NETFILTER).join("nf_conntrack_max").exists()
}

/// The limit, for every namespace alike. 0 means no limit up to 6.18.
///
/// # Errors
/// As [`read_number`].
pub fn max(procfs: &Path) -> io::Result<u64> {
    read_number(procfs, "nf_conntrack_max")
}

/// Entries of the reader's own namespace, unconfirmed ones included.
///
/// # Errors
/// As [`read_number`].
pub fn count(procfs: &Path) -> io::Result<u64> {
    read_number(procfs, "nf_conntrack_count")
}

/// Hash buckets; one hash table serves all namespaces.
///
/// # Errors
/// As [`read_number`].
pub fn buckets(procfs: &Path) -> io::Result<u64> {
    read_number(procfs, "nf_conntrack_buckets")
}

/// A sysctl below `net.netfilter` that holds one number.
///
/// # Errors
/// What reading the file gave (`NotFound`: no conntrack, or not in this namespace), or `InvalidData` when
/// it holds no number. The error names the file.
fn read_number(procfs: &Path, name: &str) -> io::Result<u64> {
    let path = procfs.join(NETFILTER).join(name);
    let text = std::fs::read_to_string(&path)
        .map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", path.display())))?;
    text.trim().parse().map_err(|_| {
        io::Error::new(
            io::ErrorKind::InvalidData,
            format!("{}: expected a number, found {text:?}", path.display()),
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn absent_is_an_error_and_not_zero() {
        let root = std::env::temp_dir().join(format!("presence-{}", std::process::id()));
        let folder = root.join(NETFILTER);
        std::fs::create_dir_all(&folder).unwrap();
        assert!(!conntrack_loaded(&root));
        assert_eq!(max(&root).unwrap_err().kind(), io::ErrorKind::NotFound);

        std::fs::write(folder.join("nf_conntrack_max"), "262144\n").unwrap();
        std::fs::write(folder.join("nf_conntrack_count"), "\n").unwrap();
        assert!(conntrack_loaded(&root));
        assert_eq!(max(&root).unwrap(), 262_144);
        let error = count(&root).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
        assert!(error.to_string().contains("nf_conntrack_count"), "{error}");
        assert!(buckets(&root).is_err());
        std::fs::remove_dir_all(&root).unwrap();
    }
}
