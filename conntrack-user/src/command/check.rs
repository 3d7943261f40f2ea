//! `check`: is there trouble? One line and an exit code.

use crate::aggregate::snapshot::{KernelStats, Snapshot, Table};
use crate::config::Thresholds;
use crate::export::landing::name;

/// The answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// 0 fine, 1 warning, 2 critical or cannot tell.
    pub code: u8,
    /// One line.
    pub line: String,
}

/// Judges a snapshot whose counts since start are those of a short look.
#[must_use]
pub fn verdict(snapshot: &Snapshot, thresholds: Thresholds) -> Verdict {
    let new = |code, word: &str, line: String| Verdict { code, line: format!("{word}: {line}") };
    if !snapshot.conntrack_loaded {
        return new(0, "OK", "conntrack is not loaded: there is no table that could be full".to_owned());
    }
    let before = before_start(snapshot.before_start.as_ref());
    let tail = before.as_ref().map(|b| format!("; {b}")).unwrap_or_default();
    let refusing: Vec<String> = snapshot.tables.iter().filter_map(refusing_now).collect();
    if !refusing.is_empty() {
        return new(2, "CRITICAL", refusing.join(", ") + &tail);
    }
    let Some((table, fill)) = fullest(snapshot) else {
        return new(2, "UNKNOWN", format!("no table could be read (not root?); doctor says why{tail}"));
    };
    let line = format!(
        "{} is {:.1} % full ({} of {})",
        name(table),
        100.0 * fill,
        table.entries.unwrap_or_default(),
        table.limit.unwrap_or_default()
    );
    let host_unread = snapshot.tables.iter().any(|t| t.host && t.entries.is_none());
    if fill >= thresholds.critical {
        new(2, "CRITICAL", line + &tail)
    } else if host_unread {
        new(2, "UNKNOWN", format!("the host's table could not be read; {line}{tail}"))
    } else if fill >= thresholds.warning || before.is_some() {
        new(1, "WARNING", line + &tail)
    } else {
        new(0, "OK", line)
    }
}

/// The table nearest its limit.
fn fullest(snapshot: &Snapshot) -> Option<(&Table, f64)> {
    let fill = |t: &Table| Some(t.entries? as f64 / t.limit.filter(|l| *l > 0)? as f64);
    snapshot.tables.iter().filter_map(|t| Some((t, fill(t)?))).max_by(|a, b| a.1.total_cmp(&b.1))
}

/// What says that the table refused during the look, or will refuse the next connection.
fn refusing_now(t: &Table) -> Option<String> {
    let refused = t.counted.map_or(0, |c| c.table_full.max(c.inferred_refusals));
    if refused > 0 {
        return Some(format!("{} is full: {refused} connections refused while looking", name(t)));
    }
    let (entries, limit) = (t.entries?, t.limit.filter(|l| *l > 0)?);
    (entries >= limit).then(|| format!("{} is full ({entries} of {limit})", name(t)))
}

/// What the kernel counted before this program started, if it tells of a table that was full. `drop` counts
/// lost races too, which `insert_failed` counts again: only what exceeds them is a refusal for sure.
#[must_use]
pub fn before_start(stats: Option<&KernelStats>) -> Option<String> {
    let stats = stats?;
    let refused = match (stats.drop, stats.insert_failed) {
        (Some(drop), Some(races)) => drop.saturating_sub(races),
        _ => 0,
    };
    let evicted = stats.early_drop.filter(|n| *n > 0);
    let mut parts = Vec::new();
    if refused > 0 {
        parts.push(format!("at least {refused} new connections refused"));
    }
    parts.extend(evicted.map(|n| format!("{n} entries evicted to make room")));
    (!parts.is_empty()).then(|| format!("before start, since boot: {}", parts.join(", ")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::aggregate::snapshot::Counted;
    use crate::export::fixture;

    const AT: Thresholds = Thresholds { warning: 0.75, critical: 0.9 };

    fn calm() -> Snapshot {
        let mut snapshot = fixture::snapshot();
        snapshot.before_start = Some(KernelStats::default());
        for t in &mut snapshot.tables {
            (t.entries, t.limit, t.counted) = (Some(10), Some(100), Some(Counted::default()));
        }
        snapshot
    }

    #[test]
    fn by_fill() {
        for (entries, code) in [(10, 0), (74, 0), (75, 1), (89, 1), (90, 2), (100, 2)] {
            let mut snapshot = calm();
            snapshot.tables[2].entries = Some(entries);
            let verdict = verdict(&snapshot, AT);
            assert_eq!(verdict.code, code, "{}", verdict.line);
            assert!(!verdict.line.contains('\n'));
        }
    }

    #[test]
    fn refusals_during_the_look_are_critical_however_empty() {
        let mut snapshot = calm();
        snapshot.tables[0].counted = Some(Counted { inferred_refusals: 3, ..Counted::default() });
        let verdict = verdict(&snapshot, AT);
        assert_eq!((verdict.code, verdict.line.starts_with("CRITICAL: host is full: 3")), (2, true));
    }

    #[test]
    fn what_was_before_is_a_warning_and_called_so() {
        let mut snapshot = calm();
        let stats = |drop, insert_failed| {
            Some(KernelStats {
                drop: Some(drop),
                insert_failed: Some(insert_failed),
                ..KernelStats::default()
            })
        };
        snapshot.before_start = stats(40, 6);
        let warned = verdict(&snapshot, AT);
        assert_eq!(warned.code, 1);
        assert!(warned.line.contains("before start, since boot: at least 34"), "{}", warned.line);
        snapshot.before_start = stats(6, 6);
        assert_eq!(verdict(&snapshot, AT).code, 0, "lost races are no refusals");
    }

    #[test]
    fn what_cannot_be_told_is_not_called_fine() {
        let mut snapshot = calm();
        snapshot.tables[0].entries = None;
        assert_eq!(verdict(&snapshot, AT).code, 2);
        snapshot.tables.clear();
        let verdict = verdict(&snapshot, AT);
        assert_eq!((verdict.code, verdict.line.starts_with("UNKNOWN")), (2, true));
    }

    #[test]
    fn not_loaded_is_fine_and_said() {
        let verdict = verdict(&Snapshot::default(), AT);
        assert_eq!((verdict.code, verdict.line.contains("not loaded")), (0, true));
    }
}
