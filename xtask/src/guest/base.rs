//! The part of a guest's root that only changes with the kernel and the host's tools: built once, cached.

use std::collections::BTreeSet;
use std::collections::hash_map::DefaultHasher;
use std::fs::{self, File};
use std::hash::{Hash, Hasher};
use std::io::BufWriter;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use super::cpio::Archive;
use super::{libraries, modules};
use crate::kernel::obtain::Obtained;
use crate::{cache, proc};

/// Programs of the host a guest carries, beside busybox.
const TOOLS: [&str; 11] =
    ["nft", "ip", "ss", "tc", "conntrack", "bpftool", "bash", "dash", "kmod", "setpriv", "tmux"];
/// Names one program answers to.
const LINKS: [(&str, &str); 6] = [
    ("usr/bin/sh", "dash"),
    ("usr/sbin/modprobe", "/usr/bin/kmod"),
    ("usr/sbin/rmmod", "/usr/bin/kmod"),
    ("usr/sbin/insmod", "/usr/bin/kmod"),
    ("usr/sbin/lsmod", "/usr/bin/kmod"),
    ("usr/sbin/modinfo", "/usr/bin/kmod"),
];
const INIT: &str = include_str!("init.sh");
const UTF8: &str = "/usr/lib/locale/C.utf8/LC_CTYPE";
/// Part of the cache key: raise it when the layout below changes.
const LAYOUT: u32 = 2;

/// The cached base archive for a kernel, built if it is not there.
///
/// # Errors
/// When a tool is not installed, or a module or file cannot be read.
pub(crate) fn archive(kernel: &Obtained) -> Result<PathBuf> {
    let tools = tools()?;
    let folder = cache::folder("guests")?;
    let _held = cache::lock(&folder)?;
    let path = folder.join(format!("{}-{:016x}.cpio", kernel.release, key(kernel, &tools)?));
    if path.is_file() {
        return Ok(path);
    }
    eprintln!("building the guest root for {}", kernel.release);
    forget_older(&folder, &kernel.release);
    let work = folder.join(format!("work-{}", std::process::id()));
    let _ = fs::remove_dir_all(&work);
    let built = build(kernel, &tools, &work, &work.join("base.cpio"));
    let kept = built.and_then(|()| Ok(fs::rename(work.join("base.cpio"), &path)?));
    let _ = fs::remove_dir_all(&work);
    kept.map(|()| path)
}

/// Archives of this kernel made from other tools are of no more use.
fn forget_older(folder: &Path, release: &str) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let stale = name.strip_prefix(release).is_some_and(|rest| rest.starts_with('-'));
        // An archive in use stays readable for who has it open.
        if stale && name.ends_with(".cpio") {
            let _ = fs::remove_file(entry.path());
        }
    }
}

/// Busybox and the tools, by their real paths here.
fn tools() -> Result<Vec<(String, PathBuf)>> {
    let found = |name: &str| {
        let path = proc::find(name)
            .with_context(|| format!("{name} is not installed: run `cargo xtask setup --guests`"))?;
        Ok((name.to_owned(), path.canonicalize()?))
    };
    std::iter::once("busybox").chain(TOOLS).map(found).collect()
}

/// Changes when the kernel, a tool, or the layout does.
fn key(kernel: &Obtained, tools: &[(String, PathBuf)]) -> Result<u64> {
    let mut hasher = DefaultHasher::new();
    (LAYOUT, INIT, &kernel.release, &kernel.origin, kernel.modules.as_os_str()).hash(&mut hasher);
    for (name, path) in tools {
        let metadata = fs::metadata(path)?;
        (name, path.as_os_str(), metadata.size(), metadata.mtime()).hash(&mut hasher);
    }
    Ok(hasher.finish())
}

fn build(kernel: &Obtained, tools: &[(String, PathBuf)], work: &Path, path: &Path) -> Result<()> {
    let staged = work.join("root");
    fs::create_dir_all(&staged)?;
    modules::stage(&kernel.modules, &kernel.release, &staged)?;
    let mut root = Archive::new(BufWriter::new(File::create(path)?));
    for folder in ["bin", "sbin", "lib", "lib64"] {
        root.folder(format!("usr/{folder}"))?;
        root.link(folder, &format!("usr/{folder}"))?;
    }
    for folder in ["dev", "proc", "sys", "tmp", "run", "root", "var/log", "etc/guest", "usr/local/bin"] {
        root.folder(folder)?;
    }
    root.device("dev/console", 5, 1)?;
    root.device("dev/null", 1, 3)?;
    root.file("init", 0o755, INIT.as_bytes())?;
    root.file("etc/passwd", 0o644, b"root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534::/:/bin/false\n")?;
    root.file("etc/group", 0o644, b"root:x:0:\nnogroup:x:65534:\n")?;
    root.file("etc/hosts", 0o644, b"127.0.0.1 localhost guest\n::1 localhost\n")?;
    root.file("etc/nsswitch.conf", 0o644, b"hosts: files\n")?;
    add_tools(&mut root, tools)?;
    // Where glibc has no C.UTF-8 built in; without it tmux does not start.
    if let Ok(content) = fs::read(UTF8) {
        root.file(UTF8.trim_start_matches('/'), 0o644, &content)?;
    }
    for file in modules::files(&staged)? {
        let content = fs::read(staged.join(&file))?;
        root.file(Path::new("usr").join(&file), 0o644, &content)?;
    }
    root.finish()?;
    Ok(())
}

fn add_tools<W: std::io::Write>(root: &mut Archive<W>, tools: &[(String, PathBuf)]) -> Result<()> {
    let mut libraries = BTreeSet::new();
    for (name, path) in tools {
        let system = path.parent().is_some_and(|folder| folder.ends_with("sbin"));
        let place = if system { format!("usr/sbin/{name}") } else { format!("usr/bin/{name}") };
        root.file(place, 0o755, &fs::read(path)?)?;
        libraries.extend(self::libraries::needed(path)?);
    }
    for library in libraries {
        root.file(self::libraries::place(&library), 0o755, &fs::read(&library)?)?;
    }
    for (place, target) in LINKS {
        root.link(place, target)?;
    }
    let Some((_, busybox)) = tools.iter().find(|(name, _)| name == "busybox") else { return Ok(()) };
    for applet in proc::text(Command::new(busybox).arg("--list"))?.lines() {
        let places = ["usr/bin", "usr/sbin"].map(|folder| format!("{folder}/{applet}"));
        if !places.iter().any(|place| root.has(place)) {
            root.link(&places[0], "busybox")?;
        }
    }
    Ok(())
}
