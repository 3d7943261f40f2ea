//! etcd and kube-apiserver, from Debian's archive into the cache: unpacked, and built once.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use crate::apt::{Apt, Suite};
use crate::{cache, proc};

/// The release that has Kubernetes' source with all it needs vendored, and a Go of its time.
const SUITES: [&str; 2] = ["bookworm", "bookworm-security"];
/// What is unpacked.
const PACKAGES: [&str; 3] = ["etcd-server", "golang-1.19-go", "golang-1.19-src"];
/// How it is built.
const BUILD: &str = include_str!("build.sh");

/// What there is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Parts {
    /// Debian's version of etcd-server.
    pub(super) etcd: String,
    /// Debian's version of the kubernetes source package.
    pub(super) kubernetes: String,
    /// Debian's version of golang-1.19.
    pub(super) go: String,
    /// How long the build took, in seconds.
    pub(super) built_in: u64,
}

/// The folder with `etcd` and `kube-apiserver`, and what they are. Remove the folder to have them anew.
///
/// # Errors
/// When a package cannot be had, or the build fails.
pub(super) fn obtain() -> Result<(PathBuf, Parts)> {
    let folder = cache::folder("cluster")?;
    let _held = cache::lock(&folder)?;
    let told = folder.join("parts.json");
    if let Some(parts) = fs::read(&told).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok()) {
        return Ok((folder, parts));
    }
    let work = folder.join("build");
    let _ = fs::remove_dir_all(&work);
    fs::create_dir_all(&work)?;
    let apt = Apt::with_sources("cluster", &SUITES.map(|suite| Suite(suite.to_owned())))?;
    if !apt.is_fresh() {
        apt.update()?;
    }
    eprintln!("fetching etcd, Go and the source of kube-apiserver");
    let packages = PACKAGES.map(str::to_owned);
    for deb in apt.download(&packages, &work).with_context(|| lacking(&apt))? {
        let part = if name(&deb).starts_with("etcd") { "etcd" } else { "go" };
        proc::output(Command::new("dpkg").arg("-x").arg(&deb).arg(work.join(part)))?;
    }
    apt.download_source("kubernetes", &work).with_context(|| lacking(&apt))?;
    let version = |prefix: &str, suffix: &str| version_of(&work, prefix, suffix);
    let kubernetes = version("kubernetes_", ".dsc")?;
    eprintln!("building kube-apiserver {}, once: this takes minutes", upstream(&kubernetes));
    let started = Instant::now();
    let mut build = Command::new("sh");
    build.args(["-c", BUILD, "build.sh"]).arg(&work);
    proc::output(&mut build).context("kube-apiserver does not build")?;
    let parts = Parts {
        etcd: version("etcd-server_", "_amd64.deb")?,
        go: version("golang-1.19-go_", "_amd64.deb")?,
        kubernetes,
        built_in: started.elapsed().as_secs(),
    };
    fs::rename(work.join("etcd/usr/bin/etcd"), folder.join("etcd"))?;
    fs::rename(work.join("kube-apiserver"), folder.join("kube-apiserver"))?;
    fs::remove_dir_all(&work)?;
    fs::write(&told, serde_json::to_vec_pretty(&parts)?)?;
    Ok((folder, parts))
}

fn lacking(apt: &Apt) -> String {
    apt.lacking().unwrap_or_else(|| "not in Debian's archive".to_owned())
}

fn name(file: &Path) -> String {
    file.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

/// The version in the name of the file that begins and ends so.
fn version_of(folder: &Path, prefix: &str, suffix: &str) -> Result<String> {
    let names = fs::read_dir(folder)?.flatten().map(|entry| name(&entry.path()));
    let mut versions =
        names.filter_map(|name| Some(name.strip_prefix(prefix)?.strip_suffix(suffix)?.replace("%3a", ":")));
    versions.next().with_context(|| format!("no {prefix}*{suffix} was fetched"))
}

/// Upstream's version in Debian's.
fn upstream(debian: &str) -> &str {
    let version = debian.rsplit_once('-').map_or(debian, |(version, _)| version);
    version.rsplit_once("+really").map_or(version, |(_, version)| version)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn upstreams_version() {
        assert_eq!(upstream("1.20.5+really1.20.2-1.1+deb12u1"), "1.20.2");
        assert_eq!(upstream("1.33.4+ds-1"), "1.33.4+ds");
        assert_eq!(upstream("1.20.2"), "1.20.2");
    }
}
