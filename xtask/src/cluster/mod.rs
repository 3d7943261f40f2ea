//! `cluster`: what is learnt of pods from a real kube-apiserver, and what when it fails.

mod parts;

use std::fs;
use std::process::{Command, ExitCode, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, ensure};

use self::parts::Parts;
use crate::{build, proc, report, setup, test};

/// Where the report is, in the workspace.
const PATH: &str = "docs/cluster-report.md";

/// Gets the servers, runs the test against them, and writes the report.
///
/// # Errors
/// When a server cannot be had, or the test fails; then no report is written.
pub(crate) fn cluster(yes: bool) -> Result<ExitCode> {
    ensure!(proc::is_root(), "namespaces and cgroups are made for this: run it as root");
    setup::ensure(false, yes)?;
    let (folder, parts) = parts::obtain()?;
    let workspace = build::workspace()?;
    let source_hash = report::source_hash(&workspace)?;
    let daemon = build::daemon()?;
    let started = Instant::now();
    let mut command = build::cargo()?;
    command
        .args(["test", "--quiet", "--package", "conntrack-user", "--test", "cluster"])
        .args(["--", "--ignored", "--nocapture"])
        .env("CONNTRACK_CLUSTER", &folder)
        .env("CONNTRACK_CLUSTER_DAEMON", &daemon);
    let figures = figures(&mut command)?;
    let seconds = started.elapsed().as_secs_f64();
    let text = markdown(&test::date()?, &source_hash, &parts, &figures, seconds);
    fs::write(workspace.join(PATH), &text)?;
    println!("{text}\nwritten: {PATH}");
    Ok(ExitCode::SUCCESS)
}

/// Runs to the end, showing what it prints, and returns its figures.
fn figures(command: &mut Command) -> Result<Vec<String>> {
    let shown = proc::shown(command);
    let child = command.stdout(Stdio::piped()).stderr(Stdio::inherit()).spawn();
    let output = child.and_then(std::process::Child::wait_with_output);
    let output = output.with_context(|| format!("`{shown}` does not start"))?;
    print!("{}", String::from_utf8_lossy(&output.stdout));
    ensure!(output.status.success(), "`{shown}` failed: {}", output.status);
    let figures = report::figures(&output.stdout);
    ensure!(!figures.is_empty(), "`{shown}` printed no figures");
    Ok(figures)
}

fn markdown(date: &str, source_hash: &str, parts: &Parts, figures: &[String], seconds: f64) -> String {
    let Parts { etcd, kubernetes, go, built_in } = parts;
    let mut text = format!(
        "# Discovery against a real kube-apiserver\n\nWritten by `cargo xtask cluster`: etcd and kube-apiserver on this \
         host, no kubelet; pods are made by requests, bound to a node, their status set. Pods that are really there are \
         namespaces and cgroups as a runtime makes them. All that is asserted is in conntrack-user/tests/cluster.rs.\n\n\
         - Date: {date}\n- {}`{source_hash}`\n- kube-apiserver: from Debian's source kubernetes {kubernetes}, built with \
         golang-1.19 {go} in {built_in} s, once\n- etcd: Debian's etcd-server {etcd}\n- Passed in {seconds:.0} s\n\n## \
         Figures\n\n",
        report::HASH
    );
    for figure in figures {
        text.push_str(&format!("- {figure}\n"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_report_tells_versions_and_every_figure() {
        let parts = Parts { etcd: "3.4".into(), kubernetes: "1.20".into(), go: "1.19".into(), built_in: 300 };
        let text = markdown("2026-01-02 03:04 UTC", "abc", &parts, &["a 1".into(), "b 2".into()], 71.2);
        assert!(
            text.contains("- Source hash: `abc`\n- kube-apiserver: from Debian's source kubernetes 1.20"),
            "{text}"
        );
        assert!(text.ends_with("- Passed in 71 s\n\n## Figures\n\n- a 1\n- b 2\n"), "{text}");
    }

    #[test]
    fn a_test_that_fails_or_says_nothing_makes_no_report() {
        let sh = |script: &str| figures(Command::new("sh").args(["-c", script]));
        assert_eq!(sh("echo 'figure: a 1'").unwrap(), ["a 1"]);
        assert!(sh("echo 'figure: a 1'; exit 1").is_err());
        assert!(sh("true").is_err());
    }
}
