//! Owners of a table without probes: what its last dump says.

use super::snapshot::{OwnerPart, Owners};
use crate::attribute::entry_owners::EntryOwners;
use crate::attribute::index::OwnerIndex;
use crate::drain::ct_entry::Entry;

/// Where these owners come from, in [`Owners::source`].
pub const SOURCE: &str = "dump";

/// Sums up one table's entries by owner; one pass, nothing kept of an entry.
#[derive(Debug)]
pub struct DumpOwners<'a> {
    owners: EntryOwners<'a>,
    held: Vec<Held>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Held {
    made: i64,
    answered: i64,
}

impl<'a> DumpOwners<'a> {
    /// For the table of namespace `netns`.
    #[must_use]
    pub fn new(index: &'a OwnerIndex, netns: u32) -> Self {
        Self { owners: EntryOwners::new(index, netns), held: Vec::new() }
    }

    /// Takes one entry in.
    #[inline]
    pub fn add(&mut self, entry: &Entry) {
        let found = self.owners.of(&entry.orig, &entry.reply);
        self.of(found.initiator).made += 1;
        if let Some(responder) = found.responder {
            self.of(responder).answered += 1;
        }
    }

    #[inline]
    fn of(&mut self, number: usize) -> &mut Held {
        if self.held.len() <= number {
            self.held.resize(number + 1, Held::default());
        }
        &mut self.held[number]
    }

    /// The owners that made or answer an entry, in their order; entries made sum up to those taken in.
    #[must_use]
    pub fn finish(self) -> Owners {
        let all = self.owners.into_owners().into_iter().zip(self.held);
        let mut parts: Vec<OwnerPart> = all
            .filter(|(_, held)| held.made > 0 || held.answered > 0)
            .map(|(owner, held)| OwnerPart {
                owner,
                entries: held.made,
                responder_entries: held.answered,
                inserts: None,
                inserts_per_second: None,
            })
            .collect();
        parts.sort_by(|a, b| a.owner.cmp(&b.owner));
        Owners { source: SOURCE, parts }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::attribute::entry_owners::tests::{HOST, index, service, tuple};
    use crate::attribute::owner::Owner;

    fn entry(from: &str, to: &str, answering: &str) -> Entry {
        Entry { orig: tuple(from, to), reply: tuple(answering, from), zone: 0, mark: None, status: 0 }
    }

    #[test]
    fn an_empty_table_has_no_owners() {
        let owners = DumpOwners::new(&index(), HOST).finish();
        assert_eq!((owners.source, owners.parts.len()), ("dump", 0));
    }

    #[test]
    fn every_entry_has_one_owner() {
        let index = index();
        let mut sum = DumpOwners::new(&index, HOST);
        let entries = [
            entry("203.0.113.1", "10.0.0.2", "10.0.0.2"),
            entry("203.0.113.2", "192.0.2.1", "192.0.2.1"),
            entry("10.0.0.1", "10.96.0.1", "10.0.0.2"),
            entry("10.0.0.1", "203.0.113.1", "203.0.113.1"),
            entry("fd00::1", "2001:db8::1", "2001:db8::1"),
            entry("192.0.2.1", "203.0.113.1", "203.0.113.1"),
        ];
        entries.iter().for_each(|entry| sum.add(entry));
        let owners = sum.finish();
        let parts: Vec<_> =
            owners.parts.iter().map(|p| (p.owner.clone(), p.entries, p.responder_entries)).collect();
        // /b made none, and answers two.
        let expected =
            [(service("a"), 3, 0), (service("b"), 0, 2), (Owner::Host, 1, 0), (Owner::External, 2, 0)];
        assert_eq!(parts, expected);
        assert_eq!(owners.parts.iter().map(|p| p.entries).sum::<i64>(), entries.len() as i64);
        assert!(owners.parts.iter().all(|p| p.inserts.is_none() && p.inserts_per_second.is_none()));
    }
}
