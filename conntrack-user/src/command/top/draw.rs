//! Paints one screen: a pure function of what is known and chosen.

use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};

use super::numbers::{UNKNOWN, count, escaped, fitted, grouped, name, rate, span, width};
use super::rows::{Row, TableView};
use super::state::{Sort, State};

/// Lines above the rows.
const ABOVE: u16 = 6;
/// Lines below.
const BELOW: u16 = 1;
/// Columns of the marks before a name.
const MARKS: usize = 3;
/// Least columns for a name: figures give way first.
const NAME: usize = 14;
/// And at most: figures stay near their names.
const WIDEST_NAME: usize = 64;
/// Fill from which the bar is yellow, and red.
const WARNING: (f64, f64) = (0.75, 0.9);

/// What is on a screen.
#[derive(Clone, Copy, Debug)]
pub struct Screen<'a> {
    /// The table shown, its rows sorted; None: there is none (yet).
    pub table: Option<&'a TableView>,
    /// Which of how many tables it is, from 1.
    pub place: (usize, usize),
    /// What was chosen.
    pub state: State,
    /// Where the figures come from.
    pub source: &'a str,
    /// What else must be said.
    pub notice: Option<&'a str>,
    /// May colours be used?
    pub colour: bool,
}

/// Rows that fit.
#[must_use]
pub fn page(area: Rect) -> usize {
    usize::from(area.height.saturating_sub(ABOVE + BELOW))
}

/// Lines that a screen with so many rows takes.
#[must_use]
pub fn height(rows: usize) -> u16 {
    u16::try_from(rows).unwrap_or(u16::MAX).saturating_add(ABOVE + BELOW)
}

/// Paints it.
pub fn draw(screen: &Screen<'_>, area: Rect, buf: &mut Buffer) {
    let paint = Paint { colour: screen.colour };
    let columns = usize::from(area.width);
    let rows = screen.table.map_or(0, |table| table.rows.len());
    let first = screen.state.scroll.min(rows.saturating_sub(page(area).max(1)));
    let mut lines = vec![title(screen, columns)];
    if let Some(table) = screen.table {
        lines.push(fill(table, columns, paint));
        lines.push(drivers(table));
        lines.push(totals(table, first, page(area)));
    }
    lines.resize(4, Line::default());
    lines.push(screen.notice.map_or_else(Line::default, |notice| {
        Line::styled(fitted(&escaped(notice), columns), paint.of(Color::Red, Modifier::BOLD))
    }));
    if screen.state.help {
        lines.extend(HELP.iter().map(|line| Line::raw(*line)));
    } else if let Some(table) = screen.table {
        let shown = shown(columns);
        lines.push(head(&shown, screen.state.sort, columns));
        lines.extend(
            table.rows.iter().skip(first).take(page(area)).map(|row| line(row, &shown, columns, paint)),
        );
    }
    for (y, line) in (area.top()..area.bottom()).zip(&lines) {
        buf.set_line(area.left(), y, line, area.width);
    }
    if area.height > 1 {
        let (y, blank) = (area.bottom() - 1, " ".repeat(columns));
        buf.set_stringn(area.left(), y, blank, columns, Style::default());
        buf.set_line(area.left(), y, &foot(columns), area.width);
    }
}

/// What was painted, without its style; each line ends with a newline.
#[must_use]
pub fn text(buf: &Buffer) -> String {
    let mut out = String::new();
    for y in buf.area.top()..buf.area.bottom() {
        let mut line = String::new();
        let mut x = buf.area.left();
        while x < buf.area.right() {
            let symbol = buf[(x, y)].symbol();
            line.push_str(symbol);
            // A wide character covers the next cell.
            x += if width(symbol) > 1 { 2 } else { 1 };
        }
        out.push_str(line.trim_end());
        out.push('\n');
    }
    out
}

#[derive(Clone, Copy)]
struct Paint {
    colour: bool,
}

impl Paint {
    fn of(self, colour: Color, modifier: Modifier) -> Style {
        let style = Style::default().add_modifier(modifier);
        if self.colour { style.fg(colour) } else { style }
    }
}

const HELP: &[&str] = &[
    "C  holds the most entries      V  was refused, or lost entries, since start",
    "",
    "ENTRIES  held now; who made the connection holds its entry",
    "%LIM     the same, of the table's limit        INS/S    new entries a second",
    "REF/S    connections refused a second: the table was full       REFUSED  so far",
    "EVI/S    entries evicted before their time, a second            EVICTED  so far",
    "-        not known",
    "",
    "s  sort by the next column     t  next table     ?  back",
    "↑ ↓ PgUp PgDn Home End  scroll                   q  quit",
];

