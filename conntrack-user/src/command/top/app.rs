//! What is known and chosen, and what is said beside it.

use std::time::{Duration, Instant};

use ratatui::buffer::Buffer;
use ratatui::layout::Rect;

use super::draw::{Screen, draw, height, page};
use super::history::History;
use super::rows::{TableView, order, view};
use super::state::{Key, State};
use super::wire::Document;

/// Age from which a reading is called old.
const OLD: Duration = Duration::from_secs(5);

/// The program between its effects.
#[derive(Clone, Debug)]
pub struct App {
    history: History,
    state: State,
    source: String,
    error: Option<String>,
    colour: bool,
}

impl App {
    /// With figures from `source`.
    #[must_use]
    pub fn new(source: String, colour: bool) -> Self {
        Self { history: History::default(), state: State::default(), source, error: None, colour }
    }

    /// Takes in what came at `now`.
    pub fn receive(&mut self, now: Instant, document: anyhow::Result<Option<Document>>) {
        self.error = match document {
            Ok(document) => {
                if let Some(document) = document {
                    self.history.enter(now, document);
                }
                None
            }
            Err(error) => Some(format!("{error:#}")),
        };
    }

    /// Is anything known yet?
    #[must_use]
    pub fn knows(&self) -> bool {
        self.history.latest().is_some()
    }

    /// Why nothing came last; None: something did.
    #[must_use]
    pub fn error(&self) -> Option<&str> {
        self.error.as_deref()
    }

    /// Does what a key says on a screen of this size. Returns false when it is to end.
    pub fn press(&mut self, key: Key, area: Rect) -> bool {
        let order = self.order();
        let rows = self.table(&order).map_or(0, |table| table.rows.len());
        self.state.press(key, &order, rows, page(area))
    }

    /// Lines that all rows take.
    #[must_use]
    pub fn height(&self) -> u16 {
        height(self.table(&self.order()).map_or(0, |table| table.rows.len()))
    }

    /// Paints it as of `now`.
    pub fn paint(&self, now: Instant, area: Rect, buf: &mut Buffer) {
        let order = self.order();
        let table = self.table(&order);
        let at = table.as_ref().and_then(|table| order.iter().position(|netns| *netns == table.netns));
        let notice = self.notice(now);
        let screen = Screen {
            table: table.as_ref(),
            place: (at.map_or(0, |at| at + 1), order.len()),
            state: self.state,
            source: &self.source,
            notice: notice.as_deref(),
            colour: self.colour,
        };
        draw(&screen, area, buf);
    }

    fn order(&self) -> Vec<u32> {
        self.history.latest().map(order).unwrap_or_default()
    }

    fn table(&self, order: &[u32]) -> Option<TableView> {
        let mut table = view(&self.history, self.state.table(order)?)?;
        self.state.sort.sort(&mut table.rows);
        Some(table)
    }

    fn notice(&self, now: Instant) -> Option<String> {
        let Some((document, received)) = self.history.latest().zip(self.history.received()) else {
            return Some(self.error.clone().unwrap_or_else(|| "waiting for the first reading".to_owned()));
        };
        let age = document.age_seconds.unwrap_or(0.0) + now.saturating_duration_since(received).as_secs_f64();
        let old = age >= OLD.as_secs_f64();
        match &self.error {
            Some(error) => Some(format!("{age:.0} s old: {error}")),
            None if old => Some(format!("{age:.0} s old: no reading was made since; its log may say why")),
            None if !document.conntrack_loaded => {
                Some("conntrack is not loaded in this kernel: there is no table to watch".to_owned())
            }
            None => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::top::draw::text;
    use crate::command::top::example;

    const AREA: Rect = Rect::new(0, 0, 80, 24);

    fn shown(app: &App, now: Instant) -> String {
        let mut buf = Buffer::empty(AREA);
        app.paint(now, AREA, &mut buf);
        text(&buf)
    }

    #[test]
    fn what_is_said_beside_the_figures() {
        let (mut app, start) = (App::new("daemon at x:1".into(), false), Instant::now());
        let later = |seconds| start + Duration::from_secs(seconds);
        assert!(shown(&app, start).contains("waiting for the first reading"));
        app.receive(start, Err(anyhow::anyhow!("x:1: it does not answer")));
        assert!(shown(&app, start).contains("x:1: it does not answer") && !app.knows());
        app.receive(start, Ok(Some(example::document())));
        assert!(app.knows() && !shown(&app, later(1)).contains("old"));
        assert!(shown(&app, later(7)).contains("7 s old: no reading"), "{}", shown(&app, later(7)));
        app.receive(later(2), Err(anyhow::anyhow!("gone")));
        assert!(
            shown(&app, later(3)).contains("3 s old: gone"),
            "what is known stays: {}",
            shown(&app, later(3))
        );
        let unloaded = Document { conntrack_loaded: false, tables: Vec::new(), ..example::document() };
        app.receive(later(4), Ok(Some(unloaded)));
        assert!(shown(&app, later(4)).contains("not loaded"));
        let stuck = Document { age_seconds: Some(30.0), ..example::document() };
        app.receive(later(5), Ok(Some(stuck)));
        assert!(shown(&app, later(5)).contains("30 s old"));
    }

    #[test]
    fn keys_change_what_is_shown() {
        let (mut app, now) = (App::new("x".into(), false), Instant::now());
        app.receive(now, Ok(Some(example::document())));
        assert!(shown(&app, now).contains("table 1 of 3"));
        assert!(app.press(Key::Table, AREA));
        let second = shown(&app, now);
        assert!(
            second.contains("table 2 of 3") && second.contains("\nshop/web-0  9,000 / 262,144"),
            "{second}"
        );
        assert!(app.press(Key::Table, AREA) && app.press(Key::Table, AREA));
        assert!(app.press(Key::Sort, AREA));
        assert!(shown(&app, now).contains("▼INS/S"));
        assert!(app.press(Key::Sort, AREA) && app.press(Key::Sort, AREA));
        let by_refused = shown(&app, now);
        let at = |row: &str| by_refused.find(row).unwrap_or_else(|| panic!("no {row}: {by_refused}"));
        assert!(at("\n V shop/web-0 ") < at("\nC  batch/crawler-7d9f "), "{by_refused}");
        assert!(!app.press(Key::Quit, AREA));
        assert_eq!(app.height(), 12);
    }
}
