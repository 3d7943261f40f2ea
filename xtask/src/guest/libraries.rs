//! The shared libraries a program needs, so that it runs in a guest.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

/// The libraries `program` loads, the loader among them; none for a static program or a script.
///
/// # Errors
/// When `ldd` does not run, or a library is missing here.
pub(crate) fn needed(program: &Path) -> Result<Vec<PathBuf>> {
    ask(Command::new("ldd").arg(program), program)
}

/// The same, where a folder has libraries that the machine may lack.
///
/// # Errors
/// As [`needed`].
pub(crate) fn needed_beside(program: &Path, folder: &Path) -> Result<Vec<PathBuf>> {
    ask(Command::new("ldd").arg(program).env("LD_LIBRARY_PATH", folder), program)
}

fn ask(ldd: &mut Command, program: &Path) -> Result<Vec<PathBuf>> {
    let output = ldd.stdin(Stdio::null()).env("LC_ALL", "C").output();
    let output = output.context("`ldd` does not start")?;
    if !output.status.success() {
        return Ok(Vec::new());
    }
    match parse(&String::from_utf8_lossy(&output.stdout)) {
        Ok(libraries) => Ok(libraries),
        Err(missing) => bail!("{} needs {missing}, which is not installed", program.display()),
    }
}

/// Reads ldd's answer; the error is the name of a library it did not find.
fn parse(answer: &str) -> std::result::Result<Vec<PathBuf>, String> {
    let mut libraries = Vec::new();
    for line in answer.lines() {
        let line = line.trim();
        let path = match line.split_once(" => ") {
            Some((name, "not found")) => return Err(name.to_owned()),
            Some((_, rest)) => rest,
            None => line,
        };
        let path = path.split(" (").next().unwrap_or(path);
        if path.starts_with('/') {
            libraries.push(PathBuf::from(path));
        }
    }
    Ok(libraries)
}

/// Where a file of the host goes in a guest, whose /bin, /sbin, /lib and /lib64 are links into /usr.
pub(crate) fn place(path: &Path) -> PathBuf {
    let inner = path.strip_prefix("/").unwrap_or(path);
    if ["bin", "sbin", "lib", "lib64"].iter().any(|top| inner.starts_with(top)) {
        return Path::new("usr").join(inner);
    }
    inner.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_ldd_says() {
        let answer = "\tlinux-vdso.so.1 (0x00007f6f)\n\tlibc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x00007f6f)\n\
                      \t/lib64/ld-linux-x86-64.so.2 (0x00007f6f)\n";
        let libraries = parse(answer).unwrap();
        assert_eq!(
            libraries,
            ["/lib/x86_64-linux-gnu/libc.so.6", "/lib64/ld-linux-x86-64.so.2"].map(PathBuf::from)
        );
        assert_eq!(parse("\tstatically linked\n").unwrap(), Vec::<PathBuf>::new());
        assert_eq!(parse("\tlibx.so.1 => not found\n").unwrap_err(), "libx.so.1");
    }

    #[test]
    fn a_guest_is_merged_into_usr() {
        assert_eq!(place(Path::new("/lib64/ld.so")), Path::new("usr/lib64/ld.so"));
        assert_eq!(place(Path::new("/usr/sbin/nft")), Path::new("usr/sbin/nft"));
    }
}
