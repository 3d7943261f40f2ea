//! Installs Debian packages (apt, as root) and bpf-linker (cargo, as the user).

use std::process::Command;

use anyhow::{Context, Result};

use super::Refused;
use super::needs::{LINKER_VERSION, LLVM, Missing};
use crate::apt::{Apt, Suite};
use crate::{build, cache, proc};

/// Installs what is missing on the Debian release `codename`.
///
/// # Errors
/// [`Refused`] when root's rights are needed and cannot be had; else what failed.
pub(crate) fn install(missing: &Missing, codename: &str) -> Result<()> {
    let root = cache::root()?;
    std::fs::create_dir_all(&root).with_context(|| format!("cannot make {}", root.display()))?;
    let _held = cache::lock(&root)?;
    if !missing.packages.is_empty() {
        packages(&missing.packages, codename)?;
    }
    if missing.linker {
        linker()?;
    }
    Ok(())
}

/// The release's own suites, security updates among them (that is where rustc-web is), whatever the machine's
/// sources leave out.
fn packages(packages: &[&str], codename: &str) -> Result<()> {
    let suites = ["", "-updates", "-security"].map(|end| Suite(format!("{codename}{end}")));
    let apt = Apt::new(&format!("host-{codename}"), &suites)?;
    let updated = !apt.is_fresh();
    if updated {
        update(&apt)?;
    }
    let install = |apt: &Apt| {
        let mut command = as_root("apt-get")?;
        command.args(apt.options()).args(["-q", "-y", "--no-install-recommends", "install"]).args(packages);
        proc::run(&mut command)
    };
    match install(&apt) {
        // Lists of earlier today can name versions the mirror no longer has.
        Err(_) if !updated => {
            update(&apt)?;
            install(&apt)
        }
        result => result,
    }
}

fn update(apt: &Apt) -> Result<()> {
    eprintln!("fetching Debian's package lists");
    proc::output(as_root("apt-get")?.args(apt.options()).args(["-q", "update"]))
        .context("package lists cannot be fetched")?;
    apt.mark_updated("")
}

/// A command that runs with root's rights.
fn as_root(program: &str) -> Result<Command> {
    let mut command = if proc::is_root() {
        Command::new("env")
    } else if let Some(sudo) = proc::find("sudo") {
        let mut command = Command::new(sudo);
        command.arg("env");
        command
    } else {
        let line = "installing packages needs root, and there is no sudo: run `cargo xtask setup` as root";
        return Err(Refused(line.to_owned()).into());
    };
    command.args(["DEBIAN_FRONTEND=noninteractive", "LC_ALL=C", program]);
    Ok(command)
}

/// Builds bpf-linker into the cache, where the build of the probes looks for it.
fn linker() -> Result<()> {
    eprintln!("building bpf-linker {LINKER_VERSION} (a minute or two)");
    let mut cargo = build::cargo()?;
    cargo
        .args(["install", "--quiet", "bpf-linker", "--version", LINKER_VERSION])
        .args(["--no-default-features", "--features", "llvm-22", "--root"])
        .arg(cache::root()?)
        .current_dir("/")
        .env_remove("CARGO_TARGET_DIR")
        .env("LLVM_PREFIX", LLVM)
        .env("LLVM_SYS_220_PREFIX", LLVM);
    proc::run(&mut cargo).context("bpf-linker does not build")
}
