//! docs/probes-seen.tsv: what attached on each kernel, from which docs/kernels.md is made.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

use crate::report::Row;
use crate::suites::{ATTACH, KERNELS};
use crate::{build, proc};

const PATH: &str = "docs/probes-seen.tsv";

/// Enters what these rows saw, leaves other kernels' lines as they are, and has docs/kernels.md made anew.
/// `kernels`: as asked for, and what was booted.
///
/// # Errors
/// When a file cannot be read or written.
pub(crate) fn write(workspace: &Path, rows: &[Row], kernels: &[(String, String)]) -> Result<()> {
    let path = workspace.join(PATH);
    let before = fs::read_to_string(&path).unwrap_or_default();
    let after = entered(&before, rows, kernels);
    if after == before {
        return Ok(());
    }
    fs::write(&path, after).with_context(|| format!("cannot write {}", path.display()))?;
    let mut test = build::cargo()?;
    test.args(["test", "--quiet", "--package", "conntrack-user", "--lib", "export::kernels_doc"]);
    proc::run(test.env("UPDATE_DOCS", "1")).context("docs/kernels.md could not be made")?;
    println!("written: {PATH}, docs/kernels.md");
    Ok(())
}

/// Lines of kernel, release, probe, mechanism, target; kernels in the order of the matrix.
fn entered(before: &str, rows: &[Row], kernels: &[(String, String)]) -> String {
    let seen = rows.iter().filter(|row| row.suite == ATTACH && row.result.is_ok());
    let mut fresh: Vec<(String, String)> = Vec::new();
    for row in seen {
        let release = kernels.iter().find(|(asked, _)| *asked == row.kernel).map_or("", |(_, got)| got);
        for figure in &row.figures {
            let Some(figure) = figure.strip_prefix("attached: ") else { continue };
            let mut words = figure.splitn(3, ' ').chain(std::iter::repeat(""));
            let fields = [&row.kernel, release, words.next().unwrap_or(""), words.next().unwrap_or("")];
            let line = format!("{}\t{}\n", fields.join("\t"), words.next().unwrap_or(""));
            fresh.push((row.kernel.clone(), line));
        }
    }
    let of = |line: &str| line.split('\t').next().unwrap_or_default().to_owned();
    let kept = before.lines().filter(|line| !fresh.iter().any(|(kernel, _)| *kernel == of(line)));
    let mut lines: Vec<_> = kept.map(|line| (of(line), format!("{line}\n"))).collect();
    lines.append(&mut fresh);
    // Stable: the lines of one kernel stay in their order. Kernels that are not of the matrix come last.
    lines.sort_by_key(|(kernel, _)| KERNELS.iter().position(|k| k == kernel).unwrap_or(KERNELS.len()));
    lines.into_iter().map(|(_, line)| line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(kernel: &str, result: std::result::Result<(), String>, figures: &[&str]) -> Row {
        let figures = figures.iter().map(|f| (*f).to_owned()).collect();
        Row { suite: ATTACH.to_owned(), kernel: kernel.to_owned(), result, figures, seconds: 1.0 }
    }

    #[test]
    fn a_kernel_s_lines_are_replaced_and_others_stay() {
        let before = "5.10\t5.10.1\talloc\tkprobe\tx\nnewest\t7.0\talloc\tkprobe\tx\n";
        let rows = [
            row("newest", Ok(()), &["attached: alloc fentry y", "attached: free none", "other"]),
            row("6.1", Ok(()), &["attached: send_reset kprobe a, b"]),
            row("5.10", Err("failed".to_owned()), &["attached: alloc none"]),
        ];
        let kernels = [("newest".to_owned(), "7.3".to_owned()), ("6.1".to_owned(), "6.1.9".to_owned())];
        let text = entered(before, &rows, &kernels);
        assert_eq!(
            text,
            "5.10\t5.10.1\talloc\tkprobe\tx\n6.1\t6.1.9\tsend_reset\tkprobe\ta, b\n\
             newest\t7.3\talloc\tfentry\ty\nnewest\t7.3\tfree\tnone\t\n"
        );
        assert_eq!(entered(&text, &[], &[]), text);
    }
}
