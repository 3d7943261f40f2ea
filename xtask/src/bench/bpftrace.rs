//! Debian's bpftrace for a guest, with every library it needs in one archive: nothing is installed here.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::apt::{Apt, Suite};
use crate::{cache, proc};

/// The Debian release whose bpftrace is known to run in a guest.
const SUITES: [&str; 1] = ["bookworm"];
/// bpftrace, and what it links to that a machine may lack.
const PACKAGES: [&str; 7] =
    ["bpftrace", "libbpfcc", "libclang1-14", "libllvm14", "libbpf1", "libdw1", "libelf1"];
/// Where Debian's packages put libraries.
const LIBRARIES: &str = "usr/lib/x86_64-linux-gnu";

/// The archive, made if it is not there: `bpftrace`, `ld-linux-x86-64.so.2` and libraries, in no folder.
///
/// # Errors
/// When a package cannot be had, or a library of the machine's own is missing.
pub(crate) fn archive() -> Result<PathBuf> {
    let folder = cache::folder("bpftrace")?;
    let _held = cache::lock(&folder)?;
    let archive = folder.join("bpftrace.tar");
    if archive.is_file() {
        return Ok(archive);
    }
    eprintln!("fetching bpftrace for the guest");
    let work = folder.join("work");
    let _ = fs::remove_dir_all(&work);
    let made = make(&work);
    let kept = made.and_then(|made| Ok(fs::rename(made, &archive)?));
    let _ = fs::remove_dir_all(&work);
    kept.map(|()| archive)
}

fn make(work: &Path) -> Result<PathBuf> {
    let (debs, tree, pack) = (work.join("debs"), work.join("tree"), work.join("pack"));
    for folder in [&debs, &tree, &pack] {
        fs::create_dir_all(folder)?;
    }
    let apt = Apt::new("bench", &SUITES.map(|suite| Suite(suite.to_owned())))?;
    if !apt.is_fresh() {
        apt.update()?;
    }
    for deb in apt.download(&PACKAGES.map(str::to_owned), &debs)? {
        proc::output(Command::new("dpkg-deb").arg("-x").arg(deb).arg(&tree))?;
    }
    let program = tree.join("usr/bin/bpftrace");
    for library in libraries(&program, &tree.join(LIBRARIES))? {
        let name = library.file_name().context("a library without a name")?;
        fs::copy(&library, pack.join(name)).with_context(|| format!("cannot copy {}", library.display()))?;
    }
    fs::copy(&program, pack.join("bpftrace"))?;
    let archive = work.join("bpftrace.tar");
    proc::output(Command::new("tar").arg("-C").arg(&pack).arg("-cf").arg(&archive).arg("."))?;
    Ok(archive)
}

fn libraries(program: &Path, folder: &Path) -> Result<Vec<PathBuf>> {
    let answer =
        proc::text(Command::new("ldd").arg(program).env("LD_LIBRARY_PATH", folder).env("LC_ALL", "C"))?;
    ensure!(!answer.contains("not found"), "bpftrace lacks a library here: {answer}");
    let words = answer.split_whitespace().filter(|word| word.starts_with('/'));
    Ok(words.map(PathBuf::from).collect())
}
