//! The page at `/`: what this is, how full the tables are, what is not attached.

use std::fmt::Write as _;

use super::coverage::{attached, mode};
use super::labels::{owner_labels, table_kind};
use super::view::View;
use crate::aggregate::snapshot::{Snapshot, Table};

/// Rows of tables shown; the fullest first.
const ROWS: usize = 50;

/// The page; `view` is None until the first reading.
#[must_use]
pub fn page(view: Option<&View>) -> String {
    let mut out = String::from(concat!(
        "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><title>conntrack-pressure</title>",
        "<style>body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem}",
        "table{border-collapse:collapse}td,th{padding:.2rem .8rem;border-bottom:1px solid #8886;text-align:left}",
        ".n{text-align:right}</style>",
        "<h1>conntrack-pressure ",
        env!("CARGO_PKG_VERSION"),
        "</h1>",
        "<p>Who fills this node's conntrack tables, who is hurt, and what to do.</p>",
        "<p><a href=\"/metrics\">/metrics</a> · <a href=\"/snapshot\">/snapshot</a> · <a href=\"/livez\">/livez</a> · <a href=\"/readyz\">/readyz</a></p>",
    ));
    match view {
        None => out.push_str("<p>No reading yet.</p>"),
        Some(view) => state(&mut out, &view.snapshot),
    }
    out.push_str("</html>\n");
    out
}

fn state(out: &mut String, s: &Snapshot) {
    let meaning = match mode(s) {
        "full" => "refusals are counted at the functions that refuse",
        _ => "refusals are concluded from statistics and tracepoints, not counted",
    };
    let _ = write!(out, "<p>Mode: <b>{}</b> ({meaning}).</p>", mode(s));
    if s.conntrack_loaded {
        tables(out, s);
    } else {
        out.push_str("<p>conntrack is not loaded in this kernel: there is no table to watch.</p>");
    }
    let missing: Vec<_> = s.probes.iter().filter(|p| !attached(p)).collect();
    if missing.is_empty() && !s.probes.is_empty() {
        out.push_str("<p>All probes are attached.</p>");
    } else if !missing.is_empty() {
        out.push_str("<h2>Not attached</h2><table><tr><th>probe<th>serves<th>why</tr>");
        for p in missing {
            let why = p.reason.as_deref().unwrap_or("not known");
            let _ =
                write!(out, "<tr><td>{}<td>{}<td>{}</tr>", escape(p.probe), escape(p.purpose), escape(why));
        }
        out.push_str("</table><p><code>conntrack-pressure doctor</code> says what to do.</p>");
    }
}

fn tables(out: &mut String, s: &Snapshot) {
    let mut tables: Vec<&Table> = s.tables.iter().collect();
    tables.sort_by(|a, b| b.host.cmp(&a.host).then(fill(b).total_cmp(&fill(a))));
    out.push_str(
        "<h2>Tables</h2><table><tr><th>table<th class=n>entries<th class=n>limit<th class=n>full<th class=n>time to full</tr>",
    );
    for t in tables.iter().take(ROWS) {
        let number = |n: Option<u64>| n.map_or_else(|| "not known".to_owned(), |n| n.to_string());
        let full = if fill(t) < 0.0 { "not known".to_owned() } else { format!("{:.1} %", 100.0 * fill(t)) };
        let _ = write!(
            out,
            "<tr><td>{}<td class=n>{}<td class=n>{}<td class=n>{full}<td class=n>{}</tr>",
            escape(&name(t)),
            number(t.entries),
            number(t.limit),
            to_full(t),
        );
    }
    out.push_str("</table>");
    if tables.len() > ROWS {
        let _ = write!(out, "<p>… and {} more.</p>", tables.len() - ROWS);
    }
}

fn to_full(t: &Table) -> String {
    match &t.forecast {
        Some(forecast) => span(forecast.seconds_to_full),
        None if t.entries.is_none() || t.limit.is_none() => "not known".to_owned(),
        None => "not filling".to_owned(),
    }
}

/// A span of time for people, from its seconds.
#[must_use]
pub fn span(seconds: f64) -> String {
    let s = seconds.max(0.0).round() as u64;
    match s {
        0..=99 => format!("{s} s"),
        100..=5999 => format!("{} min", (s + 30) / 60),
        _ => format!("{} h", (s + 1800) / 3600),
    }
}

/// How full, 0 to 1; −1 when not known, which sorts last.
fn fill(t: &Table) -> f64 {
    match (t.entries, t.limit) {
        (Some(n), Some(limit)) if limit > 0 => n as f64 / limit as f64,
        _ => -1.0,
    }
}

/// A table's name for people.
pub(crate) fn name(t: &Table) -> String {
    let l = owner_labels(&t.owner);
    match table_kind(t) {
        "host" => "host".to_owned(),
        "pod" => format!("pod {}/{}", l.namespace, l.pod),
        _ if l.cgroup.is_empty() => format!("netns {}", t.netns),
        _ => format!("netns {} ({})", t.netns, l.cgroup),
    }
}

fn escape(s: &str) -> String {
    s.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::attribute::owner::Owner;
    use crate::export::fixture;

    #[test]
    fn says_how_full_and_what_is_missing_and_escapes_names() {
        let mut view = fixture::view();
        view.snapshot.tables[1].owner =
            Owner::Pod { namespace: "a".into(), pod: "<script>".into(), uid: String::new() };
        view.snapshot.tables[2].entries = None;
        let page = page(Some(&view));
        assert!(page.contains("4 min") && page.contains("not filling"), "{page}");
        assert!(page.contains("78.1 %") && page.contains("not known") && page.contains("EPERM"), "{page}");
        assert!(page.contains("a/&lt;script&gt;") && !page.contains("<script>"));
        view.snapshot = Snapshot::default();
        assert!(super::page(Some(&view)).contains("not loaded"));
        assert!(super::page(None).contains("No reading yet"));
    }
}
