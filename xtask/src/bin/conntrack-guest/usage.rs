//! What cannot work is said in one line on standard error, with exit code 2.

use std::net::TcpListener;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};

use crate::daemon::DEADLINE;

pub(crate) fn test() -> anyhow::Result<()> {
    let tool = |args: &[&str]| {
        let mut command = Command::new("conntrack-pressure");
        command.args(args);
        command
    };
    let all = [&["run"][..], &["doctor"], &["check"], &["snapshot"]];
    let with = |args: &[&'static str], more: &[&'static str]| [args, more].concat();
    for args in all {
        let nobody = ["--reuid", "65534", "--regid", "65534", "--clear-groups", "conntrack-pressure"];
        refused(Command::new("setpriv").args(nobody).args(args), &["root", "sudo"])?;
        refused(&mut tool(&with(args, &["--nonsense"])), &["--nonsense", "--help"])?;
        refused(&mut tool(&with(args, &["--path.procfs"])), &["--path.procfs", "value"])?;
        for folder in ["/tmp", "/nonexistent", "/etc/passwd"] {
            refused(&mut tool(&with(args, &["--path.procfs", folder])), &[folder, "--path.procfs"])?;
        }
        refused(
            &mut tool(&with(args, &["--path.sysfs", "/nonexistent"])),
            &["/nonexistent", "--path.sysfs"],
        )?;
    }
    // Root without capabilities may still be of use, in a container say: what is missing is named.
    let bare = ["--bounding-set", "-all", "conntrack-pressure", "doctor"];
    let out = Command::new("setpriv").args(bare).output()?;
    let text = String::from_utf8_lossy(&out.stdout);
    for missing in ["CAP_BPF", "CAP_PERFMON", "CAP_NET_ADMIN", "CAP_SYS_ADMIN"] {
        ensure!(text.contains(missing), "doctor does not name {missing}: {out:?}");
    }
    for bad in [&["--log.format", "xml"][..], &["--max-pods", "many"], &["--probe.mechanism", "magic"]] {
        refused(&mut tool(&with(&["run"], bad)), &[bad[0], "--help"])?;
    }
    for address in ["9466", "::1:80", "localhost:99999"] {
        refused(&mut tool(&["run", "--web.listen-address", address]), &[address, "--web.listen-address"])?;
    }
    refused(&mut tool(&["nonsense"]), &["nonsense", "--help"])?;
    refused(&mut tool(&["check", "--warning", "0.9", "--critical", "0.5"]), &["--warning", "--critical"])?;

    let taken = TcpListener::bind("127.0.0.1:0")?;
    let address = taken.local_addr()?.to_string();
    let used = ["in use", &address, "--web.listen-address"];
    refused(&mut tool(&["run", "--web.listen-address", &address]), &used)?;
    refused(
        &mut tool(&["run", "--web.listen-address", "192.0.2.1:9466"]),
        &["192.0.2.1", "no such address"],
    )?;

    // What was asked for is no mistake.
    for args in [&["--help"][..], &["run", "--help"], &["--version"]] {
        let out = tool(args).output()?;
        ensure!(out.status.success() && out.stderr.is_empty() && !out.stdout.is_empty(), "{args:?}: {out:?}");
    }
    println!("figure: usage: every mistake is one line on standard error and exit code 2");
    Ok(())
}

/// Runs it: one line on standard error with all these words, nothing on standard output, exit code 2.
pub(crate) fn refused(command: &mut Command, words: &[&str]) -> anyhow::Result<()> {
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("{command:?}"))?;
    let deadline = Instant::now() + DEADLINE;
    while child.try_wait()?.is_none() {
        if Instant::now() > deadline {
            child.kill()?;
            bail!("{command:?} does not end: {:?}", child.wait_with_output()?);
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    let output = child.wait_with_output()?;
    let said = String::from_utf8(output.stderr)?;
    let printed = String::from_utf8_lossy(&output.stdout);
    ensure!(output.status.code() == Some(2), "{command:?} ended with {}, said {said:?}", output.status);
    ensure!(said.ends_with('\n') && said.lines().count() == 1, "{command:?} did not say one line: {said:?}");
    ensure!(said.starts_with("conntrack-pressure: "), "{command:?} does not say who speaks: {said:?}");
    ensure!(!said.contains('\u{1b}'), "{command:?} colours what is no terminal: {said:?}");
    ensure!(printed.is_empty(), "{command:?} printed {printed:?}");
    for word in words {
        ensure!(said.contains(word), "{command:?} does not name {word:?}: {said:?}");
    }
    Ok(())
}
