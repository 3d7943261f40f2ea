//! Writes the `newc` cpio archives the kernel unpacks into its first root.

use std::collections::BTreeSet;
use std::io::{self, Write};
use std::path::{Component, Path, PathBuf};

const FILE: u32 = 0o100_000;
const FOLDER: u32 = 0o040_000;
const LINK: u32 = 0o120_000;
const DEVICE: u32 = 0o020_000;

/// An archive being written. Folders a path needs are added on the way.
#[derive(Debug)]
pub(crate) struct Archive<W: Write> {
    out: W,
    written: usize,
    inode: u32,
    known: BTreeSet<PathBuf>,
}

impl<W: Write> Archive<W> {
    /// Starts an archive.
    pub(crate) fn new(out: W) -> Self {
        Self { out, written: 0, inode: 0, known: BTreeSet::new() }
    }

    /// Whether something is already at `path`.
    pub(crate) fn has(&self, path: impl AsRef<Path>) -> bool {
        self.known.contains(path.as_ref())
    }

    /// Adds a folder (and those above it), unless it is there.
    ///
    /// # Errors
    /// When writing fails.
    pub(crate) fn folder(&mut self, path: impl AsRef<Path>) -> io::Result<()> {
        let mut at = PathBuf::new();
        for part in path.as_ref().components() {
            if let Component::Normal(name) = part {
                at.push(name);
                if self.known.insert(at.clone()) {
                    self.entry(&at, FOLDER | 0o755, (0, 0), &[])?;
                }
            }
        }
        Ok(())
    }

    /// Adds a file with these permissions.
    ///
    /// # Errors
    /// When writing fails.
    pub(crate) fn file(&mut self, path: impl AsRef<Path>, mode: u32, content: &[u8]) -> io::Result<()> {
        self.leaf(path.as_ref(), FILE | mode, (0, 0), content)
    }

    /// Adds a symbolic link.
    ///
    /// # Errors
    /// When writing fails.
    pub(crate) fn link(&mut self, path: impl AsRef<Path>, target: &str) -> io::Result<()> {
        self.leaf(path.as_ref(), LINK | 0o777, (0, 0), target.as_bytes())
    }

    /// Adds a character device.
    ///
    /// # Errors
    /// When writing fails.
    pub(crate) fn device(&mut self, path: impl AsRef<Path>, major: u32, minor: u32) -> io::Result<()> {
        self.leaf(path.as_ref(), DEVICE | 0o600, (major, minor), &[])
    }

    fn leaf(&mut self, path: &Path, mode: u32, device: (u32, u32), content: &[u8]) -> io::Result<()> {
        if let Some(parent) = path.parent() {
            self.folder(parent)?;
        }
        self.known.insert(path.to_owned());
        self.entry(path, mode, device, content)
    }

    fn entry(&mut self, path: &Path, mode: u32, device: (u32, u32), content: &[u8]) -> io::Result<()> {
        self.inode += 1;
        let name = path.as_os_str().as_encoded_bytes();
        let size = u32::try_from(content.len())
            .map_err(|_| io::Error::other(format!("{} is larger than 4 GiB", path.display())))?;
        let name_size = u32::try_from(name.len() + 1).map_err(io::Error::other)?;
        let links = if mode & FOLDER == FOLDER { 2 } else { 1 };
        let fields = [self.inode, mode, 0, 0, links, 0, size, 0, 0, device.0, device.1, name_size, 0];
        let mut header = String::from("070701");
        for field in fields {
            header.push_str(&format!("{field:08X}"));
        }
        self.put(header.as_bytes())?;
        self.put(name)?;
        self.put(&[0])?;
        self.pad()?;
        self.put(content)?;
        self.pad()
    }

    fn put(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.written += bytes.len();
        self.out.write_all(bytes)
    }

    fn pad(&mut self) -> io::Result<()> {
        let missing = self.written.next_multiple_of(4) - self.written;
        self.put(&[0; 3][..missing])
    }

    /// Ends the archive. Others may follow it in one file: the kernel unpacks them over each other.
    ///
    /// # Errors
    /// When writing fails.
    pub(crate) fn finish(mut self) -> io::Result<W> {
        self.entry(Path::new("TRAILER!!!"), 0, (0, 0), &[])?;
        self.out.flush()?;
        Ok(self.out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Reads an archive back: (path, mode, content).
    fn read(mut bytes: &[u8]) -> Vec<(String, u32, Vec<u8>)> {
        let mut entries = Vec::new();
        let all = bytes.len();
        loop {
            assert_eq!(&bytes[..6], b"070701");
            let field = |index: usize| {
                let text = std::str::from_utf8(&bytes[6 + index * 8..14 + index * 8]).unwrap();
                usize::from_str_radix(text, 16).unwrap()
            };
            let (mode, size, name_size) = (field(1), field(6), field(11));
            let name = String::from_utf8(bytes[110..110 + name_size - 1].to_vec()).unwrap();
            let content = (110 + name_size).next_multiple_of(4);
            if name == "TRAILER!!!" {
                return entries;
            }
            entries.push((name, u32::try_from(mode).unwrap(), bytes[content..content + size].to_vec()));
            bytes = &bytes[(content + size).next_multiple_of(4)..];
            assert_eq!((all - bytes.len()) % 4, 0);
        }
    }

    #[test]
    fn what_is_written_reads_back() {
        let mut archive = Archive::new(Vec::new());
        archive.file("usr/bin/tool", 0o755, b"abcde").unwrap();
        archive.link("usr/bin/other", "tool").unwrap();
        archive.device("dev/console", 5, 1).unwrap();
        assert!(archive.has("usr/bin/tool") && archive.has("usr/bin") && !archive.has("usr/lib"));
        let entries = read(&archive.finish().unwrap());
        let names = entries.iter().map(|(name, ..)| name.as_str()).collect::<Vec<_>>();
        assert_eq!(names, ["usr", "usr/bin", "usr/bin/tool", "usr/bin/other", "dev", "dev/console"]);
        assert_eq!(entries[2].1, 0o100_755);
        assert_eq!(entries[2].2, b"abcde");
        assert_eq!(entries[3].2, b"tool");
    }
}
