//! Who holds entries: what the probes are told of owners, and what they count for each.

use crate::aggregate::accounts::Accounts;
use crate::aggregate::snapshot::AccountingOverflow;
use crate::attribute::index::OwnerIndex;
use crate::attribute::owner::Owner;
use crate::attribute::telling::{Table, telling};
use crate::drain::directory::Directory;

/// Accounts and what leads to them.
pub(super) struct Held {
    pub(super) accounts: Accounts,
    directory: Directory,
    untold: u64,
}

impl Held {
    pub(super) fn new(directory: Directory) -> Self {
        Self { accounts: Accounts::default(), directory, untold: 0 }
    }

    /// Tells the probes of the owners in these tables, as far as there is room.
    pub(super) fn tell(&mut self, index: &OwnerIndex, tables: &[Table]) {
        self.accounts.ask_anew();
        let accounts = &mut self.accounts;
        let told = telling(index, tables, |netns, owner, need| accounts.account(netns, owner, need));
        self.untold = self.directory.tell(&told) as u64;
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
            unplaced: None,
        }
    }
}
