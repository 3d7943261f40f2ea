//! Installs what this machine lacks: for `run`, and for guests.

mod install;
mod needs;

use std::fmt;
use std::fs;
use std::io::{self, IsTerminal, Write};

use anyhow::Result;

use self::needs::{Missing, Want};

/// Something a person has to do first: exit status 2.
#[derive(Debug)]
pub(crate) struct Refused(String);

impl fmt::Display for Refused {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

impl std::error::Error for Refused {}

/// Installs what is missing to build and run here and, with `guests`, to boot guests. Asks first on a terminal,
/// unless `yes` is set or the environment says `CI=true`.
///
/// # Errors
/// [`Refused`] when nobody agreed, or this is no Debian; else what could not be installed.
pub(crate) fn ensure(guests: bool, yes: bool) -> Result<bool> {
    let want = if guests { Want::Guests } else { Want::Run };
    let missing = needs::missing(want);
    if missing.is_empty() {
        return Ok(false);
    }
    let Some(codename) = debian_codename(&fs::read_to_string("/etc/os-release").unwrap_or_default()) else {
        let what = missing.elsewhere().join("; ");
        return Err(
            Refused(format!("this is no Debian, so install these yourself, then try again: {what}")).into()
        );
    };
    agree(&missing, yes)?;
    install::install(&missing, &codename)?;
    let left = needs::missing(want);
    if !left.is_empty() {
        anyhow::bail!("installed, yet still missing: {}", left.shown().join(", "));
    }
    Ok(true)
}

/// Asks, unless it was agreed before.
fn agree(missing: &Missing, yes: bool) -> Result<()> {
    eprintln!("to install: {}", missing.shown().join(" "));
    if yes || std::env::var("CI").is_ok_and(|value| value == "true") {
        return Ok(());
    }
    if !io::stdin().is_terminal() {
        let line = "nobody is here to ask: pass --yes (or set CI=true), or run `cargo xtask setup --yes`";
        return Err(Refused(line.to_owned()).into());
    }
    eprint!("install these now? [Y/n] ");
    io::stderr().flush()?;
    let mut answer = String::new();
    io::stdin().read_line(&mut answer)?;
    match answer.trim().to_ascii_lowercase().as_str() {
        "" | "y" | "yes" => Ok(()),
        _ => Err(Refused("nothing was installed".to_owned()).into()),
    }
}

/// The codename of a Debian release; nothing for any other distribution.
fn debian_codename(os_release: &str) -> Option<String> {
    let field = |name: &str| {
        let value = os_release.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('='))?;
        Some(value.trim_matches('"').to_owned())
    };
    (field("ID")? == "debian").then(|| field("VERSION_CODENAME"))?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_debian_is_debian() {
        assert_eq!(debian_codename("ID=debian\nVERSION_CODENAME=bookworm\n").as_deref(), Some("bookworm"));
        assert_eq!(debian_codename("VERSION_CODENAME=\"noble\"\nID=\"ubuntu\"\nID_LIKE=debian\n"), None);
        assert_eq!(debian_codename(""), None);
    }
}
