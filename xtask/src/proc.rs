//! Running other programs, with errors that say which and why.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

/// The program and its arguments as a person would type them; the middle of a long line is left out.
pub(crate) fn shown(command: &Command) -> String {
    let mut words = std::iter::once(command.get_program())
        .chain(command.get_args())
        .map(|part| quote(&part.to_string_lossy()))
        .collect::<Vec<_>>();
    if words.len() > 12 {
        words.splice(1..words.len() - 3, ["…".to_owned()]);
    }
    words.join(" ")
}

/// Quotes a word for a POSIX shell, if it needs it.
pub(crate) fn quote(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./=:,+@%".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}

/// Runs to the end with the caller's input and output.
///
/// # Errors
/// When it does not start or does not succeed.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    let status = command.status().with_context(|| format!("`{}` does not start", shown(command)))?;
    if !status.success() {
        bail!("`{}` failed: {status}", shown(command));
    }
    Ok(())
}

/// Runs to the end and returns what it printed; the error carries the end of what it said.
///
/// # Errors
/// When it does not start or does not succeed.
pub(crate) fn output(command: &mut Command) -> Result<Vec<u8>> {
    command.stdin(Stdio::null());
    let output = command.output().with_context(|| format!("`{}` does not start", shown(command)))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        let last = said.lines().rev().filter(|line| !line.trim().is_empty()).take(3).collect::<Vec<_>>();
        let last = last.into_iter().rev().collect::<Vec<_>>().join(" | ");
        bail!("`{}` failed: {}: {last}", shown(command), output.status);
    }
    Ok(output.stdout)
}

/// As [`output`], as text.
///
/// # Errors
/// As [`output`].
pub(crate) fn text(command: &mut Command) -> Result<String> {
    Ok(String::from_utf8_lossy(&output(command)?).into_owned())
}

/// Finds a program in PATH or the folders of system programs, which a plain user's PATH lacks.
pub(crate) fn find(program: impl AsRef<OsStr>) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let system = ["/usr/sbin", "/usr/bin", "/sbin", "/bin"].map(PathBuf::from);
    std::env::split_paths(&path)
        .chain(system)
        .map(|folder| folder.join(Path::new(program.as_ref())))
        .find(|candidate| candidate.is_file())
}

/// Whether this process is root.
pub(crate) fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotes_only_what_a_shell_would_read() {
        assert_eq!(quote("a-b_c/1.2"), "a-b_c/1.2");
        assert_eq!(quote(""), "''");
        assert_eq!(quote("echo it's $HOME"), r"'echo it'\''s $HOME'");
    }

    #[test]
    fn a_failure_names_the_program_and_what_it_said() {
        let error = output(Command::new("sh").args(["-c", "echo oh no >&2; exit 3"])).unwrap_err();
        let error = format!("{error:#}");
        assert!(error.contains("exit status: 3") && error.ends_with("oh no"), "{error}");
    }
}
