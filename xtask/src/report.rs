//! The matrix report: what it says, and whether it still speaks of these sources.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

use crate::attempts::Attempt;
use crate::suites::{KERNELS, SUITES};

/// Where the report is, in the workspace.
pub(crate) const PATH: &str = "docs/matrix-report.md";
/// What precedes the hash in a report.
pub(crate) const HASH: &str = "Source hash: ";

/// One suite on one kernel.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(crate) struct Row {
    /// The suite's name.
    pub(crate) suite: String,
    /// As the suite was asked for (`6.12`, `newest`).
    pub(crate) kernel: String,
    /// `passed`, or why it did not.
    pub(crate) result: std::result::Result<(), String>,
    /// Lines the suite printed behind `figure: `.
    pub(crate) figures: Vec<String>,
    /// How long it took, in seconds.
    pub(crate) seconds: f64,
}

/// A whole run.
#[derive(Clone, Debug)]
pub(crate) struct Report {
    /// Day and time, UTC.
    pub(crate) date: String,
    /// Of the sources it ran from.
    pub(crate) source_hash: String,
    /// (asked for, release and origin, or why it cannot be had).
    pub(crate) kernels: Vec<(String, String)>,
    /// Every suite on every kernel.
    pub(crate) rows: Vec<Row>,
}

impl Report {
    /// Of these runs, in the order of the matrix; of one test on one kernel, in the order they were made.
    pub(crate) fn of(date: String, source_hash: String, attempts: &[Attempt]) -> Self {
        let mut rows: Vec<Row> = attempts.iter().map(|attempt| attempt.row.clone()).collect();
        rows.sort_by_key(|row| {
            // A kernel given as a path is of no matrix and comes last.
            let kernel = KERNELS.iter().position(|kernel| *kernel == row.kernel).unwrap_or(KERNELS.len());
            (kernel, SUITES.iter().position(|suite| suite.name == row.suite))
        });
        let mut asked: Vec<&String> = rows.iter().map(|row| &row.kernel).collect();
        asked.dedup();
        let got = |kernel: &String| {
            let of_kernel = || attempts.iter().filter(|attempt| attempt.row.kernel == *kernel);
            let why_not = || of_kernel().find_map(|attempt| attempt.row.result.clone().err());
            of_kernel().find_map(|attempt| attempt.booted.clone()).or_else(why_not).unwrap_or_default()
        };
        let kernels = asked.into_iter().map(|kernel| (kernel.clone(), got(kernel))).collect();
        Self { date, source_hash, kernels, rows }
    }

    /// As Markdown.
    pub(crate) fn markdown(&self) -> String {
        let failed = self.rows.iter().filter(|row| row.result.is_err()).count();
        let mut text = format!(
            "# Guest tests on every kernel\n\nWritten by `cargo xtask matrix`.\n\n- Date: {}\n- {HASH}`{}`\n- {} \
             passed, {failed} failed\n\n| kernel | what was booted |\n|---|---|\n",
            self.date,
            self.source_hash,
            self.rows.len() - failed
        );
        for (asked, got) in &self.kernels {
            text.push_str(&format!("| {asked} | {got} |\n"));
        }
        text.push_str("\n| suite | kernel | result | seconds |\n|---|---|---|---|\n");
        for row in &self.rows {
            let result =
                row.result.as_ref().map_or_else(|why| format!("**failed**: {why}"), |()| "passed".to_owned());
            let result = result.replace('|', "\\|").replace('\n', " ");
            text.push_str(&format!("| {} | {} | {result} | {:.1} |\n", row.suite, row.kernel, row.seconds));
        }
        let rows = self.rows.iter().filter(|row| !row.figures.is_empty());
        for (index, row) in rows.enumerate() {
            if index == 0 {
                text.push_str("\n## Figures\n");
            }
            text.push_str(&format!("\n### {} on {}\n\n", row.suite, row.kernel));
            for figure in &row.figures {
                text.push_str(&format!("- {figure}\n"));
            }
        }
        text
    }
}

/// What a suite printed behind `figure: `.
pub(crate) fn figures(output: &[u8]) -> Vec<String> {
    let text = String::from_utf8_lossy(output);
    text.lines().filter_map(|line| line.strip_prefix("figure: ")).map(|line| line.trim().to_owned()).collect()
}

/// Why the committed report does not speak of these sources; nothing when it does.
///
/// # Errors
/// When the sources cannot be read.
pub(crate) fn staleness(workspace: &Path) -> Result<Option<String>> {
    let now = source_hash(workspace)?;
    let text = fs::read_to_string(workspace.join(PATH)).ok();
    Ok(compare(text.as_deref(), &now))
}

