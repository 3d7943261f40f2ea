//! Compiles the probes (`conntrack-ebpf`) and leaves the object at `$OUT_DIR/conntrack-ebpf`.
//!
//! rustup's stable toolchains cannot build for `bpfel-unknown-none`, so this build looks for one of two that
//! can: the distribution's rustc with a prebuilt `core` for BPF, else rustup's nightly with rust-src.

use std::env;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;

const TARGET: &str = "bpfel-unknown-none";
const OBJECT: &str = "conntrack-ebpf";

fn main() {
    if let Err(why) = build() {
        // One line: cargo shows it as the error of this build.
        println!("cargo::error={why}");
        std::process::exit(1);
    }
}

fn build() -> Result<(), String> {
    let manifest = PathBuf::from(required("CARGO_MANIFEST_DIR")?);
    let out = PathBuf::from(required("OUT_DIR")?);
    let workspace = manifest.parent().ok_or("conntrack-user lies outside its workspace")?;
    for source in ["conntrack-ebpf/src", "conntrack-ebpf/Cargo.toml", "conntrack-common/src"] {
        println!("cargo::rerun-if-changed={}", workspace.join(source).display());
    }
    for file in ["conntrack-common/Cargo.toml", "Cargo.lock", "conntrack-user/build.rs"] {
        println!("cargo::rerun-if-changed={}", workspace.join(file).display());
    }

    let linker = find_linker()
        .ok_or("bpf-linker is not installed, so the probes cannot be linked: run `cargo xtask setup`")?;
    let target_dir = out.join("ebpf-target");
    let mut cargo = Toolchain::find()
        .ok_or(
            "no Rust toolchain here builds for BPF: run `cargo xtask setup` (Debian: rustc-web, cargo-web and \
             libstd-rust-web-dev-bpf; elsewhere: `rustup toolchain install nightly --component rust-src`)",
        )?
        .cargo();
    cargo
        .current_dir(workspace)
        .args(["build", "--release", "--package", OBJECT, "--bin", OBJECT, "--target", TARGET])
        .arg("--target-dir")
        .arg(&target_dir)
        .env("CARGO_ENCODED_RUSTFLAGS", rustflags(&required("CARGO_CFG_TARGET_ARCH")?))
        .env("CARGO_TARGET_BPFEL_UNKNOWN_NONE_LINKER", &linker)
        // BTF is made from the debug information: the workspace's own release profile strips it.
        .env("CARGO_PROFILE_RELEASE_STRIP", "none")
        .env("CARGO_PROFILE_RELEASE_LTO", "fat")
        .env("CARGO_PROFILE_RELEASE_PANIC", "abort");
    for (set, feature) in [("CARGO_FEATURE_BENCH", "bench"), ("CARGO_FEATURE_DEBUG_LOG", "debug-log")] {
        if env::var_os(set).is_some() {
            cargo.args(["--features", feature]);
        }
    }
    run(cargo)?;

    let built = target_dir.join(TARGET).join("release").join(OBJECT);
    std::fs::copy(&built, out.join(OBJECT)).map_err(|error| {
        format!("the probes were built but {} cannot be copied: {error}", built.display())
    })?;
    Ok(())
}

/// Runs the inner build; what it says goes to the outer build's output, which cargo shows when it fails.
fn run(mut cargo: Command) -> Result<(), String> {
    let output = cargo.output().map_err(|error| format!("cargo for the probes does not start: {error}"))?;
    let said = String::from_utf8_lossy(&output.stderr);
    eprintln!("{said}");
    if output.status.success() {
        return Ok(());
    }
    for line in said.lines() {
        println!("cargo::warning={line}");
    }
    Err(format!("conntrack-ebpf does not build ({}): see the warnings above", output.status))
}

/// Which toolchain builds the probes.
enum Toolchain {
    /// /usr/bin/rustc with a prebuilt `core` for BPF.
    Distribution,
    /// rustup's nightly with rust-src, which builds `core` itself.
    Nightly,
}

