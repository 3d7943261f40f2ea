//! Which kernel modules a guest carries, with all they depend on.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::proc;

/// Folders of which every module is taken.
const FOLDERS: [&str; 6] = [
    "kernel/net/netfilter/",
    "kernel/net/ipv4/",
    "kernel/net/ipv6/",
    "kernel/net/bridge/",
    "kernel/net/sctp/",
    "kernel/net/sched/",
];
/// Folders under those that no guest needs.
const LEFT_OUT: [&str; 3] = ["/ipvs/", "/ipset/", "/tcp_"];
/// Single modules, by name.
const MODULES: [&str; 9] =
    ["veth", "dummy", "ifb", "macvlan", "tun", "tcp_diag", "inet_diag", "udp_diag", "unix_diag"];

/// Copies a guest's modules to `staged` (a `lib/modules/<release>` folder), decompressed and indexed.
///
/// # Errors
/// When a module cannot be read or decompressed, or `depmod` fails.
pub(crate) fn stage(modules: &Path, release: &str, root: &Path) -> Result<()> {
    let staged = root.join("lib/modules").join(release);
    let all = listing(&modules.join("kernel"), modules)?;
    for module in all.iter().filter(|module| is_wanted(module)) {
        copy(modules, module, &staged)?;
    }
    // modules.dep of an unpacked package does not exist: depmod makes it, over links to every module.
    let index = root.join("index");
    let linked = index.join("lib/modules").join(release);
    fs::create_dir_all(&linked)?;
    std::os::unix::fs::symlink(modules.join("kernel").canonicalize()?, linked.join("kernel"))?;
    for name in ["modules.builtin", "modules.order", "modules.builtin.modinfo"] {
        if modules.join(name).is_file() {
            fs::copy(modules.join(name), linked.join(name))?;
            fs::copy(modules.join(name), staged.join(name))?;
        }
    }
    depmod(&index, release)?;
    let dependencies = Dependencies::parse(&fs::read_to_string(linked.join("modules.dep"))?);
    let wanted = all.iter().filter(|module| is_wanted(module)).map(String::as_str);
    for module in dependencies.closure(wanted) {
        if !staged.join(plain(&module)).exists() {
            copy(modules, &module, &staged)?;
        }
    }
    fs::remove_dir_all(&index)?;
    depmod(root, release)
}

fn depmod(root: &Path, release: &str) -> Result<()> {
    let depmod = proc::find("depmod").context("depmod is not installed: run `cargo xtask setup --guests`")?;
    proc::output(Command::new(depmod).arg("-b").arg(root).arg(release)).map(drop)
}

/// Every module file under `folder`, as a path within `modules`, sorted.
fn listing(folder: &Path, modules: &Path) -> Result<Vec<String>> {
    let mut found = Vec::new();
    let entries = fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))?;
    for entry in entries {
        let path = entry?.path();
        if path.is_dir() {
            found.extend(listing(&path, modules)?);
        } else if let Some(name) = path.strip_prefix(modules).ok().and_then(Path::to_str) {
            found.push(name.to_owned());
        }
    }
    found.sort();
    Ok(found)
}

/// Whether a guest carries this module for its own sake.
fn is_wanted(module: &str) -> bool {
    MODULES.contains(&name(module))
        || (FOLDERS.iter().any(|folder| module.starts_with(folder))
            && !LEFT_OUT.iter().any(|part| module.contains(part)))
}

/// `nf_nat` of `kernel/net/netfilter/nf_nat.ko.xz`.
fn name(module: &str) -> &str {
    let file = module.rsplit('/').next().unwrap_or(module);
    file.split(".ko").next().unwrap_or(file)
}

/// The path without its compression.
fn plain(module: &str) -> &str {
    module.find(".ko").map_or(module, |at| &module[..at + 3])
}

fn copy(modules: &Path, module: &str, staged: &Path) -> Result<()> {
    let source = modules.join(module);
    let target = staged.join(plain(module));
    if let Some(parent) = target.parent() {
        fs::create_dir_all(parent)?;
    }
    let unpack = match module.rsplit('.').next() {
        Some("xz") => "xz",
        Some("zst") => "zstd",
        Some("gz") => "gzip",
        _ => {
            fs::copy(&source, &target).with_context(|| format!("cannot copy {}", source.display()))?;
            return Ok(());
        }
    };
    let content = proc::output(Command::new(unpack).args(["-d", "-q", "-c"]).arg(&source))?;
    fs::write(&target, content).with_context(|| format!("cannot write {}", target.display()))
}

/// What modules.dep says.
#[derive(Debug, Default)]
struct Dependencies(BTreeMap<String, Vec<String>>);

impl Dependencies {
    fn parse(text: &str) -> Self {
        let line = |line: &str| {
            let (module, needs) = line.split_once(':')?;
            Some((module.to_owned(), needs.split_whitespace().map(str::to_owned).collect()))
        };
        Self(text.lines().filter_map(line).collect())
    }

    /// The modules and everything they need.
    fn closure<'a>(&self, modules: impl Iterator<Item = &'a str>) -> BTreeSet<String> {
        let mut open = modules.map(str::to_owned).collect::<Vec<_>>();
        let mut closed = BTreeSet::new();
        while let Some(module) = open.pop() {
            if closed.insert(module.clone()) {
                open.extend(self.0.get(&module).into_iter().flatten().cloned());
            }
        }
        closed
    }
}

/// Every file under a folder, relative to it, sorted.
///
/// # Errors
/// When a folder cannot be read.
pub(crate) fn files(root: &Path) -> Result<Vec<PathBuf>> {
    Ok(listing(root, root)?.into_iter().map(PathBuf::from).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_closure_follows_dependencies_of_dependencies() {
        let text = "a.ko.xz: b.ko.xz\nb.ko.xz: c.ko.xz d.ko.xz\nc.ko.xz:\nd.ko.xz: b.ko.xz\ne.ko.xz:\n";
        let closure = Dependencies::parse(text).closure(["a.ko.xz"].into_iter());
        assert_eq!(closure.into_iter().collect::<Vec<_>>(), ["a.ko.xz", "b.ko.xz", "c.ko.xz", "d.ko.xz"]);
    }

    #[test]
    fn netfilter_is_wanted_and_the_rest_is_not() {
        assert!(is_wanted("kernel/net/netfilter/nf_conntrack.ko.xz"));
        assert!(is_wanted("kernel/drivers/net/veth.ko.xz"));
        assert!(is_wanted("kernel/net/ipv4/tcp_diag.ko"));
        assert!(!is_wanted("kernel/net/ipv4/tcp_bbr.ko.xz"));
        assert!(!is_wanted("kernel/net/netfilter/ipvs/ip_vs.ko.xz"));
        assert!(!is_wanted("kernel/fs/xfs/xfs.ko.xz"));
        assert_eq!(plain("kernel/net/x.ko.zst"), "kernel/net/x.ko");
        assert_eq!(name("kernel/net/x.ko.zst"), "x");
    }
}
