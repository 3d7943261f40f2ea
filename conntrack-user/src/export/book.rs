//! Counters of label sets whose members come and go, kept monotonic.
//!
//! A label set sums its members: one table as a rule, many in `_other`. A member that goes leaves its count
//! behind; a label set with no members is printed for two more scrapes, so that its last counts are seen.

use std::collections::BTreeMap;

use super::labels::Labels;

/// Scrapes for which a label set outlives its members.
pub const GRACE_SCRAPES: u32 = 2;

/// One member's reading.
#[derive(Clone, Debug)]
pub struct Reading<L, M> {
    /// What tells the members apart.
    pub member: M,
    /// The label set it counts under.
    pub labels: L,
    /// Its counters, always in the same order; None: not known.
    pub counters: Vec<Option<u64>>,
}

#[derive(Clone, Debug, Default)]
struct Member {
    /// Highest seen of each.
    highest: Vec<Option<u64>>,
    /// Whether the last reading knew it.
    known: Vec<bool>,
}

#[derive(Clone, Debug)]
struct Group<M> {
    members: BTreeMap<M, Member>,
    retired: Vec<Option<u64>>,
    absent: u32,
}

impl<M> Default for Group<M> {
    fn default() -> Self {
        Self { members: BTreeMap::new(), retired: Vec::new(), absent: 0 }
    }
}

/// The counters of all label sets.
#[derive(Clone, Debug)]
pub struct Book<L, M> {
    groups: BTreeMap<L, Group<M>>,
}

impl<L: Labels, M: Ord + Clone> Default for Book<L, M> {
    fn default() -> Self {
        Self { groups: BTreeMap::new() }
    }
}

impl<L: Labels, M: Ord + Clone> Book<L, M> {
    /// Enters one scrape's readings of all members.
    pub fn update(&mut self, readings: &[Reading<L, M>]) {
        let now: BTreeMap<&M, &Reading<L, M>> = readings.iter().map(|r| (&r.member, r)).collect();
        for (labels, group) in &mut self.groups {
            let gone: Vec<M> = group
                .members
                .keys()
                .filter(|m| now.get(m).is_none_or(|r| r.labels != *labels))
                .cloned()
                .collect();
            for member in gone.iter().filter_map(|m| group.members.remove(m)) {
                add(&mut group.retired, &member.highest);
            }
        }
        for reading in now.values() {
            let group = self.groups.entry(reading.labels.clone()).or_default();
            group.absent = 0;
            let member = group.members.entry(reading.member.clone()).or_default();
            if restarted(&member.highest, &reading.counters) {
                add(&mut group.retired, &member.highest);
                member.highest.clear();
            }
            raise(&mut member.highest, &reading.counters);
            member.known = reading.counters.iter().map(Option::is_some).collect();
        }
        self.groups.retain(|labels, group| {
            group.absent += u32::from(group.members.is_empty());
            group.absent <= GRACE_SCRAPES || labels.is_rest()
        });
    }

    /// The counters of every label set. One that some member could not tell at its last reading is not
    /// known; the rest keeps what it had, since it must not fall or blink for one of many.
    pub fn sums(&self) -> impl Iterator<Item = (&L, Vec<Option<u64>>)> {
        self.groups.iter().map(|(labels, group)| {
            let mut sum = group.retired.clone();
            group.members.values().for_each(|member| add(&mut sum, &member.highest));
            for member in group.members.values().filter(|_| !labels.is_rest()) {
                sum.iter_mut().zip(&member.known).filter(|(_, known)| !**known).for_each(|(s, _)| *s = None);
            }
            (labels, sum)
        })
    }

    /// Does this label set still have series?
    #[must_use]
    pub fn has(&self, labels: &L) -> bool {
        self.groups.contains_key(labels)
    }
}

/// Some counter fell and none rose: another member under the same name (a reused inode). One that falls
/// while others rise was only read at an unlucky moment (a difference of two counters, say).
fn restarted(last: &[Option<u64>], now: &[Option<u64>]) -> bool {
    let pairs = || last.iter().zip(now).filter_map(|(a, b)| a.zip(*b));
    pairs().any(|(a, b)| b < a) && pairs().all(|(a, b)| b <= a)
}

fn raise(last: &mut Vec<Option<u64>>, now: &[Option<u64>]) {
    last.resize(now.len(), None);
    for (a, b) in last.iter_mut().zip(now) {
        *a = (*a).max(*b);
    }
}

fn add(sum: &mut Vec<Option<u64>>, counts: &[Option<u64>]) {
    if sum.len() < counts.len() {
        sum.resize(counts.len(), None);
    }
    for (a, b) in sum.iter_mut().zip(counts) {
        *a = match (*a, *b) {
            (Some(x), Some(y)) => Some(x.saturating_add(y)),
            (x, y) => x.or(y),
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
    struct L(&'static str);
    impl Labels for L {
        fn is_rest(&self) -> bool {
            self.0 == "_other"
        }
        fn is_few(&self) -> bool {
            false
        }
    }

    fn reading(member: u32, labels: &'static str, counters: &[u64]) -> Reading<L, u32> {
        Reading { member, labels: L(labels), counters: counters.iter().map(|c| Some(*c)).collect() }
    }

    fn get(book: &Book<L, u32>, labels: &str) -> Option<Option<u64>> {
        book.sums().find(|(l, _)| l.0 == labels).map(|(_, c)| c[0])
    }

    #[test]
    fn the_rest_never_falls_when_a_member_goes() {
        let mut book = Book::default();
        book.update(&[reading(1, "_other", &[10]), reading(2, "_other", &[5])]);
        book.update(&[reading(2, "_other", &[6])]);
        assert_eq!(get(&book, "_other"), Some(Some(16)));
        for _ in 0..5 {
            book.update(&[]);
        }
        assert_eq!(get(&book, "_other"), Some(Some(16)));
    }

    #[test]
    fn a_deleted_pod_is_seen_twice_more_and_then_goes() {
        let mut book = Book::default();
        book.update(&[reading(1, "a", &[10])]);
        for _ in 0..2 {
            book.update(&[]);
            assert_eq!(get(&book, "a"), Some(Some(10)));
        }
        book.update(&[]);
        assert_eq!(get(&book, "a"), None);
    }

    #[test]
    fn a_reused_name_goes_on_and_an_unlucky_reading_does_not_count_twice() {
        let mut book = Book::default();
        book.update(&[reading(1, "a", &[10, 3])]);
        book.update(&[reading(1, "a", &[9, 4])]);
        assert_eq!(get(&book, "a"), Some(Some(10)), "fell while another rose: held");
        book.update(&[reading(1, "a", &[2, 0])]);
        assert_eq!(get(&book, "a"), Some(Some(12)), "all fell: another member under this name");
    }

    #[test]
    fn a_member_that_changes_its_labels_leaves_no_double_members() {
        let mut book = Book::default();
        book.update(&[reading(1, "netns", &[10])]);
        book.update(&[reading(1, "pod", &[11])]);
        assert_eq!(get(&book, "pod"), Some(Some(11)));
        book.update(&[reading(1, "pod", &[11])]);
        book.update(&[reading(1, "pod", &[11])]);
        assert_eq!(get(&book, "netns"), None);
    }

    #[test]
    fn what_cannot_be_read_any_more_is_absent() {
        let mut book = Book::default();
        book.update(&[reading(1, "a", &[7])]);
        book.update(&[Reading { member: 1, labels: L("a"), counters: vec![None] }]);
        assert_eq!(get(&book, "a"), Some(None));
    }
}