impl Toolchain {
    fn find() -> Option<Self> {
        let mut rustc = Command::new("/usr/bin/rustc");
        if sysroot(&mut rustc).is_some_and(|root| root.join("lib/rustlib").join(TARGET).is_dir())
            && Path::new("/usr/bin/cargo").exists()
        {
            return Some(Self::Distribution);
        }
        let mut rustup = Command::new("rustup");
        rustup.args(["run", "nightly", "rustc"]);
        sysroot(&mut rustup)
            .is_some_and(|root| root.join("lib/rustlib/src/rust/library").is_dir())
            .then_some(Self::Nightly)
    }

    /// A cargo of this toolchain, told nothing of the outer build.
    fn cargo(&self) -> Command {
        let mut cargo = match self {
            Self::Distribution => {
                let mut cargo = Command::new("/usr/bin/cargo");
                clean(&mut cargo);
                let mut path = OsString::from("/usr/bin:");
                path.push(env::var_os("PATH").unwrap_or_default());
                // The bootstrap switch lets a stable rustc take the unstable features BPF code needs.
                cargo.env("PATH", path).env("RUSTC", "/usr/bin/rustc").env("RUSTC_BOOTSTRAP", "1");
                cargo
            }
            Self::Nightly => {
                let mut cargo = Command::new("rustup");
                clean(&mut cargo);
                cargo.args(["run", "nightly", "cargo"]);
                cargo
            }
        };
        if matches!(self, Self::Nightly) {
            cargo.env("CARGO_UNSTABLE_BUILD_STD", "core");
        }
        cargo
    }
}

/// Asks a rustc for its sysroot; nothing if it does not run.
fn sysroot(rustc: &mut Command) -> Option<PathBuf> {
    clean(rustc);
    let output = rustc.args(["--print", "sysroot"]).output().ok()?;
    output.status.success().then(|| PathBuf::from(String::from_utf8_lossy(&output.stdout).trim()))
}

/// Takes away what the outer cargo and rustup set for their own build; how to reach a registry stays.
fn clean(command: &mut Command) {
    const KEPT: [&str; 6] =
        ["CARGO_HOME", "CARGO_MAKEFLAGS", "CARGO_HTTP_", "CARGO_NET_", "CARGO_REGISTR", "CARGO_SOURCE_"];
    const DROPPED: [&str; 10] = [
        "CARGO",
        "RUSTC",
        "RUSTDOC",
        "RUSTFLAGS",
        "RUSTUP_TOOLCHAIN",
        "CLIPPY_",
        "OUT_DIR",
        "TARGET",
        "HOST",
        "PROFILE",
    ];
    for (name, _) in env::vars_os() {
        let Some(text) = name.to_str() else { continue };
        let starts = |prefixes: &[&str]| prefixes.iter().any(|prefix| text.starts_with(prefix));
        if starts(&DROPPED) && !starts(&KEPT) {
            command.env_remove(&name);
        }
    }
}

/// The flags of the probes' build, in cargo's encoded form.
fn rustflags(arch: &str) -> String {
    [format!("--cfg=bpf_target_arch=\"{arch}\""), "-Cdebuginfo=2".to_owned(), "-Clink-arg=--btf".to_owned()]
        .join("\u{1f}")
}

/// bpf-linker from PATH, cargo's folder of installed programs, or the cache `cargo xtask setup` fills.
fn find_linker() -> Option<PathBuf> {
    let home = env::var_os("HOME").map(PathBuf::from);
    let set = |name: &str| env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let cargo_home = set("CARGO_HOME").or_else(|| Some(home.clone()?.join(".cargo")));
    let cache = set("CONNTRACK_PRESSURE_CACHE").or_else(|| {
        let base = set("XDG_CACHE_HOME").or_else(|| Some(home.clone()?.join(".cache")))?;
        Some(base.join("conntrack-pressure"))
    });
    println!("cargo::rerun-if-env-changed=CONNTRACK_PRESSURE_CACHE");
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path)
        .chain(cargo_home.map(|folder| folder.join("bin")))
        .chain(cache.map(|folder| folder.join("bin")))
        .map(|folder| folder.join("bpf-linker"))
        .find(|candidate| candidate.is_file())
}

fn required(name: &str) -> Result<String, String> {
    env::var(name).map_err(|_| format!("{name} is not set: build this with cargo"))
}
