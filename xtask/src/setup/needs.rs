//! What a machine needs, and what of it is missing.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::{cache, proc};

/// The version of bpf-linker that goes with LLVM 22.
pub(crate) const LINKER_VERSION: &str = "0.10.4";
/// Where Debian's LLVM 22 is.
pub(crate) const LLVM: &str = "/usr/lib/llvm-22";

/// Debian packages every build needs.
const BUILD: [&str; 2] = ["build-essential", "ca-certificates"];
/// Debian packages that build BPF programs.
const BPF_TOOLCHAIN: [&str; 3] = ["rustc-web", "cargo-web", "libstd-rust-web-dev-bpf"];
/// Debian packages bpf-linker is built from.
const LINKER: [&str; 6] =
    ["llvm-22-dev", "libpolly-22-dev", "libzstd-dev", "zlib1g-dev", "libxml2-dev", "libffi-dev"];
/// Debian packages guests are made of: package, and the program looked for on other distributions.
const GUESTS: [(&str, &str); 11] = [
    ("qemu-system-x86", "qemu-system-x86_64"),
    ("kmod", "kmod"),
    ("xz-utils", "xz"),
    ("zstd", "zstd"),
    ("busybox-static", "busybox"),
    ("nftables", "nft"),
    ("iproute2", "ip"),
    ("conntrack", "conntrack"),
    ("bpftool", "bpftool"),
    ("tmux", "tmux"),
    ("debian-archive-keyring", "dpkg-deb"),
];

/// What for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Want {
    /// To build and run on this host.
    Run,
    /// That, and to boot guests.
    Guests,
}

/// What is missing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Missing {
    /// Debian packages.
    pub(crate) packages: Vec<&'static str>,
    /// bpf-linker has to be built.
    pub(crate) linker: bool,
}

impl Missing {
    /// Whether nothing is.
    pub(crate) fn is_empty(&self) -> bool {
        self.packages.is_empty() && !self.linker
    }

    /// As a list for a person.
    pub(crate) fn shown(&self) -> Vec<String> {
        let packages = self.packages.iter().map(|&package| package.to_owned());
        packages.chain(self.linker.then(|| format!("bpf-linker {LINKER_VERSION}"))).collect()
    }

    /// The same in words that hold on a distribution without Debian's packages.
    pub(crate) fn elsewhere(&self) -> Vec<String> {
        let mut list = Vec::new();
        let has = |package: &str| self.packages.contains(&package);
        if has(BUILD[0]) {
            list.push("a C compiler (cc)".to_owned());
        }
        if has(BPF_TOOLCHAIN[0]) {
            list.push("`rustup toolchain install nightly --component rust-src`".to_owned());
        }
        if self.linker {
            list.push("`cargo install bpf-linker`".to_owned());
        }
        list.extend(
            GUESTS.iter().filter(|(package, _)| has(package)).map(|(_, program)| (*program).to_owned()),
        );
        list
    }
}

/// What this machine has, looked at once.
#[derive(Clone, Debug, Default)]
struct Machine {
    /// Installed Debian packages; nothing where there is no dpkg.
    packages: Option<BTreeSet<String>>,
    /// Programs found.
    programs: BTreeSet<&'static str>,
    /// One of the toolchains that build BPF programs is here.
    bpf_toolchain: bool,
    /// bpf-linker is here and starts.
    linker: bool,
}

/// What this machine lacks.
pub(crate) fn missing(want: Want) -> Missing {
    compare(want, &look())
}

fn compare(want: Want, machine: &Machine) -> Missing {
    let has = |package: &str, program: &str| match &machine.packages {
        Some(installed) => installed.contains(package),
        None => machine.programs.contains(program),
    };
    let mut packages = Vec::new();
    packages.extend(BUILD.into_iter().filter(|package| {
        // A compiler of another package, or one put there by hand, is as good.
        !(has(package, "cc") || *package == BUILD[0] && machine.programs.contains("c++"))
    }));
    if machine.packages.is_none() {
        packages.retain(|&package| package != BUILD[1]);
    }
    if !machine.bpf_toolchain {
        packages.extend(BPF_TOOLCHAIN);
    }
    if !machine.linker {
        packages.extend(LINKER.into_iter().filter(|package| !has(package, "")));
    }
    if want == Want::Guests {
        packages
            .extend(GUESTS.iter().filter(|(package, program)| !has(package, program)).map(|(name, _)| *name));
    }
    Missing { packages, linker: !machine.linker }
}

