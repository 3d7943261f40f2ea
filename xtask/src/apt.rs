//! Debian packages through a private apt: the machine's mirrors, other suites, nothing of the machine's changed.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::{cache, proc};

const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";
/// How long package lists are taken as they are, in seconds.
pub(crate) const FRESH: u64 = 24 * 60 * 60;
/// How long it is until lists that could not all be had are tried again, in seconds.
const RETRY: u64 = 60 * 60;

/// Where Debian and its security updates come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Mirrors {
    /// Such as `http://mirror/debian`.
    pub(crate) main: String,
    /// Such as `http://mirror/debian-security`.
    pub(crate) security: String,
}

impl Mirrors {
    /// Reads the machine's own apt sources.
    ///
    /// # Errors
    /// When none of them names a Debian mirror.
    pub(crate) fn of_this_machine() -> Result<Self> {
        let mut files = vec![PathBuf::from("/etc/apt/sources.list")];
        if let Ok(folder) = fs::read_dir("/etc/apt/sources.list.d") {
            files.extend(folder.flatten().map(|entry| entry.path()));
        }
        files.sort();
        let mut entries = Vec::new();
        for file in files {
            let Ok(text) = fs::read_to_string(&file) else { continue };
            match file.extension().and_then(|extension| extension.to_str()) {
                Some("list") => entries.extend(one_line_entries(&text)),
                Some("sources") => entries.extend(deb822_entries(&text)),
                _ => {}
            }
        }
        Self::of(&entries).context("/etc/apt names no Debian mirror: add one to /etc/apt/sources.list")
    }

    /// Picks the Debian mirrors from (URI, suite) pairs; other vendors' archives are not Debian's.
    fn of(entries: &[(String, String)]) -> Option<Self> {
        let named = |end: &str| {
            let found = entries.iter().find(|(uri, _)| uri.trim_end_matches('/').ends_with(end));
            found.map(|(uri, _)| uri.trim_end_matches('/').to_owned())
        };
        let security = named("/debian-security");
        let main = named("/debian")
            .or_else(|| Some(format!("{}/debian", security.as_deref()?.strip_suffix("/debian-security")?)))?;
        let security = security.unwrap_or_else(|| format!("{main}-security"));
        Some(Self { main, security })
    }
}

/// (URI, suite) of every `deb` line of a sources.list.
fn one_line_entries(text: &str) -> Vec<(String, String)> {
    let entry = |line: &str| {
        let rest = line.trim().strip_prefix("deb ")?.trim_start();
        let rest = match rest.strip_prefix('[') {
            Some(options) => options.split_once(']')?.1,
            None => rest,
        };
        let mut words = rest.split_whitespace();
        Some((words.next()?.to_owned(), words.next()?.to_owned()))
    };
    text.lines().filter_map(entry).collect()
}

/// (URI, suite) of every enabled stanza of a deb822 .sources file.
fn deb822_entries(text: &str) -> Vec<(String, String)> {
    let mut entries = Vec::new();
    let text = text.lines().filter(|line| !line.starts_with('#')).collect::<Vec<_>>().join("\n");
    for stanza in text.split("\n\n") {
        let field = |name: &str| {
            stanza.lines().find_map(|line| {
                let (key, value) = line.split_once(':')?;
                key.eq_ignore_ascii_case(name).then(|| value.trim())
            })
        };
        if field("Enabled") == Some("no") || !field("Types").is_some_and(|types| types.contains("deb")) {
            continue;
        }
        for uri in field("URIs").unwrap_or_default().split_whitespace() {
            for suite in field("Suites").unwrap_or_default().split_whitespace() {
                entries.push((uri.to_owned(), suite.to_owned()));
            }
        }
    }
    entries
}

/// A suite of the main archive, or of the security one.
#[derive(Clone, Debug)]
pub(crate) struct Suite(pub(crate) String);

impl Suite {
    fn line(&self, kind: &str, mirrors: &Mirrors) -> String {
        let uri = if self.0.ends_with("-security") { &mirrors.security } else { &mirrors.main };
        format!("{kind} [arch=amd64 signed-by={KEYRING}] {uri} {} main\n", self.0)
    }
}

/// An apt with its own sources and lists, in a folder of the cache.
#[derive(Debug)]
pub(crate) struct Apt {
    folder: PathBuf,
}

impl Apt {
    /// Prepares (does not yet update) an apt called `name` over these suites.
    ///
    /// # Errors
    /// When the machine's sources name no mirror, or the folder cannot be written.
    pub(crate) fn new(name: &str, suites: &[Suite]) -> Result<Self> {
        Self::over(name, suites, &["deb"])
    }

    /// The same, with source packages.
    ///
    /// # Errors
    /// As [`Self::new`].
    pub(crate) fn with_sources(name: &str, suites: &[Suite]) -> Result<Self> {
        Self::over(name, suites, &["deb", "deb-src"])
    }

    fn over(name: &str, suites: &[Suite], kinds: &[&str]) -> Result<Self> {
        let folder = cache::folder(&format!("apt/{name}"))?;
        for part in ["lists/partial", "archives/archives/partial"] {
            fs::create_dir_all(folder.join(part))
                .with_context(|| format!("cannot make {}/{part}", folder.display()))?;
        }
        let mirrors = Mirrors::of_this_machine()?;
        let lines = kinds.iter().flat_map(|kind| suites.iter().map(|suite| suite.line(kind, &mirrors)));
        let sources = lines.collect::<String>();
        let path = folder.join("sources.list");
        if fs::read_to_string(&path).ok().as_deref() != Some(&sources) {
            fs::write(&path, sources).with_context(|| format!("cannot write {}", path.display()))?;
            // Other sources, other lists.
            let _ = fs::remove_file(folder.join("updated"));
        }
        Ok(Self { folder })
    }

