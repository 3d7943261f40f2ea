//! What each program takes of a connection.

use std::fmt::Write as _;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

/// A program of ours, over one run of connections.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq, Eq)]
pub(crate) struct Program {
    /// Who watched.
    pub(crate) variant: String,
    /// Its name in the object.
    pub(crate) program: String,
    /// Connections made.
    pub(crate) connections: u64,
    /// How often it ran.
    pub(crate) runs: u64,
    /// How long all its runs took, in nanoseconds of the guest's clock.
    pub(crate) ns: u64,
}

/// Those a guest told of.
///
/// # Errors
/// When a line is damaged.
pub(crate) fn parse(output: &str) -> Result<Vec<Program>> {
    let lines = output.lines().filter_map(|line| line.strip_prefix("program "));
    lines.map(|line| serde_json::from_str(line).with_context(|| format!("no figures: {line}"))).collect()
}

/// As a table in Markdown, the dearest first.
pub(crate) fn table(programs: &[Program]) -> String {
    let mut text = String::from(
        "| watched by | program | runs a connection | instructions' ns a run | a connection |\n|---|---|---|---|---|\n",
    );
    let mut sorted: Vec<&Program> = programs.iter().collect();
    sorted.sort_by_key(|p| (p.variant.clone(), std::cmp::Reverse(p.ns)));
    for p in &sorted {
        let _ = writeln!(
            text,
            "| {} | {} | {:.2} | {:.0} | {:.0} |",
            p.variant,
            p.program,
            p.runs as f64 / p.connections as f64,
            p.ns as f64 / p.runs as f64,
            p.ns as f64 / p.connections as f64
        );
    }
    let mut variants: Vec<&str> = sorted.iter().map(|p| p.variant.as_str()).collect();
    variants.dedup();
    for variant in variants {
        let all = || sorted.iter().filter(|p| p.variant == variant);
        let each = |of: fn(&Program) -> u64| all().map(|p| of(p) as f64 / p.connections as f64).sum::<f64>();
        let _ = writeln!(text, "| {variant} | all | {:.2} | | {:.0} |", each(|p| p.runs), each(|p| p.ns));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_by_connection_and_sums_up() {
        let line = |program: &str, runs, ns| {
            format!(
                "program {{\"variant\":\"fentry\",\"program\":\"{program}\",\"connections\":10,\"runs\":{runs},\"ns\":{ns}}}\n"
            )
        };
        let text = format!("noise\n{}{}", line("free", 10, 500), line("alloc", 20, 3_000));
        let table = table(&parse(&text).unwrap());
        let rows: Vec<_> = table.lines().skip(2).collect();
        assert_eq!(
            rows,
            [
                "| fentry | alloc | 2.00 | 150 | 300 |",
                "| fentry | free | 1.00 | 50 | 50 |",
                "| fentry | all | 3.00 | | 350 |"
            ]
        );
        assert!(parse("program {}").is_err());
    }
}
