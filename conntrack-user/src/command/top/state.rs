//! What keys change.

use super::rows::Row;

/// A key that means something here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Key {
    /// q, Ctrl-C.
    Quit,
    /// s: the next column to sort by.
    Sort,
    /// t: the next table.
    Table,
    /// ?, h: help, or away with it.
    Help,
    /// Escape: away with help.
    Escape,
    /// One row up.
    Up,
    /// One row down.
    Down,
    /// One page up.
    PageUp,
    /// One page down.
    PageDown,
    /// To the first row.
    Home,
    /// To the last row.
    End,
}

/// What rows are sorted by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Sort {
    /// Entries held.
    #[default]
    Entries,
    /// Inserts a second.
    Inserts,
    /// Refusals a second.
    RefusedRate,
    /// Refusals so far.
    Refused,
    /// Evictions a second.
    EvictedRate,
    /// Evictions so far.
    Evicted,
    /// Name.
    Owner,
}

impl Sort {
    /// The next one.
    #[must_use]
    pub const fn next(self) -> Self {
        match self {
            Self::Entries => Self::Inserts,
            Self::Inserts => Self::RefusedRate,
            Self::RefusedRate => Self::Refused,
            Self::Refused => Self::EvictedRate,
            Self::EvictedRate => Self::Evicted,
            Self::Evicted => Self::Owner,
            Self::Owner => Self::Entries,
        }
    }

    /// Sorts: the most first, what is not known last; names from A on.
    pub fn sort(self, rows: &mut [Row]) {
        let count = |n: Option<u64>| n.map(|n| n as f64);
        let value = |row: &Row| match self {
            Self::Entries => row.entries.map(|n| n as f64),
            Self::Inserts => row.inserts,
            Self::RefusedRate => row.refused.1,
            Self::Refused => count(row.refused.0),
            Self::EvictedRate => row.evicted.1,
            Self::Evicted => count(row.evicted.0),
            Self::Owner => None,
        };
        let most = |n: Option<f64>| n.unwrap_or(f64::NEG_INFINITY);
        rows.sort_by(|a, b| {
            let entries = b.entries.cmp(&a.entries).then_with(|| a.name.cmp(&b.name));
            match self {
                Self::Owner => a.name.cmp(&b.name),
                _ => most(value(b)).total_cmp(&most(value(a))).then(entries),
            }
        });
    }
}

/// What the person chose.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct State {
    /// Namespace of the table shown; None: the first.
    pub netns: Option<u32>,
    /// Order of the rows.
    pub sort: Sort,
    /// First row shown.
    pub scroll: usize,
    /// Is help shown?
    pub help: bool,
}

impl State {
    /// The table to show, of those there are.
    #[must_use]
    pub fn table(&self, order: &[u32]) -> Option<u32> {
        self.netns.filter(|netns| order.contains(netns)).or_else(|| order.first().copied())
    }

    /// Does what a key says, with `rows` rows of which a page shows `page`. Returns false for [`Key::Quit`].
    pub fn press(&mut self, key: Key, order: &[u32], rows: usize, page: usize) -> bool {
        let last = rows.saturating_sub(page.max(1));
        let scroll = self.scroll.min(last);
        match key {
            Key::Quit => return false,
            Key::Help => self.help = !self.help,
            Key::Escape => self.help = false,
            Key::Sort => (self.sort, self.scroll) = (self.sort.next(), 0),
            Key::Table => {
                let shown =
                    self.table(order).and_then(|shown| order.iter().position(|netns| *netns == shown));
                let next = shown.map(|at| (at + 1) % order.len());
                (self.netns, self.scroll) = (next.map(|at| order[at]), 0);
            }
            Key::Up => self.scroll = scroll.saturating_sub(1),
            Key::Down => self.scroll = (scroll + 1).min(last),
            Key::PageUp => self.scroll = scroll.saturating_sub(page.max(1)),
            Key::PageDown => self.scroll = (scroll + page.max(1)).min(last),
            Key::Home => self.scroll = 0,
            Key::End => self.scroll = last,
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn t_goes_round_the_tables_and_copes_when_they_go() {
        let mut state = State::default();
        let shown = |state: &mut State, order: &[u32]| {
            assert!(state.press(Key::Table, order, 5, 5));
            state.table(order)
        };
        assert_eq!(state.table(&[7, 8, 9]), Some(7));
        assert_eq!(shown(&mut state, &[7, 8, 9]), Some(8));
        assert_eq!(state.table(&[7, 9]), Some(7), "8 has gone");
        assert_eq!(shown(&mut state, &[7, 9]), Some(9));
        assert_eq!(shown(&mut state, &[7, 9]), Some(7));
        assert_eq!(shown(&mut state, &[]), None);
    }

    #[test]
    fn scrolling_stays_within_the_rows() {
        let mut state = State::default();
        for (key, at) in [
            (Key::Up, 0),
            (Key::Down, 1),
            (Key::PageDown, 11),
            (Key::PageDown, 15),
            (Key::Down, 15),
            (Key::PageUp, 5),
            (Key::End, 15),
            (Key::Home, 0),
        ] {
            state.press(key, &[1], 25, 10);
            assert_eq!(state.scroll, at, "{key:?}");
        }
        state.scroll = 15;
        state.press(Key::Up, &[1], 4, 10);
        assert_eq!(state.scroll, 0, "rows went meanwhile");
        assert!(state.press(Key::Down, &[], 0, 0));
        state.scroll = 3;
        state.press(Key::Sort, &[1], 25, 10);
        assert_eq!((state.scroll, state.sort), (0, Sort::Inserts));
    }

    #[test]
    fn keys_for_help_and_the_end() {
        let mut state = State::default();
        assert!(state.press(Key::Help, &[], 0, 0) && state.help);
        assert!(state.press(Key::Escape, &[], 0, 0) && !state.help);
        assert!(!state.press(Key::Quit, &[], 0, 0));
    }

    #[test]
    fn unknown_is_last_and_ties_are_by_entries() {
        let row = |name: &str, entries, refused| Row {
            name: name.into(),
            entries,
            of_limit: None,
            inserts: None,
            refused: (refused, None),
            evicted: (None, None),
            culprit: false,
        };
        let mut rows = [
            row("c", Some(5), None),
            row("a", Some(-2), Some(0)),
            row("b", None, Some(9)),
            row("d", Some(7), Some(0)),
        ];
        let mut names = |sort: Sort| -> String {
            sort.sort(&mut rows);
            rows.iter().map(|row| row.name.as_str()).collect()
        };
        assert_eq!(names(Sort::Entries), "dcab");
        assert_eq!(names(Sort::Refused), "bdac");
        assert_eq!(names(Sort::Owner), "abcd");
        assert_eq!((0..7).fold(Sort::Entries, |sort, _| sort.next()), Sort::Entries);
    }
}
