//! The kernel's release: for people to read. What a kernel can do is found by looking, since distributions
//! backport.

use std::io;
use std::path::Path;

/// A kernel release, such as `6.1.0-56-cloud-amd64`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Release {
    /// As `uname -r` prints it.
    pub text: String,
    /// Major and minor number; None when the text does not begin with them.
    pub version: Option<(u32, u32)>,
}

impl Release {
    /// Reads the running kernel's.
    ///
    /// # Errors
    /// When `sys/kernel/osrelease` below `procfs` cannot be read.
    pub fn read(procfs: &Path) -> io::Result<Self> {
        let path = procfs.join("sys/kernel/osrelease");
        let text = std::fs::read_to_string(&path)
            .map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", path.display())))?;
        Ok(Self::parse(&text))
    }

    /// Takes a release apart.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        let text = text.trim();
        Self { text: text.to_owned(), version: version(text) }
    }
}

fn version(text: &str) -> Option<(u32, u32)> {
    let (major, rest) = text.split_once('.')?;
    let minor = rest.split(|letter: char| !letter.is_ascii_digit()).next()?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_many_distributions() {
        for (text, expected) in [
            ("5.10.0-46-cloud-amd64\n", Some((5, 10))),
            ("6.18.44-fc-v657", Some((6, 18))),
            ("7.3-rc1", Some((7, 3))),
            ("5.14.0-503.el9.x86_64", Some((5, 14))),
            ("custom", None),
            ("6.x", None),
            ("", None),
        ] {
            assert_eq!(Release::parse(text).version, expected, "{text}");
        }
        assert_eq!(Release::parse("6.1.0-1\n").text, "6.1.0-1");
    }

    #[test]
    fn a_missing_file_is_named() {
        let error = Release::read(Path::new("/nowhere")).unwrap_err();
        assert!(error.to_string().contains("/nowhere/sys/kernel/osrelease"), "{error}");
    }
}
