//! Running something inside another network namespace.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// Runs `f` with the calling thread's place taken by one that is in the namespace `path` leads to, and gives
/// what `f` gave. The thread ends with `f`, so nothing else ever runs in the wrong namespace. Where the caller is
/// in that namespace already, `f` runs on the caller's thread.
///
/// # Errors
/// When `path` cannot be opened (`NotFound`: its process ended), is not the namespace `expected_inum`
/// (`NotFound` too: the process id was used again), or cannot be entered.
///
/// # Panics
/// When `f` does.
pub fn in_namespace<T: Send>(path: &Path, expected_inum: u32, f: impl FnOnce() -> T + Send) -> io::Result<T> {
    if own_inum()? == u64::from(expected_inum) {
        return Ok(f());
    }
    std::thread::scope(|scope| {
        let worker = std::thread::Builder::new().name("netns".into()).spawn_scoped(scope, || {
            enter(path, expected_inum)?;
            Ok(f())
        })?;
        worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// The inode of the calling thread's network namespace.
///
/// # Errors
/// When procfs is not mounted at /proc.
pub fn own_inum() -> io::Result<u64> {
    const OWN: &str = "/proc/thread-self/ns/net";
    Ok(std::fs::metadata(OWN).map_err(|error| context(&error, Path::new(OWN)))?.ino())
}

/// Moves the calling thread for good. The descriptor is closed before `f` runs.
fn enter(path: &Path, expected_inum: u32) -> io::Result<()> {
    let file = File::open(path).map_err(|error| context(&error, path))?;
    // The inode of the descriptor itself is looked at: the path may have changed since it was listed.
    let inum = file.metadata().map_err(|error| context(&error, path))?.ino();
    if inum != u64::from(expected_inum) {
        return Err(io::Error::new(
            io::ErrorKind::NotFound,
            format!("{}: is namespace {inum} now, no longer {expected_inum}", path.display()),
        ));
    }
    move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network)).map_err(|errno| {
        let error = io::Error::from(errno);
        io::Error::new(
            error.kind(),
            format!("{}: cannot be entered: {error}; run with CAP_SYS_ADMIN", path.display()),
        )
    })
}

fn context(error: &io::Error, path: &Path) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_namespace_needs_no_path_and_no_thread() {
        let inum = u32::try_from(own_inum().unwrap()).unwrap();
        let here = std::thread::current().id();
        let there = in_namespace(Path::new("/nowhere"), inum, || std::thread::current().id()).unwrap();
        assert_eq!(here, there);
    }

    #[test]
    fn another_inode_is_refused_before_entering() {
        let ran = in_namespace(Path::new("/proc/self/ns/net"), 1, || true);
        let error = ran.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
        assert!(error.to_string().contains("no longer 1"), "{error}");
        let gone = in_namespace(Path::new("/nowhere"), 1, || true).unwrap_err();
        assert_eq!(gone.kind(), io::ErrorKind::NotFound);
        assert!(gone.to_string().contains("/nowhere"), "{gone}");
    }
}
