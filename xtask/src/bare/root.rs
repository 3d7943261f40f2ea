//! A fresh Debian root with nothing but the Rust toolchain bound in, and running commands in it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::apt::Mirrors;
use crate::{cache, proc};

/// The release the README promises.
const RELEASE: &str = "bookworm";
/// Where the workspace is in the root.
pub(super) const PLACE: &str = "/root/conntrack-pressure";
/// Mounts what a machine has, in a mount namespace of its own that ends with the command, and becomes the command.
const ENTER: &str = r#"
set -e
root=$1 toolchain=$2
shift 2
mount -t proc proc "$root/proc"
mount --rbind /sys "$root/sys"
mount --rbind /dev "$root/dev"
mount --bind "$toolchain" "$root/opt/rust"
mount -o remount,bind,ro "$root/opt/rust"
exec chroot "$root" "$@"
"#;

/// The root; removed with it.
pub(super) struct Root {
    path: PathBuf,
    toolchain: PathBuf,
    environment: Vec<(String, String)>,
}

impl Root {
    /// Makes one with debootstrap from this machine's mirror.
    ///
    /// # Errors
    /// When this is not root, debootstrap is missing, or the mirror does not answer.
    pub(super) fn make() -> Result<Self> {
        anyhow::ensure!(proc::is_root(), "making a root needs root's rights: run this as root");
        let debootstrap =
            proc::find("debootstrap").context("debootstrap is missing: `apt-get install debootstrap`")?;
        let mirrors = Mirrors::of_this_machine()?;
        let folder = cache::folder("bare")?;
        forget_older(&folder)?;
        let path = folder.join(format!("root-{}", std::process::id()));
        let sysroot = proc::text(Command::new("rustc").args(["--print", "sysroot"]))?;
        let mut root = Self { path, toolchain: sysroot.trim().into(), environment: Vec::new() };
        proc::output(
            Command::new(debootstrap).args(["--variant=minbase", RELEASE]).arg(&root.path).arg(&mirrors.main),
        )?;
        let sources = format!(
            "deb {main} {RELEASE} main\ndeb {main} {RELEASE}-updates main\ndeb {security} {RELEASE}-security main\n",
            main = mirrors.main,
            security = mirrors.security
        );
        root.write("etc/apt/sources.list", sources.as_bytes())?;
        fs::create_dir_all(root.path.join("opt/rust"))?;
        root.network()?;
        Ok(root)
    }

    /// What a machine needs to reach mirror and registry from here: resolver, proxies, certificates, and cargo's
    /// own settings.
    fn network(&mut self) -> Result<()> {
        for file in ["/etc/resolv.conf", "/etc/hosts"] {
            if let Ok(text) = fs::read(file) {
                self.write(file, &text)?;
            }
        }
        let cargo_home = std::env::var_os("CARGO_HOME").map(PathBuf::from);
        let home = std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cargo"));
        if let Some(text) = cargo_home.or(home).and_then(|home| fs::read(home.join("config.toml")).ok()) {
            self.write("root/.cargo/config.toml", &text)?;
        }
        for (name, value) in std::env::vars() {
            if name.to_ascii_lowercase().ends_with("_proxy") || name.starts_with("CARGO_REGISTRIES_") {
                self.environment.push((name, value));
            }
        }
        // A machine behind an authority of its own names its certificates so.
        if let Some(certificates) = std::env::var("SSL_CERT_FILE").ok().and_then(|path| fs::read(path).ok()) {
            self.write("opt/certificates.crt", &certificates)?;
            for name in ["SSL_CERT_FILE", "CARGO_HTTP_CAINFO"] {
                self.environment.push((name.to_owned(), "/opt/certificates.crt".to_owned()));
            }
        }
        Ok(())
    }

    fn write(&self, file: &str, content: &[u8]) -> Result<()> {
        let path = self.path.join(file.trim_start_matches('/'));
        fs::create_dir_all(path.parent().unwrap_or(&self.path))?;
        fs::write(&path, content).with_context(|| format!("cannot write {}", path.display()))
    }

    /// Puts a clean clone of the last commit there; its path on this machine.
    ///
    /// # Errors
    /// When git is missing or fails.
    pub(super) fn clone(&self, workspace: &Path) -> Result<PathBuf> {
        let place = self.path.join(PLACE.trim_start_matches('/'));
        proc::output(
            Command::new("git").args(["clone", "--quiet", "--no-hardlinks"]).arg(workspace).arg(&place),
        )?;
        let commit =
            |at: &Path| proc::text(Command::new("git").arg("-C").arg(at).args(["rev-parse", "HEAD"]));
        anyhow::ensure!(commit(&place)? == commit(workspace)?, "the clone is of another commit");
        Ok(place)
    }

    /// The distribution's own version.
    pub(super) fn version(&self) -> Result<String> {
        Ok(fs::read_to_string(self.path.join("etc/debian_version"))?.trim().to_owned())
    }

    /// A command in the root, in the workspace's folder, with only the environment a new machine has. The process
    /// started is, in the end, the command itself: a signal to it reaches the command.
    pub(super) fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new("unshare");
        command.args(["--mount", "sh", "-c", ENTER, "enter"]).arg(&self.path).arg(&self.toolchain);
        command.args(["/usr/bin/env", "-i", "HOME=/root", "LC_ALL=C.UTF-8", "CI=true"]);
        command.arg("PATH=/opt/rust/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
        command.args(self.environment.iter().map(|(name, value)| format!("{name}={value}")));
        command.args(["sh", "-c", "cd \"$0\" && exec \"$@\"", PLACE]).args(words);
        command
    }
}

impl Drop for Root {
    fn drop(&mut self) {
        let _ = remove(&self.path);
    }
}

/// What a run that was killed left behind.
fn forget_older(folder: &Path) -> Result<()> {
    for entry in fs::read_dir(folder)?.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let owner = name.strip_prefix("root-").unwrap_or_default();
        if !owner.is_empty() && !Path::new("/proc").join(owner).exists() {
            remove(&entry.path())?;
        }
    }
    Ok(())
}

/// Never leaves the file system: nothing that is mounted there, by mistake, is touched.
fn remove(path: &Path) -> Result<()> {
    proc::output(Command::new("rm").args(["-rf", "--one-file-system", "--"]).arg(path)).map(drop)
}
