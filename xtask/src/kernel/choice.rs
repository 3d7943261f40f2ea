//! Which of the packages on offer is the kernel that was asked for: no effects, only a choice.

use std::cmp::Ordering;
use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::deb_version;

const FLAVOUR: &str = "-cloud-amd64";
/// An installed size, in KiB, below any kernel image.
const SMALLEST: u64 = 1024;

/// A kernel that can be had: its release as `uname -r` says it, and the packages that hold it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Kernel {
    /// As `uname -r` prints it.
    pub(crate) release: String,
    /// The Debian package version.
    pub(crate) version: String,
    /// Packages to unpack over each other, named `name=version`.
    pub(crate) packages: Vec<String>,
}

/// The cloud kernels that Debian package lists (`Packages` files) offer.
#[derive(Debug, Default)]
pub(crate) struct Offers {
    /// Package name and version, of every kernel package.
    packages: BTreeMap<String, Vec<String>>,
}

impl Offers {
    /// Adds what one `Packages` file offers. A package that holds next to nothing only names others.
    pub(crate) fn add(&mut self, packages: &str) {
        for stanza in packages.split("\n\n") {
            let field =
                |name: &str| stanza.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
            let Some(package) = field("Package").filter(|package| is_kernel(package)) else { continue };
            let size = field("Installed-Size").and_then(|size| size.parse::<u64>().ok());
            if size.is_some_and(|kib| kib < SMALLEST) {
                continue;
            }
            if let Some(version) = field("Version") {
                self.packages.entry(package.to_owned()).or_default().push(version.to_owned());
            }
        }
    }

    /// Every kernel on offer, each release at its highest version.
    fn kernels(&self) -> Vec<Kernel> {
        let mut kernels = BTreeMap::<String, Kernel>::new();
        for (package, versions) in &self.packages {
            let split = package.strip_prefix("linux-binary-");
            let Some(release) = split.or_else(|| package.strip_prefix("linux-image-")) else { continue };
            let Some(version) = versions.iter().max_by(|a, b| deb_version::compare(a, b)) else { continue };
            let mut packages = vec![format!("{package}={version}")];
            if split.is_some() {
                // From 7.2 the image is one package, its modules another, and linux-image only names both.
                let modules = format!("linux-modules-{release}");
                if !self.packages.get(&modules).is_some_and(|offered| offered.contains(version)) {
                    continue;
                }
                packages.push(format!("{modules}={version}"));
            } else if kernels.contains_key(release) {
                continue;
            }
            let kernel = Kernel { release: release.to_owned(), version: version.clone(), packages };
            kernels.insert(release.to_owned(), kernel);
        }
        kernels.into_values().collect()
    }

    /// The kernel `wanted` names: a series (`6.12`), `newest` (released ones only), or a version as the
    /// package, the release or the package version spell it.
    pub(crate) fn choose(&self, wanted: &str) -> Option<Kernel> {
        let kernels = self.kernels();
        let exact = kernels.iter().find(|kernel| {
            let short = kernel.release.strip_suffix(FLAVOUR);
            let package = kernel.packages.first().and_then(|package| package.split('=').next());
            [Some(kernel.release.as_str()), Some(kernel.version.as_str()), short, package]
                .contains(&Some(wanted))
        });
        exact.cloned().or_else(|| {
            kernels
                .into_iter()
                .filter(|kernel| wanted == "newest" || series(&kernel.version) == Some(wanted))
                .filter(|kernel| !is_candidate(kernel))
                .max_by(by_version)
        })
    }

    /// Whether no kernel at all is on offer.
    pub(crate) fn is_empty(&self) -> bool {
        self.packages.is_empty()
    }
}

fn by_version(left: &Kernel, right: &Kernel) -> Ordering {
    deb_version::compare(&left.version, &right.version)
}

fn is_kernel(package: &str) -> bool {
    package.ends_with(FLAVOUR)
        && ["linux-image-", "linux-binary-", "linux-modules-"].iter().any(|prefix| {
            package.strip_prefix(prefix).is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()))
        })
}

/// A release candidate, which `newest` and a series leave out.
fn is_candidate(kernel: &Kernel) -> bool {
    kernel.version.contains("~rc") || kernel.release.contains("-rc")
}

/// `6.12` of `6.12.118-1`.
fn series(version: &str) -> Option<&str> {
    let second = version.find('.')? + 1;
    let end = version[second..].find(|c: char| !c.is_ascii_digit()).map_or(version.len(), |at| second + at);
    (end > second).then(|| &version[..end])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn offers(list: &[(&str, &str)]) -> Offers {
        let mut offers = Offers::default();
        for (package, version) in list {
            offers.add(&format!("Package: {package}\nVersion: {version}\nInstalled-Size: 34000\n\n"));
        }
        offers
    }

    fn some() -> Offers {
        offers(&[
            ("linux-image-6.1.0-9-cloud-amd64", "6.1.27-1"),
            ("linux-image-6.1.0-56-cloud-amd64", "6.1.192-2"),
            ("linux-image-6.12.118+deb13-cloud-amd64", "6.12.118-1"),
            ("linux-image-6.12.118+deb13-amd64", "6.12.118-1"),
            ("linux-image-cloud-amd64", "6.12.118-1"),
            ("linux-image-7.3.4+deb13-cloud-amd64", "7.3.4-1~bpo13+1"),
            ("linux-binary-7.3.4+deb13-cloud-amd64", "7.3.4-1~bpo13+1"),
            ("linux-modules-7.3.4+deb13-cloud-amd64", "7.3.4-1~bpo13+1"),
            ("linux-binary-7.4-rc2-cloud-amd64", "7.4~rc2-1~exp1"),
            ("linux-modules-7.4-rc2-cloud-amd64", "7.4~rc2-1~exp1"),
        ])
    }

    #[test]
    fn a_series_gets_its_highest_point_version() {
        let kernel = some().choose("6.1").unwrap();
        assert_eq!(kernel.release, "6.1.0-56-cloud-amd64");
        assert_eq!(kernel.packages, ["linux-image-6.1.0-56-cloud-amd64=6.1.192-2"]);
    }

    #[test]
    fn a_package_that_only_names_others_is_no_kernel() {
        let mut offers = some();
        offers.add("Package: linux-image-6.1-cloud-amd64\nVersion: 6.1.999-1\nInstalled-Size: 13\n");
        assert_eq!(offers.choose("6.1").unwrap().version, "6.1.192-2");
    }

    #[test]
    fn newest_is_released_and_brings_its_modules() {
        let kernel = some().choose("newest").unwrap();
        assert_eq!(
            kernel.packages,
            [
                "linux-binary-7.3.4+deb13-cloud-amd64=7.3.4-1~bpo13+1",
                "linux-modules-7.3.4+deb13-cloud-amd64=7.3.4-1~bpo13+1"
            ]
        );
    }

    #[test]
    fn one_version_by_any_of_its_names() {
        for name in ["6.1.0-9", "6.1.27-1", "6.1.0-9-cloud-amd64", "linux-image-6.1.0-9-cloud-amd64"] {
            assert_eq!(some().choose(name).unwrap().version, "6.1.27-1", "{name}");
        }
        assert_eq!(some().choose("7.4-rc2").unwrap().version, "7.4~rc2-1~exp1");
    }

    #[test]
    fn what_is_not_on_offer_is_not_made_up() {
        assert_eq!(some().choose("5.10"), None);
        assert_eq!(some().choose("6"), None);
        assert_eq!(offers(&[("linux-binary-7.3-cloud-amd64", "7.3-1")]).choose("newest"), None);
    }
}