fn compare(report: Option<&str>, now: &str) -> Option<String> {
    let Some(report) = report else { return Some(format!("{PATH} is missing")) };
    let Some(then) = report.lines().find_map(|line| line.strip_prefix("- ")?.strip_prefix(HASH)) else {
        return Some(format!("{PATH} names no source hash"));
    };
    (then.trim_matches('`') != now).then(|| format!("{PATH} is of other sources than these"))
}

/// A hash over the crates' files and Cargo.lock: names and contents.
///
/// # Errors
/// When a file cannot be read.
pub(crate) fn source_hash(workspace: &Path) -> Result<String> {
    let mut content = Vec::new();
    for file in tracked_files(workspace)? {
        let bytes = fs::read(&file).with_context(|| format!("cannot read {}", file.display()))?;
        let name = file.strip_prefix(workspace).unwrap_or(&file);
        content.extend_from_slice(format!("{} {}\n", name.display(), bytes.len()).as_bytes());
        content.extend_from_slice(&bytes);
    }
    let mut child = Command::new("sha256sum").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
    child.stdin.take().context("sha256sum takes no input")?.write_all(&content)?;
    let output = child.wait_with_output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    match text.split_whitespace().next() {
        Some(hash) if output.status.success() => Ok(hash.to_owned()),
        _ => bail!("sha256sum failed: {}", output.status),
    }
}

/// The files of conntrack-*/ and xtask/, and Cargo.lock, sorted: what git tracks, or (no git here) what there is.
///
/// # Errors
/// When a folder cannot be read.
pub(crate) fn tracked_files(workspace: &Path) -> Result<Vec<PathBuf>> {
    let git = Command::new("git")
        .current_dir(workspace)
        .args(["ls-files", "-z", "--", "conntrack-*/", "xtask/", "Cargo.lock"])
        .output();
    let mut files = match git {
        Ok(output) if output.status.success() && !output.stdout.is_empty() => {
            let names = String::from_utf8_lossy(&output.stdout).into_owned();
            names.split('\0').filter(|name| !name.is_empty()).map(|name| workspace.join(name)).collect()
        }
        _ => {
            let mut files = vec![workspace.join("Cargo.lock")];
            for entry in fs::read_dir(workspace)?.flatten() {
                let name = entry.file_name().to_string_lossy().into_owned();
                if (name.starts_with("conntrack-") || name == "xtask") && entry.path().is_dir() {
                    files.extend(
                        crate::guest::modules::files(&entry.path())?.iter().map(|f| entry.path().join(f)),
                    );
                }
            }
            files
        }
    };
    files.retain(|file: &PathBuf| file.is_file());
    files.sort();
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report() -> Report {
        let row = |result, figures: &[&str]| Row {
            suite: "refusals".to_owned(),
            kernel: "6.12".to_owned(),
            result,
            figures: figures.iter().map(|&figure| figure.to_owned()).collect(),
            seconds: 21.04,
        };
        Report {
            date: "2026-01-02 03:04 UTC".to_owned(),
            source_hash: "abc".to_owned(),
            kernels: vec![("6.12".to_owned(), "6.12.1 (6.12.1-1)".to_owned())],
            rows: vec![row(Ok(()), &["p99 12 ms"]), row(Err("status 1 | x".to_owned()), &[])],
        }
    }

    #[test]
    fn the_report_tells_each_result_and_figure() {
        let text = report().markdown();
        assert!(text.contains("- 1 passed, 1 failed\n"), "{text}");
        assert!(text.contains("| refusals | 6.12 | passed | 21.0 |\n"), "{text}");
        assert!(text.contains("**failed**: status 1 \\| x"), "{text}");
        assert!(text.contains("### refusals on 6.12\n\n- p99 12 ms\n"), "{text}");
    }

    #[test]
    fn a_report_is_stale_when_the_sources_changed() {
        let text = report().markdown();
        assert_eq!(compare(Some(&text), "abc"), None);
        assert!(compare(Some(&text), "abd").is_some_and(|why| why.contains("other sources")));
        assert!(compare(Some("# nothing"), "abc").is_some_and(|why| why.contains("no source hash")));
        assert!(compare(None, "abc").is_some_and(|why| why.contains("missing")));
    }

    #[test]
    fn figures_are_the_lines_that_say_so() {
        assert_eq!(figures(b"figure: a 1\nnoise\nno figure: b\nfigure: c 2\n"), ["a 1", "c 2"]);
    }
}
