//! Screens against golden files, at the sizes of terminals and at none.

use std::time::{Duration, Instant};

use ratatui::Terminal;
use ratatui::backend::TestBackend;
use ratatui::style::{Color, Modifier};

use super::draw::{Screen, draw, page};
use super::example;
use super::history::History;
use super::rows::{TableView, order, view};
use super::state::{Sort, State};
use super::wire::{Document, Part};
use crate::attribute::owner::Owner;
use crate::export::golden::assert_file;

/// Two documents, a second apart.
fn history(document: Document) -> History {
    let (start, mut history) = (Instant::now(), History::default());
    let mut before = document.clone();
    for losses in &mut before.owner_losses {
        losses.drops -= losses.drops / 40;
    }
    before.tables[0].counted.as_mut().unwrap().table_full -= 32;
    history.enter(start, before);
    history.enter(start + Duration::from_secs(1), document);
    history
}

fn table(history: &History, state: State) -> TableView {
    let mut table = view(history, example::HOST).unwrap();
    state.sort.sort(&mut table.rows);
    table
}

fn screen(table: &TableView, state: State) -> Screen<'_> {
    Screen {
        table: Some(table),
        place: (1, 3),
        state,
        source: "daemon at 127.0.0.1:9466",
        notice: None,
        colour: true,
    }
}

fn painted(screen: &Screen<'_>, columns: u16, lines: u16) -> Terminal<TestBackend> {
    let mut terminal = Terminal::new(TestBackend::new(columns, lines)).unwrap();
    terminal.draw(|frame| draw(screen, frame.area(), frame.buffer_mut())).unwrap();
    terminal
}

fn text(terminal: &Terminal<TestBackend>) -> String {
    super::draw::text(terminal.backend().buffer())
}

fn golden(name: &str, terminal: &Terminal<TestBackend>) {
    assert_file(&format!("conntrack-user/src/command/testdata/top-{name}.txt"), &text(terminal));
}

fn hostile() -> Document {
    let mut document = example::document();
    let part = |name: &str, entries| Part {
        owner: Owner::Cgroup { cgroup: name.into() },
        entries,
        inserts_per_second: None,
    };
    let parts = &mut document.tables[0].owners.as_mut().unwrap().parts;
    parts.push(part("a\u{1b}[2J\u{1b}]0;title\u{7}\nb", 900));
    parts.push(part(&"日本語".repeat(40), 800));
    parts.push(part(&"x".repeat(4096), 700));
    parts.push(part("right\u{202e}tfel", 600));
    parts.push(part("", -3));
    parts.extend((0..40).map(|n| part(&format!("kubepods.slice/pod-{n:02}"), 500 - n)));
    document
}

#[test]
fn the_screens_of_the_example() {
    let state = State::default();
    let table = table(&history(example::document()), state);
    golden("80x24", &painted(&screen(&table, state), 80, 24));
    golden("120x40", &painted(&screen(&table, state), 120, 40));
    let help = State { help: true, ..state };
    golden("help-80x24", &painted(&screen(&table, help), 80, 24));
}

#[test]
fn hostile_names_are_harmless_and_rows_scroll() {
    let state = State { scroll: 3, ..State::default() };
    let hostile = table(&history(hostile()), state);
    let notice = Some("127.0.0.1:9466 does not answer since 7 s");
    let terminal = painted(&Screen { notice, ..screen(&hostile, state) }, 80, 24);
    golden("hostile-80x24", &terminal);
    let shown = text(&terminal);
    assert!(!shown.contains(|c: char| c.is_control() && c != '\n') && !shown.contains('\u{202e}'), "{shown}");
}

#[test]
fn culprit_and_victim_show_by_colour_and_by_letter_without() {
    let state = State::default();
    let table = table(&history(example::document()), state);
    let row = |colour, starts: &str| {
        let terminal = painted(&Screen { colour, ..screen(&table, state) }, 80, 24);
        let y = text(&terminal).lines().position(|line| line.starts_with(starts));
        let y = y.unwrap_or_else(|| panic!("no {starts}: {}", text(&terminal))) as u16;
        let cell = &terminal.backend().buffer()[(3, y)];
        (cell.fg, cell.modifier)
    };
    assert_eq!(row(true, "C  batch/crawler"), (Color::Red, Modifier::BOLD));
    assert_eq!(row(true, " V shop/web-0"), (Color::Yellow, Modifier::BOLD));
    for letter in ["C  batch/crawler", " V shop/web-0", " V system.slice/ntp"] {
        assert_eq!(row(false, letter).0, Color::Reset, "{letter}");
    }
    let terminal = painted(&Screen { colour: false, ..screen(&table, state) }, 80, 24);
    let coloured = |cell: &ratatui::buffer::Cell| cell.fg != Color::Reset || cell.bg != Color::Reset;
    assert!(!terminal.backend().buffer().content.iter().any(coloured));
}

#[test]
fn no_size_is_too_small_nor_too_large() {
    let hostile = table(&history(hostile()), State::default());
    for help in [false, true] {
        for (columns, lines) in [(1, 1), (2, 3), (5, 24), (20, 2), (33, 7), (51, 8), (300, 100), (79, 24)] {
            let state = State { scroll: 9999, help, sort: Sort::Owner, ..State::default() };
            let notice = Some("x\ny");
            painted(&Screen { notice, ..screen(&hostile, state) }, columns, lines);
            painted(&Screen { table: None, ..screen(&hostile, state) }, columns, lines);
        }
    }
    assert_eq!(page(ratatui::layout::Rect::new(0, 0, 80, 3)), 0);
}

#[test]
fn narrow_screens_keep_names_entries_and_refusals() {
    let state = State::default();
    let table = table(&history(example::document()), state);
    let shown = text(&painted(&screen(&table, state), 40, 12));
    assert!(shown.contains("ENTRIES") && shown.contains("REFUSED") && shown.contains("crawler"), "{shown}");
    assert!(!shown.contains("EVICTED"), "{shown}");
}

#[test]
fn what_is_not_known_is_said() {
    let mut document = example::document();
    let host = &mut document.tables[0];
    (host.entries, host.counted, host.owners, host.forecast) = (None, None, None, None);
    document.owner_losses.clear();
    let mut history = History::default();
    history.enter(Instant::now(), document.clone());
    let table = view(&history, example::HOST).unwrap();
    let shown = text(&painted(&screen(&table, State::default()), 80, 24));
    for said in ["- / 262,144", "not known", "refused not known", "who holds entries is not known"] {
        assert!(shown.contains(said), "{said}: {shown}");
    }
    assert_eq!(order(&document)[0], example::HOST);
}