    /// The folder with this apt's package lists.
    pub(crate) fn lists(&self) -> PathBuf {
        self.folder.join("lists")
    }

    /// Options that make an apt command use this folder and nothing of the machine's sources.
    pub(crate) fn options(&self) -> Vec<String> {
        let at = |part: &str| self.folder.join(part).display().to_string();
        [
            format!("Dir::Etc::sourcelist={}", at("sources.list")),
            "Dir::Etc::sourceparts=/nonexistent".to_owned(),
            format!("Dir::State::Lists={}", at("lists")),
            format!("Dir::Cache={}", at("archives")),
            "APT::Sandbox::User=root".to_owned(),
            "APT::Get::List-Cleanup=true".to_owned(),
            "Acquire::Languages=none".to_owned(),
            "Acquire::GzipIndexes=false".to_owned(),
            "Acquire::IndexTargets::deb::Contents-deb::DefaultEnabled=false".to_owned(),
            "Acquire::IndexTargets::deb::DEP-11::DefaultEnabled=false".to_owned(),
            "Acquire::Retries=3".to_owned(),
        ]
        .into_iter()
        .flat_map(|option| ["-o".to_owned(), option])
        .collect()
    }

    /// Whether the lists are of today; lists that could not all be had are tried again after an hour.
    pub(crate) fn is_fresh(&self) -> bool {
        let age = if self.lacking().is_some() { RETRY } else { FRESH };
        cache::is_younger(&self.mark(), age)
    }

    /// Why the last update did not bring all lists; nothing when it did.
    pub(crate) fn lacking(&self) -> Option<String> {
        fs::read_to_string(self.mark()).ok().filter(|why| !why.is_empty())
    }

    fn mark(&self) -> PathBuf {
        self.folder.join("updated")
    }

    /// Remembers that the lists were fetched now, and what failed.
    ///
    /// # Errors
    /// When the mark cannot be written.
    pub(crate) fn mark_updated(&self, lacking: &str) -> Result<()> {
        fs::write(self.mark(), lacking).with_context(|| format!("cannot write {}", self.mark().display()))
    }

    /// Fetches package lists without looking at what is installed here. A suite that fails leaves the
    /// others' lists in place: [`Self::lacking`] then says what failed.
    ///
    /// # Errors
    /// When the outcome cannot be remembered.
    pub(crate) fn update(&self) -> Result<()> {
        let mut command = self.get();
        let failed = proc::output(command.args(["-q", "update"])).err();
        self.mark_updated(&failed.map(|why| format!("{why:#}")).unwrap_or_default())
    }

    /// Downloads packages (`name=version`) into `folder` and returns their files.
    ///
    /// # Errors
    /// When one cannot be had.
    pub(crate) fn download(&self, packages: &[String], folder: &Path) -> Result<Vec<PathBuf>> {
        let mut command = self.get();
        proc::output(command.current_dir(folder).args(["-q", "download"]).args(packages))?;
        let mut files = fs::read_dir(folder)?.flatten().map(|entry| entry.path()).collect::<Vec<_>>();
        files.retain(|file| file.extension().is_some_and(|extension| extension == "deb"));
        if files.len() < packages.len() {
            bail!("apt-get download left {} of {} packages", files.len(), packages.len());
        }
        files.sort();
        Ok(files)
    }

    /// Downloads a source package's files into `folder`, newest version, without unpacking them.
    ///
    /// # Errors
    /// When it cannot be had.
    pub(crate) fn download_source(&self, package: &str, folder: &Path) -> Result<()> {
        let mut command = self.get();
        proc::output(command.current_dir(folder).args(["-q", "source", "--download-only", package])).map(drop)
    }

    fn get(&self) -> Command {
        let mut command = Command::new("apt-get");
        command.args(self.options()).args(["-o", "Dir::State::status=/dev/null"]).env("LC_ALL", "C");
        command
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair(uri: &str, suite: &str) -> (String, String) {
        (uri.to_owned(), suite.to_owned())
    }

    #[test]
    fn reads_one_line_sources() {
        let text = "# deb http://no/debian x main\ndeb [arch=amd64 signed-by=/k] http://m/debian bookworm main\n\
                    deb-src http://m/debian bookworm main\n deb https://v/apt cloud main";
        assert_eq!(
            one_line_entries(text),
            [pair("http://m/debian", "bookworm"), pair("https://v/apt", "cloud")]
        );
    }

    #[test]
    fn reads_deb822_sources() {
        let text = "Types: deb\n# a comment\nURIs: http://m/debian\nSuites: bookworm bookworm-updates\n\n\
                    Types: deb\nURIs: http://off/debian\nSuites: x\nEnabled: no\n\n\
                    Types: deb-src\nURIs: http://s/debian/\nSuites: y\n";
        let entries = deb822_entries(text);
        assert_eq!(
            entries[..2],
            [pair("http://m/debian", "bookworm"), pair("http://m/debian", "bookworm-updates")]
        );
        assert!(!entries.iter().any(|(uri, _)| uri.contains("off")));
    }

    #[test]
    fn picks_the_mirrors_and_derives_the_other() {
        let both = Mirrors::of(&[pair("https://v/apt", "c"), pair("http://m/debian/", "bookworm")]).unwrap();
        assert_eq!(
            (both.main.as_str(), both.security.as_str()),
            ("http://m/debian", "http://m/debian-security")
        );
        let other = Mirrors::of(&[pair("http://s/debian-security", "bookworm-security")]).unwrap();
        assert_eq!(other.main, "http://s/debian");
        assert_eq!(Mirrors::of(&[pair("https://v/apt", "c")]), None);
    }
}