fn title(screen: &Screen<'_>, columns: usize) -> Line<'static> {
    let left = " conntrack-pressure top";
    let (at, of) = screen.place;
    let right = match screen.table {
        Some(_) => format!("table {at} of {of} · {} ", escaped(screen.source)),
        None => format!("{} ", escaped(screen.source)),
    };
    let right = fitted(&right, columns.saturating_sub(width(left) + 2));
    let gap = columns.saturating_sub(width(left) + width(&right));
    Line::styled(
        format!("{left}{}{right}", " ".repeat(gap)),
        Style::default().add_modifier(Modifier::REVERSED),
    )
}

/// The table's own line: entries and limit, how full, growth, time to full.
fn fill(table: &TableView, columns: usize, paint: Paint) -> Line<'static> {
    let number = |n: Option<u64>| n.map_or_else(|| UNKNOWN.to_owned(), grouped);
    let full = table.entries.zip(table.limit).map(|(entries, limit)| entries as f64 / limit as f64);
    let entries = format!("{} / {}", number(table.entries), number(table.limit));
    let percent = full.map_or_else(|| UNKNOWN.to_owned(), |full| format!("{:.1} %", 100.0 * full));
    let growth = table.growth.map_or_else(|| UNKNOWN.to_owned(), |growth| format!("{}/s", signed(growth)));
    let end = match &table.forecast {
        Some(forecast) => format!("full in {}", span(forecast.seconds_to_full)),
        None if table.entries.is_none() => "not known".to_owned(),
        None if full.is_some_and(|full| full >= 1.0) => "FULL".to_owned(),
        None => "not filling".to_owned(),
    };
    let fixed = width(&entries) + width(&percent) + width(&growth) + width(&end) + 10;
    let name = fitted(&table.name, columns.saturating_sub(fixed).clamp(4, 40));
    let room = columns.saturating_sub(fixed + width(&name) + 2).min(40);
    let alarm = if table.forecast.is_some() || end == "FULL" { Modifier::BOLD } else { Modifier::empty() };
    let mut spans = vec![
        Span::styled(name, Style::default().add_modifier(Modifier::BOLD)),
        Span::raw(format!("  {entries}  ")),
    ];
    if room >= 5 {
        let part = full.unwrap_or(0.0).clamp(0.0, 1.0);
        // Only what is full looks full, and only what is empty looks empty.
        let done = ((part * room as f64).round() as usize).clamp(usize::from(part > 0.0), room);
        let done = if part < 1.0 { done.min(room - 1) } else { done };
        spans.push(Span::raw("["));
        spans.push(Span::styled("█".repeat(done), paint.of(fill_colour(part), Modifier::empty())));
        spans.push(Span::raw(format!("{}]  ", "░".repeat(room - done))));
    }
    spans.push(Span::raw(format!("{percent}  {growth}  ")));
    spans.push(Span::styled(
        end,
        if alarm.is_empty() { Style::default() } else { paint.of(Color::Red, alarm) },
    ));
    Line::from(spans)
}

fn fill_colour(part: f64) -> Color {
    match part {
        part if part >= WARNING.1 => Color::Red,
        part if part >= WARNING.0 => Color::Yellow,
        _ => Color::Green,
    }
}

fn signed(n: f64) -> String {
    let text = rate(n);
    if n > 0.0 && text != "0" && text != UNKNOWN { format!("+{text}") } else { text }
}

fn drivers(table: &TableView) -> Line<'static> {
    let drivers = table.forecast.iter().flat_map(|forecast| &forecast.drivers);
    let named: Vec<String> = drivers
        .map(|(owner, growth)| format!("{} {}/s", fitted(&name(owner), 40), signed(*growth)))
        .collect();
    if named.is_empty() { Line::default() } else { Line::raw(format!("filled by {}", named.join(", "))) }
}

fn totals(table: &TableView, first: usize, page: usize) -> Line<'static> {
    let told = |what: &str, (total, per_second): (Option<u64>, Option<f64>)| match total {
        None => format!("{what} not known"),
        Some(total) => {
            let rate = per_second.map_or_else(|| UNKNOWN.to_owned(), rate);
            format!("{what} {} ({rate}/s)", grouped(total))
        }
    };
    let rows = table.rows.len();
    let shown = match (first + 1, rows.min(first + page)) {
        (1, last) if last == rows => format!("owners {rows}"),
        (from, to) => format!("owners {from} to {to} of {rows}"),
    };
    let owners = match table.owners_from.as_deref() {
        None => "who holds entries is not known".to_owned(),
        Some("probes") => shown,
        Some(other) => format!("{shown}, by {}", escaped(other)),
    };
    Line::raw(format!("{}   {}   {owners}", told("refused", table.refused), told("evicted", table.evicted)))
}

