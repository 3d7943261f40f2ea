//! Programs of Debian's that few guests need, with their libraries: a layer of its own for each kind, given only to what
//! asks for it. Nothing is installed here.

use std::collections::BTreeSet;
use std::collections::hash_map::DefaultHasher;
use std::fs::{self, File};
use std::hash::{Hash, Hasher};
use std::io::BufWriter;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use super::cpio::Archive;
use super::libraries;
use crate::apt::{Apt, Suite};
use crate::{cache, proc};

/// The Debian release whose programs are known to run in a guest.
const SUITES: [&str; 2] = ["bookworm", "bookworm-security"];
/// Where they put libraries.
const LIBRARIES: &str = "usr/lib/x86_64-linux-gnu";

/// What a guest can be given beside its base.
#[derive(Debug, Hash)]
pub(crate) struct Extra {
    /// What it is for; also the name of its folder in the cache, and of the flag.
    pub(crate) name: &'static str,
    /// The packages, and what they link to that a machine may lack.
    packages: &'static [&'static str],
    /// What is taken of them.
    programs: &'static [&'static str],
    /// Files of our own: where, and what is in them.
    files: &'static [(&'static str, &'static str)],
}

/// podman and runc. The guest has no systemd, its root cannot be pivoted away from, and images are folders.
pub(crate) static CONTAINERS: Extra = Extra {
    name: "containers",
    packages: &[
        "podman",
        "runc",
        "conmon",
        "libassuan0",
        "libdevmapper1.02.1",
        "libglib2.0-0",
        "libgpg-error0",
        "libgpgme11",
        "libseccomp2",
        "libsubid4",
    ],
    programs: &["usr/bin/podman", "usr/bin/conmon", "usr/sbin/runc"],
    files: &[
        (
            "etc/containers/containers.conf",
            "[containers]\ncgroupns = \"host\"\ndefault_ulimits = []\n\
             [engine]\ncgroup_manager = \"cgroupfs\"\nruntime = \"runc\"\nevents_logger = \"none\"\nno_pivot_root = true\n\
             [engine.runtimes]\nrunc = [\"/usr/sbin/runc\"]\n\
             [network]\nnetwork_backend = \"cni\"\n",
        ),
        (
            "etc/containers/storage.conf",
            "[storage]\ndriver = \"vfs\"\nrunroot = \"/run/containers/storage\"\ngraphroot = \"/tmp/containers/storage\"\n",
        ),
        ("etc/containers/policy.json", "{\"default\": [{\"type\": \"reject\"}]}\n"),
    ],
};

/// HAProxy.
pub(crate) static HAPROXY: Extra = Extra {
    name: "haproxy",
    packages: &["haproxy", "liblua5.3-0", "libopentracing-c-wrapper0", "libopentracing1"],
    programs: &["usr/sbin/haproxy"],
    files: &[],
};

/// The layer, made if it is not there: an archive to put behind a guest's base.
///
/// # Errors
/// When a package cannot be had, or a library of the machine's own is missing.
pub(crate) fn layer(extra: &Extra) -> Result<PathBuf> {
    let mut hasher = DefaultHasher::new();
    extra.hash(&mut hasher);
    let folder = cache::folder(extra.name)?;
    let _held = cache::lock(&folder)?;
    let path = folder.join(format!("{:016x}.cpio", hasher.finish()));
    if path.is_file() {
        return Ok(path);
    }
    eprintln!("fetching {} for the guest", extra.packages[0]);
    for older in fs::read_dir(&folder)?.flatten().map(|entry| entry.path()) {
        if older.extension().is_some_and(|extension| extension == "cpio") {
            fs::remove_file(older)?;
        }
    }
    let work = folder.join("work");
    let _ = fs::remove_dir_all(&work);
    let kept = make(extra, &work).and_then(|made| Ok(fs::rename(made, &path)?));
    let _ = fs::remove_dir_all(&work);
    kept.map(|()| path)
}

fn make(extra: &Extra, work: &Path) -> Result<PathBuf> {
    let (debs, tree) = (work.join("debs"), work.join("tree"));
    for folder in [&debs, &tree] {
        fs::create_dir_all(folder)?;
    }
    let apt = Apt::new(extra.name, &SUITES.map(|suite| Suite(suite.to_owned())))?;
    if !apt.is_fresh() {
        apt.update()?;
    }
    for deb in apt.download(&extra.packages.iter().map(|&name| name.to_owned()).collect::<Vec<_>>(), &debs)? {
        proc::output(Command::new("dpkg-deb").arg("-x").arg(deb).arg(&tree))?;
    }
    let made = work.join("layer.cpio");
    let mut layer = Archive::new(BufWriter::new(File::create(&made)?));
    let mut needed = BTreeSet::new();
    for program in extra.programs {
        let unpacked = tree.join(program);
        let content = fs::read(&unpacked).with_context(|| format!("cannot read {}", unpacked.display()))?;
        layer.file(program, 0o755, &content)?;
        match libraries::needed_beside(&unpacked, &tree.join(LIBRARIES))? {
            libraries if libraries.is_empty() => bail!("{program} needs no library: is it there?"),
            libraries => needed.extend(libraries),
        }
    }
    for library in needed {
        let place = libraries::place(library.strip_prefix(&tree).unwrap_or(&library));
        layer.file(place, 0o755, &fs::read(&library)?)?;
    }
    for (place, content) in extra.files {
        layer.file(place, 0o644, content.as_bytes())?;
    }
    layer.folder("var/tmp")?;
    layer.finish()?;
    Ok(made)
}
