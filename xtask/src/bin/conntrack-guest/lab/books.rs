//! The daemon's word on a namespace's table, as its metrics have it.

use anyhow::Context as _;

use super::netns::Netns;
use crate::daemon::value;

/// The labels that a namespace's table has in the metrics, and one label more if given.
pub(crate) fn labels(netns: &Netns, more: Option<(&str, &str)>) -> String {
    let more = more.map(|(name, value)| format!(",{name}=\"{value}\"")).unwrap_or_default();
    if netns.host {
        format!("{{table=\"host\",namespace=\"\",pod=\"\",netns=\"\"{more}}}")
    } else {
        format!("{{table=\"netns\",namespace=\"\",pod=\"\",netns=\"{}\"{more}}}", netns.inum)
    }
}

/// A series of a namespace's table.
///
/// # Errors
/// When the page does not have it: unknown is not 0.
pub(crate) fn figure(
    page: &str,
    netns: &Netns,
    metric: &str,
    more: Option<(&str, &str)>,
) -> anyhow::Result<i64> {
    let series = format!("{metric}{}", labels(netns, more));
    let found = value(page, &series).with_context(|| format!("no series {series} in:\n{page}"))?;
    Ok(found as i64)
}

/// Fails when the kernel skipped runs of a probe: then no count is exact, and the reason is known.
///
/// # Errors
/// With the series that is not 0.
pub(crate) fn no_missed_runs(page: &str) -> anyhow::Result<()> {
    let missed = page
        .lines()
        .find(|line| line.starts_with("conntrack_probe_missed_total") && !line.trim_end().ends_with(" 0"));
    missed.map_or(Ok(()), |line| Err(anyhow::anyhow!("the kernel skipped runs of a probe: {line}")))
}

/// Prints what the kernel skipped, at most: where all figures are right all the same, none of those runs had anything
/// to count, or a second program counted it.
pub(crate) fn tell_missed_runs(page: &str) {
    let missed: Vec<_> = page
        .lines()
        .filter(|line| line.starts_with("conntrack_probe_missed_total") && !line.trim_end().ends_with(" 0"))
        .collect();
    if !missed.is_empty() {
        println!("figure: runs that the kernel skipped, at most: {missed:?}");
    }
}
