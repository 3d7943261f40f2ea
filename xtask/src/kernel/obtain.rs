//! Getting a kernel: from Debian's archive into the cache, or from a folder the caller has.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, anyhow};

use super::choice::{Kernel, Offers};
use crate::apt::{self, Apt, Suite};
use crate::{cache, proc};

/// Every suite that holds one of the series, oldest first.
const SUITES: [&str; 9] = [
    "bullseye-security",
    "bookworm",
    "bookworm-security",
    "bookworm-backports",
    "trixie",
    "trixie-security",
    "trixie-backports",
    "trixie-updates",
    "experimental",
];

/// A kernel that is here, ready to boot.
#[derive(Clone, Debug)]
pub(crate) struct Obtained {
    /// As `uname -r` prints it.
    pub(crate) release: String,
    /// The Debian package version, or the folder it came from.
    pub(crate) origin: String,
    /// The compressed image.
    pub(crate) image: PathBuf,
    /// `…/lib/modules/<release>`.
    pub(crate) modules: PathBuf,
}

/// Why a kernel cannot be had: this is never a passed test.
#[derive(Debug)]
pub(crate) struct NotObtainable(String);

impl fmt::Display for NotObtainable {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "not obtainable: {}", self.0)
    }
}

impl std::error::Error for NotObtainable {}

/// Gets the kernel `wanted` names: a series, `newest`, a package version, or a folder with an unpacked kernel.
///
/// # Errors
/// [`NotObtainable`], with the reason, when it cannot be had.
pub(crate) fn obtain(wanted: &str) -> Result<Obtained> {
    let result = if wanted.contains('/') || Path::new(wanted).is_dir() {
        in_folder(Path::new(wanted), wanted)
    } else {
        from_debian(wanted)
    };
    result.map_err(|why| NotObtainable(format!("kernel {wanted}: {why:#}")).into())
}

fn from_debian(wanted: &str) -> Result<Obtained> {
    let kernels = cache::folder("kernels")?;
    let _held = cache::lock(&kernels)?;
    let kernel = resolve(wanted, &kernels)?;
    let tree = kernels.join(&kernel.release).join(kernel.version.replace(':', "_"));
    if !tree.is_dir() {
        eprintln!("fetching kernel {} ({})", kernel.release, kernel.version);
        unpack(&kernel, &tree)?;
    }
    in_folder(&tree, &kernel.version)
}

/// Which kernel a name stands for: an answer of today, else a new one, else (offline) the last answer.
fn resolve(wanted: &str, kernels: &Path) -> Result<Kernel> {
    let answers = kernels.join("resolved");
    fs::create_dir_all(&answers)?;
    let path = answers.join(format!("{}.json", wanted.replace('/', "_")));
    let known = fs::read(&path).ok().and_then(|bytes| serde_json::from_slice::<Kernel>(&bytes).ok());
    let complete = archive().is_ok_and(|apt| apt.lacking().is_none());
    if let (Some(kernel), true) = (&known, complete && cache::is_younger(&path, apt::FRESH)) {
        return Ok(kernel.clone());
    }
    match ask(wanted) {
        Ok(kernel) => {
            fs::write(&path, serde_json::to_vec_pretty(&kernel)?)?;
            Ok(kernel)
        }
        Err(why) => match known {
            Some(kernel) => {
                eprintln!("kernel {wanted}: {} of an earlier day is used: {why:#}", kernel.release);
                Ok(kernel)
            }
            None => Err(why),
        },
    }
}

fn ask(wanted: &str) -> Result<Kernel> {
    let apt = archive()?;
    if !apt.is_fresh() {
        eprintln!("fetching the package lists of Debian's kernels");
        apt.update()?;
    }
    let offers = offers(&apt.lists())?;
    match (offers.choose(wanted), apt.lacking()) {
        (Some(kernel), None) => Ok(kernel),
        (Some(kernel), Some(why)) => {
            eprintln!("kernel {wanted}: {}, but not all package lists could be had: {why}", kernel.release);
            Ok(kernel)
        }
        (None, Some(why)) => {
            Err(anyhow!("not in the package lists that could be had, and not all could: {why}"))
        }
        (None, None) if offers.is_empty() => Err(anyhow!("the package lists hold no kernel")),
        (None, None) => Err(anyhow!("no linux-image-…-cloud-amd64 of it in {}", SUITES.join(", "))),
    }
}

fn archive() -> Result<Apt> {
    Apt::new("kernels", &SUITES.map(|suite| Suite(suite.to_owned())))
}

fn offers(lists: &Path) -> Result<Offers> {
    let mut offers = Offers::default();
    for entry in fs::read_dir(lists)?.flatten() {
        if entry.file_name().to_string_lossy().ends_with("_Packages") {
            offers.add(&String::from_utf8_lossy(&fs::read(entry.path())?));
        }
    }
    Ok(offers)
}

/// Downloads and unpacks into `tree`, which appears whole or not at all.
fn unpack(kernel: &Kernel, tree: &Path) -> Result<()> {
    let partial = tree.with_extension("partial");
    let _ = fs::remove_dir_all(&partial);
    let debs = partial.join("debs");
    fs::create_dir_all(&debs)?;
    for deb in archive()?.download(&kernel.packages, &debs)? {
        proc::output(Command::new("dpkg-deb").arg("-x").arg(deb).arg(&partial))?;
    }
    fs::remove_dir_all(&debs)?;
    fs::rename(&partial, tree).with_context(|| format!("cannot keep {}", tree.display()))
}

/// Finds image and modules in an unpacked kernel.
fn in_folder(folder: &Path, origin: &str) -> Result<Obtained> {
    let (modules, release) = ["usr/lib/modules", "lib/modules"]
        .iter()
        .find_map(|place| single(&folder.join(place)))
        .with_context(|| format!("{} holds no lib/modules/<release>", folder.display()))?;
    let candidates = [
        folder.join("boot").join(format!("vmlinuz-{release}")),
        modules.join("vmlinuz"),
        folder.join(format!("vmlinuz-{release}")),
        folder.join("vmlinuz"),
        folder.join("bzImage"),
    ];
    let image = candidates.into_iter().find(|path| path.is_file());
    let image = image.with_context(|| format!("{} holds no vmlinuz-{release}", folder.display()))?;
    Ok(Obtained { release, origin: origin.to_owned(), image, modules })
}

/// The one folder in `parent`, and its name.
fn single(parent: &Path) -> Option<(PathBuf, String)> {
    let mut folders = fs::read_dir(parent).ok()?.flatten().filter(|entry| entry.path().is_dir());
    let only = folders.next()?;
    folders.next().is_none().then(|| (only.path(), only.file_name().to_string_lossy().into_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_without_a_kernel_is_not_obtainable() {
        let error = obtain("/nonexistent/kernel").unwrap_err();
        assert!(error.is::<NotObtainable>());
        assert!(error.to_string().starts_with("not obtainable: kernel /nonexistent/kernel: "), "{error}");
    }
}