/// One column of figures.
#[derive(Clone, Copy)]
struct Column {
    title: &'static str,
    width: usize,
    sort: Option<Sort>,
    text: fn(&Row) -> Option<String>,
    /// The higher, the sooner it gives way to names.
    gives_way: u8,
}

const COLUMNS: &[Column] = &[
    Column {
        title: "ENTRIES",
        width: 7,
        sort: Some(Sort::Entries),
        text: |row| row.entries.map(count),
        gives_way: 0,
    },
    Column {
        title: "%LIM",
        width: 5,
        sort: None,
        text: |row| row.of_limit.map(|part| format!("{:.1}", 100.0 * part)),
        gives_way: 3,
    },
    Column {
        title: "INS/S",
        width: 5,
        sort: Some(Sort::Inserts),
        text: |row| row.inserts.map(rate),
        gives_way: 4,
    },
    Column {
        title: "REF/S",
        width: 5,
        sort: Some(Sort::RefusedRate),
        text: |row| row.refused.1.map(rate),
        gives_way: 2,
    },
    Column {
        title: "REFUSED",
        width: 7,
        sort: Some(Sort::Refused),
        text: |row| row.refused.0.map(of_counter),
        gives_way: 1,
    },
    Column {
        title: "EVI/S",
        width: 5,
        sort: Some(Sort::EvictedRate),
        text: |row| row.evicted.1.map(rate),
        gives_way: 6,
    },
    Column {
        title: "EVICTED",
        width: 7,
        sort: Some(Sort::Evicted),
        text: |row| row.evicted.0.map(of_counter),
        gives_way: 5,
    },
];

fn of_counter(n: u64) -> String {
    count(i64::try_from(n).unwrap_or(i64::MAX))
}

/// Columns that leave room for names.
fn shown(columns: usize) -> Vec<Column> {
    let mut shown = COLUMNS.to_vec();
    while !shown.is_empty() && MARKS + NAME + taken(&shown) > columns {
        let first = shown.iter().map(|column| column.gives_way).max();
        shown.retain(|column| Some(column.gives_way) != first);
    }
    shown
}

fn taken(shown: &[Column]) -> usize {
    shown.iter().map(|column| column.width + 1).sum()
}

/// Columns for names.
fn room(shown: &[Column], columns: usize) -> usize {
    columns.saturating_sub(MARKS + taken(shown)).min(WIDEST_NAME)
}

fn head(shown: &[Column], sort: Sort, columns: usize) -> Line<'static> {
    let room = room(shown, columns);
    let owner = if sort == Sort::Owner { "OWNER ▲" } else { "OWNER" };
    let mut text = format!("{:MARKS$}{}", "", padded(owner, room));
    for column in shown {
        let mark = if column.sort == Some(sort) { "▼" } else { "" };
        text.push_str(&format!("{:>1$}", format!("{mark}{}", column.title), column.width + 1));
    }
    Line::styled(text, Style::default().add_modifier(Modifier::BOLD))
}

fn padded(text: &str, columns: usize) -> String {
    let text = fitted(text, columns);
    let gap = columns.saturating_sub(width(&text));
    text + &" ".repeat(gap)
}

fn line(row: &Row, shown: &[Column], columns: usize, paint: Paint) -> Line<'static> {
    let room = room(shown, columns);
    let mark = |is: bool, letter: &'static str| if is { letter } else { " " };
    let mut text =
        format!("{}{} {}", mark(row.culprit, "C"), mark(row.victim(), "V"), padded(&row.name, room));
    for column in shown {
        let figure = (column.text)(row).unwrap_or_else(|| UNKNOWN.to_owned());
        text.push_str(&format!(" {figure:>0$}", column.width));
    }
    let hurt_now = [row.refused.1, row.evicted.1].iter().any(|rate| rate.is_some_and(|rate| rate > 0.0));
    let style = match (row.culprit, row.victim()) {
        (true, true) => paint.of(Color::Magenta, Modifier::BOLD),
        (true, false) => paint.of(Color::Red, Modifier::BOLD),
        (false, true) if hurt_now => paint.of(Color::Yellow, Modifier::BOLD),
        (false, true) => paint.of(Color::Yellow, Modifier::empty()),
        (false, false) => Style::default(),
    };
    Line::styled(text, style)
}

fn foot(columns: usize) -> Line<'static> {
    let keys = "q quit  s sort  t table  ↑↓ scroll  ? help";
    let legend = "C most entries  V refused or evicted";
    let gap = columns.saturating_sub(width(keys) + width(legend));
    if gap < 2 {
        return Line::raw(keys);
    }
    Line::styled(format!("{keys}{}{legend}", " ".repeat(gap)), Style::default().add_modifier(Modifier::DIM))
}