fn look() -> Machine {
    let programs = GUESTS.iter().map(|(_, program)| *program).chain(["cc", "c++"]);
    Machine {
        packages: installed(),
        programs: programs.filter(|program| proc::find(program).is_some()).collect(),
        bpf_toolchain: has_bpf_toolchain(),
        linker: linker_starts(),
    }
}

fn installed() -> Option<BTreeSet<String>> {
    let mut query = Command::new("dpkg-query");
    let list = proc::text(query.args(["-W", "-f", "${db:Status-Status} ${Package}\\n"])).ok()?;
    Some(list.lines().filter_map(|line| line.strip_prefix("installed ")).map(str::to_owned).collect())
}

/// As conntrack-user's build script looks for them.
fn has_bpf_toolchain() -> bool {
    let sysroot = |command: &mut Command| {
        let text = proc::text(command.args(["--print", "sysroot"]).env_remove("RUSTUP_TOOLCHAIN"));
        text.ok().map(|text| PathBuf::from(text.trim()))
    };
    let distribution = sysroot(&mut Command::new("/usr/bin/rustc"));
    (Path::new("/usr/bin/cargo").exists()
        && distribution.is_some_and(|root| root.join("lib/rustlib/bpfel-unknown-none").is_dir()))
        || sysroot(Command::new("rustup").args(["run", "nightly", "rustc"]))
            .is_some_and(|root| root.join("lib/rustlib/src/rust/library").is_dir())
}

/// Whether bpf-linker is where the build looks, and finds its LLVM.
fn linker_starts() -> bool {
    let home = std::env::var_os("CARGO_HOME").map(PathBuf::from);
    let home = home.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cargo")));
    let folders = home.into_iter().chain(cache::root().ok()).map(|folder| folder.join("bin/bpf-linker"));
    let found = proc::find("bpf-linker").or_else(|| folders.into_iter().find(|path| path.is_file()));
    found.is_some_and(|linker| {
        let mut command = Command::new(linker);
        command.arg("--version").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        command.status().is_ok_and(|status| status.success())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn debian(packages: &[&str]) -> Machine {
        let packages = packages.iter().map(|&package| package.to_owned()).collect();
        Machine { packages: Some(packages), ..Machine::default() }
    }

    #[test]
    fn a_bare_debian_lacks_everything() {
        let missing = compare(Want::Guests, &debian(&[]));
        assert_eq!(missing.packages.len(), BUILD.len() + BPF_TOOLCHAIN.len() + LINKER.len() + GUESTS.len());
        assert!(missing.linker);
    }

    #[test]
    fn running_needs_no_guests() {
        let machine =
            Machine { bpf_toolchain: true, linker: true, ..debian(&["build-essential", "ca-certificates"]) };
        assert!(compare(Want::Run, &machine).is_empty());
        assert_eq!(compare(Want::Guests, &machine).packages.len(), GUESTS.len());
    }

    #[test]
    fn a_linker_that_is_there_needs_no_llvm_packages() {
        let machine = Machine { linker: true, ..debian(&["build-essential", "ca-certificates"]) };
        assert_eq!(compare(Want::Run, &machine).packages, BPF_TOOLCHAIN);
    }

    #[test]
    fn elsewhere_programs_count() {
        let machine = Machine { programs: ["cc", "nft"].into(), bpf_toolchain: true, ..Machine::default() };
        let list = compare(Want::Guests, &machine).elsewhere();
        assert!(list.contains(&"`cargo install bpf-linker`".to_owned()), "{list:?}");
        assert!(
            list.contains(&"qemu-system-x86_64".to_owned()) && !list.contains(&"nft".to_owned()),
            "{list:?}"
        );
        assert!(!list.iter().any(|line| line.contains("compiler") || line.contains("nightly")), "{list:?}");
    }
}
