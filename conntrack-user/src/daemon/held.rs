//! Who holds entries: what the probes are told of owners, and what they count for each.

use std::collections::HashMap;

use conntrack_common::directory::{DirectoryKey, seed_key};

use crate::aggregate::accounts::Accounts;
use crate::aggregate::snapshot::AccountingOverflow;
use crate::attribute::index::OwnerIndex;
use crate::attribute::owner::Owner;
use crate::attribute::telling::{accounts_of, telling};
use crate::drain::ct_entry::Entry;
use crate::drain::ctnetlink;
use crate::drain::directory::Directory;
use crate::drain::netns::Namespace;
use crate::drain::netns_enter::in_namespace;
use crate::drain::seeds::Seeds;

/// Accounts and what leads to them.
pub(super) struct Held {
    pub(super) accounts: Accounts,
    directory: Directory,
    seeds: Seeds,
    untold: u64,
    unseeded: u64,
}

impl Held {
    pub(super) fn new(directory: Directory, seeds: Seeds) -> Self {
        Self { accounts: Accounts::default(), directory, seeds, untold: 0, unseeded: 0 }
    }

    /// Tells the probes of the owners in these namespaces' tables, as far as there is room in this order.
    pub(super) fn tell(&mut self, index: &OwnerIndex, namespaces: impl Iterator<Item = u32>) {
        self.accounts.ask_anew();
        let accounts = &mut self.accounts;
        let told = telling(index, namespaces, |netns, owner| accounts.account(netns, owner));
        self.untold = self.directory.tell(&told) as u64;
    }

    /// Finds an owner for every entry there is, before the probes see the first one go.
    pub(super) fn plant(&mut self, namespaces: &[Namespace]) {
        for namespace in namespaces {
            let told = self.directory.told();
            let (seeds, accounts, unseeded) = (&self.seeds, &mut self.accounts, &mut self.unseeded);
            dump(namespace, |entry| {
                let Some(seeded) = accounts_of(told, namespace.inum, entry) else { return };
                if seeds.add(seed_key(namespace.inum, &entry.orig), seeded) {
                    accounts.seed(seeded, 1);
                } else {
                    *unseeded += 1;
                }
            });
        }
    }

    /// Now that the probes see what goes: takes out the entries that went before they did.
    pub(super) fn weed(&mut self, namespaces: &[Namespace]) {
        let mut alive = HashMap::<DirectoryKey, u32>::new();
        for namespace in namespaces {
            dump(namespace, |entry| *alive.entry(seed_key(namespace.inum, &entry.orig)).or_default() += 1);
        }
        for gone in self.seeds.keep(alive) {
            self.accounts.seed(gone, -1);
        }
    }

    /// Whose the account is that a probe named: its number plus one, 0 for none.
    pub(super) fn owner(&self, named: u32) -> Option<Owner> {
        self.accounts.owner(named.checked_sub(1)?)
    }

    /// What found no room.
    pub(super) fn overflow(&self) -> AccountingOverflow {
        AccountingOverflow {
            owners_without_account: self.accounts.refused(),
            untold: self.untold,
            unseeded: self.unseeded,
            unplaced: None,
        }
    }
}

/// Entries of a namespace whose table cannot be read are nobody's known.
fn dump(namespace: &Namespace, mut each: impl FnMut(&Entry) + Send) {
    let read = in_namespace(&namespace.path, namespace.inum, || ctnetlink::dump(None, |entry| each(&entry)));
    drop(read);
}
