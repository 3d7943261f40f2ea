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

/// Runs and nanoseconds a connection of all programs of a variant; None: it has none.
pub(crate) fn sums(programs: &[Program], variant: &str) -> Option<[f64; 2]> {
    let of: Vec<&Program> = programs.iter().filter(|p| p.variant == variant).collect();
    let each = |n: fn(&Program) -> u64| of.iter().map(|p| n(p) as f64 / p.connections as f64).sum::<f64>();
    (!of.is_empty()).then(|| [each(|p| p.runs), each(|p| p.ns)])
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
        if let Some([runs, ns]) = sums(programs, variant) {
            let _ = writeln!(text, "| {variant} | all | {runs:.2} | | {ns:.0} |");
        }
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
