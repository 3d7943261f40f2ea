//! What `top` shows of it, in a terminal.

use anyhow::{Context as _, ensure};

use crate::lab::terminal::Terminal;

/// An owner's row: its name, its mark (`C` holds most, `V` was hurt), entries, and refusals so far.
pub(crate) struct Row {
    pub(crate) name: &'static str,
    pub(crate) mark: &'static str,
    pub(crate) entries: u64,
    pub(crate) refused: u64,
}

/// Opens `top`, and looks at the owners by entries, by refusals, and at its help. `rows` are those to be seen: the
/// first is to be first by entries, and last by refusals.
pub(crate) fn test(full: &str, rows: &[Row]) -> anyhow::Result<()> {
    let terminal = Terminal::start("conntrack-pressure top")?;
    let first = terminal.until("the owners", |screen| rows.iter().all(|row| seen(screen, row)))?;
    show("by entries", &first);
    let table = first.get(1).context("no table")?;
    ensure!(table.starts_with("host") && table.contains(full), "the table is not full: {table}");
    let order = order(&first, rows);
    ensure!(order.first() == Some(&0), "not by entries: {order:?}");

    for _ in 0..8 {
        if terminal.screen()?.iter().any(|line| line.contains("▼REFUSED")) {
            break;
        }
        let before = heading(&terminal.screen()?);
        terminal.keys(&["s"])?;
        terminal.until("another order", |screen| heading(screen) != before)?;
    }
    let by_refusals = terminal.until("the order by refusals", |screen| {
        screen.iter().any(|line| line.contains("▼REFUSED")) && self::order(screen, rows).last() == Some(&0)
    })?;
    show("by refusals", &by_refusals);

    terminal.keys(&["?"])?;
    let help = terminal
        .until("the help", |screen| screen.iter().any(|line| line.contains("holds the most entries")))?;
    show("help", &help);
    terminal.keys(&["?"])?;
    terminal.until("the owners again", |screen| rows.iter().all(|row| seen(screen, row)))?;
    terminal.end("q")
}

/// The line over the columns.
fn heading(screen: &[String]) -> Option<String> {
    screen.iter().find(|line| line.contains("OWNER")).cloned()
}

/// Is this row there, with its mark and figures? The columns: mark, owner, entries, part of the limit, inserts a second,
/// refusals a second and so far, evictions a second and so far.
fn seen(screen: &[String], row: &Row) -> bool {
    screen.iter().any(|line| {
        let Some((mark, columns)) = line.split_once(row.name) else { return false };
        let columns: Vec<&str> = columns.split_whitespace().collect();
        mark.trim() == row.mark
            && columns.first() == Some(&row.entries.to_string().as_str())
            && columns.get(4) == Some(&row.refused.to_string().as_str())
    })
}

/// The rows in the order in which they are shown, by number.
fn order(screen: &[String], rows: &[Row]) -> Vec<usize> {
    let number = |line: &String| rows.iter().position(|row| line.contains(&format!(" {} ", row.name)));
    let from = screen.iter().position(|line| line.contains("OWNER")).unwrap_or_default();
    screen[from..].iter().filter_map(number).collect()
}

fn show(what: &str, screen: &[String]) {
    println!("figure: culprit: top, {what}:");
    for line in screen {
        println!("figure: culprit: |{line}");
    }
}
