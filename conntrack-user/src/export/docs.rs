//! Documentation made from the tables of data.

use std::fmt::Write as _;

use clap::CommandFactory as _;

use super::descriptors::{self, Kind, Metric, Samples};
use super::exporter::DETAILED_TABLES;
use crate::cli::Cli;

const METRICS_HEAD: &str = "# Metrics

Made from the table the exporter itself is made from; do not edit. `UPDATE_DOCS=1 cargo test -p conntrack-user --lib export`
rewrites it.

**Unknown is absent, never 0.** A count whose probe is not attached has no series, and `conntrack_probe_attached` says so.
While conntrack is not in the kernel (`conntrack_loaded` 0) there are no series about tables at all.

**Counters** count since this program's start, `conntrack_kernel_statistics_total` excepted. They never fall while their
series exists.

**Tables.** `table=\"host\"` is the host's network namespace; `table=\"pod\"` a pod's, with `namespace` and `pod`;
`table=\"netns\"` any other, with the namespace's inode in `netns` (`ls -i /proc/PID/ns/net`). Labels that do not apply are empty.
";

fn budget_text() -> String {
    format!(
        "
**How many series.** `--max-pods` (128) pods and cgroups get owner series of their own, and a quarter as many tables beside
the host's get table series: who comes first keeps them for life. All others are summed in `pod=\"_other\"`,
`netns=\"_other\"` or `cgroup=\"_other\"`, and stay there for life even when room comes free, so that no counter falls.
Metrics marked *detailed* are printed for the host's table and the first {DETAILED_TABLES} others that have series of their own;
`conntrack-pressure snapshot` has them for all. A deleted pod's counters are printed for two more scrapes and then go; its
gauges go at once. With the defaults a node has at most 1,000 series.
"
    )
}

/// docs/metrics.md.
#[must_use]
pub fn metrics_markdown() -> String {
    let mut out = METRICS_HEAD.to_owned() + &budget_text();
    let section = |out: &mut String, title: &str, of: fn(&Metric) -> bool| {
        let _ = write!(
            out,
            "\n## {title}\n\n| metric | type | unit | labels | says | absent when |\n|---|---|---|---|---|---|\n"
        );
        for m in descriptors::all().filter(|m| of(m)) {
            let _ = writeln!(out, "{}", row(m));
        }
    };
    section(&mut out, "Tables", |m| matches!(m.samples, Samples::Table { .. }));
    section(&mut out, "Owners", |m| {
        matches!(
            m.samples,
            Samples::OwnerEntries
                | Samples::OwnerResponderEntries
                | Samples::OwnerInserts
                | Samples::OwnerDrops
                | Samples::OwnerEvictions
                | Samples::Outcomes(_)
        )
    });
    section(&mut out, "The node, and the tool itself", |m| {
        matches!(m.samples, Samples::Node(_) | Samples::AllTables(_) | Samples::Process)
    });
    out
}

fn row(m: &Metric) -> String {
    let kind = match m.kind {
        Kind::Counter => "counter",
        Kind::Gauge => "gauge",
    };
    let labels: Vec<String> = m.labels.iter().map(|l| format!("`{}`", l.replacen('=', ": ", 1))).collect();
    let mark = if matches!(m.samples, Samples::Table { detail: true, .. }) { " *detailed*" } else { "" };
    format!("| `{}`{mark} | {kind} | {} | {} | {} | {} |", m.name, m.unit, labels.join(" "), m.help, m.absent)
}

const EVENTS_HEAD: &str = "# Log events

Made from the table of fields in `conntrack-user/src/export/log_fields.rs`; do not edit. `UPDATE_DOCS=1 cargo test -p
conntrack-user --lib export` rewrites it.

One event a line on standard output: a JSON object with `--log.format json`, the same fields as `key=value` with
`--log.format text` (a field within a field is `outer.inner=`). A field that is not known is left out, never empty or 0.
Other lines of the daemon have `ts`, `level`, `message` and fields of their own, but no `event`.

Each source (namespace and source address) may have 100 events of a kind in a second; what is held back is counted in the
source's next event (`suppressed`) and in `conntrack_events_suppressed_total`. A line that cannot be written, because the reader
of standard output is too slow or gone, is counted in `conntrack_log_events_lost_total`.

| field | JSON type | there | says |
|---|---|---|---|
";

const EPISODES_HEAD: &str = "
## Episodes

All that one table does for one cause, from its first blow to its last, is an episode: one line when it begins, one with its
totals when nothing more has come of it for 128 seconds. These are the lines to alert a person with; those above are the proof.

| field | JSON type | there | says |
|---|---|---|---|
";

fn field_row(f: &super::log_fields::Field) -> String {
    format!("| `{}` | {} | {} | {} |", f.name, f.json, f.when, f.says)
}

/// docs/events.md.
#[must_use]
pub fn events_markdown() -> String {
    let mut out = EVENTS_HEAD.to_owned();
    for f in super::log_fields::FIELDS {
        let _ = writeln!(out, "{}", field_row(f));
    }
    out.push_str(EPISODES_HEAD);
    for f in super::log_fields::EPISODE_FIELDS {
        let _ = writeln!(out, "{}", field_row(f));
    }
    out
}

/// docs/cli.md: the help of every subcommand.
#[must_use]
pub fn cli_markdown() -> String {
    let mut out = String::from(
        "# Command line\n\nMade from the flags themselves; do not edit. `UPDATE_DOCS=1 cargo test -p conntrack-user --lib export` rewrites it.\n\nExit codes: 0 fine, 2 an error (bad flag, port taken, not root, unreadable /proc), of which one line says what to do. `check` has its own.\n\nThe flags under *System* are of every subcommand, before its name or after.\n",
    );
    let mut command = Cli::command().term_width(100).disable_help_subcommand(true);
    command.build();
    let mut section = |command: &mut clap::Command, name: &str| {
        let help = command.render_long_help().to_string();
        let help: Vec<&str> = help.lines().map(str::trim_end).collect();
        let _ = write!(out, "\n## {name}\n\n```text\n{}\n```\n", help.join("\n").trim_end());
    };
    section(&mut command, "conntrack-pressure");
    for sub in command.get_subcommands_mut() {
        let name = sub.get_name().to_owned();
        // They are the same everywhere, and told above.
        let mut own = sub.clone().mut_args(|arg| if arg.is_global_set() { arg.hide(true) } else { arg });
        section(&mut own, &name);
    }
    out
}

#[cfg(test)]
mod tests {
    use crate::export::golden::assert_file;

    #[test]
    fn metrics_md_is_what_the_table_says() {
        assert_file("docs/metrics.md", &super::metrics_markdown());
    }

    #[test]
    fn cli_md_is_what_help_says() {
        // Help prints the environment's values: they must not reach the file.
        let set = std::env::vars_os().any(|(k, _)| k.to_string_lossy().starts_with("CONNTRACK_PRESSURE_"));
        assert!(!set, "unset CONNTRACK_PRESSURE_* to run this test");
        assert_file("docs/cli.md", &super::cli_markdown());
    }

    #[test]
    fn events_md_is_what_the_table_says() {
        assert_file("docs/events.md", &super::events_markdown());
    }
}
