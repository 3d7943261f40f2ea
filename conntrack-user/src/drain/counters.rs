//! The probes' counters, read through a mapping: a map system call would make the kernel skip kprobe programs.

use std::mem::offset_of;

use aya::maps::Map;
use conntrack_common::{AccountCounters, Counter, MAX_ACCOUNTS, MAX_TABLES, OVERFLOW_SLOT, TableCounters};

use super::mapping::Mapping;
use super::places::Swept;
use super::pool::Pool;

/// Slots of dead namespaces are given back only below this many free ones: it costs two map system calls.
const FEW_FREE: usize = MAX_TABLES as usize / 2;

/// Sums over CPUs, indexed by [`Counter`].
pub type Sums = [u64; Counter::COUNT];

/// An account and its sums over CPUs.
pub type AccountSums = (u32, AccountCounters);

/// What the probes counted of one namespace, at one instant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tally {
    /// Its table's counters; what accounts count is their sum.
    pub sums: Sums,
    /// Its accounts: the table's own, and those asked for.
    pub accounts: Vec<AccountSums>,
}

/// The mapped counters. Array of `slot × CPUs + cpu`, of `cpu × accounts + account`, and slot → namespace.
pub struct Counters {
    counters: Mapping,
    accounts: Mapping,
    slots: Mapping,
    pool: Pool<u32>,
    cpus: usize,
}

impl Counters {
    /// Maps the arrays.
    ///
    /// # Errors
    /// If a map is not an array or cannot be mapped.
    pub fn map(counters: Map, accounts: Map, slots: Map, pool: Pool<u32>, cpus: u32) -> anyhow::Result<Self> {
        let cpus = cpus as usize;
        let tables = MAX_TABLES as usize;
        let account_bytes = MAX_ACCOUNTS as usize * size_of::<AccountCounters>();
        Ok(Self {
            counters: Mapping::new(counters, tables * cpus * size_of::<TableCounters>())?,
            accounts: Mapping::new(accounts, cpus * account_bytes)?,
            slots: Mapping::new(slots, tables * size_of::<u64>())?,
            pool,
            cpus,
        })
    }

    /// What was counted in one namespace, whose own accounts are these; None while nothing was.
    #[must_use]
    pub fn table(&self, netns: u32, accounts: &[u32]) -> Option<Tally> {
        let slot = self.slot(netns);
        let own = slot.into_iter().chain(accounts.iter().copied());
        let accounts: Vec<_> = own.map(|account| (account, self.account(account))).collect();
        let untouched = |(_, counters): &AccountSums| *counters == AccountCounters::default();
        if slot.is_none() && accounts.iter().all(untouched) {
            return None;
        }
        Some(tally(slot.map_or([0; Counter::COUNT], |slot| self.sums(slot)), accounts))
    }

    fn slot(&self, netns: u32) -> Option<u32> {
        (OVERFLOW_SLOT + 1..MAX_TABLES).find(|slot| self.slots.word(*slot as usize) == u64::from(netns))
    }

    /// Counts one more, on behalf of a probe.
    pub fn add_one(&self, netns: u32, counter: Counter) {
        let slot = self.slot(netns).unwrap_or(OVERFLOW_SLOT) as usize;
        let words = size_of::<TableCounters>() / size_of::<u64>();
        self.counters.add(slot * self.cpus * words + counter as usize, 1);
    }

    /// Takes an entry whose end no probe has seen out of its accounts.
    pub fn add_free(&self, swept: Swept) {
        const FREES: usize = offset_of!(AccountCounters, frees) / size_of::<u64>();
        const ANSWERS_FREED: usize = offset_of!(AccountCounters, answers_freed) / size_of::<u64>();
        let word = |account: u32, word| account as usize * AccountCounters::WORDS + word;
        self.accounts.add(word(swept.owner, FREES), 1);
        if let Some(responder) = swept.responder {
            self.accounts.add(word(responder, ANSWERS_FREED), 1);
        }
    }

    /// As [`Self::table`], and zeros for a namespace in which nothing happened yet. None: it may be among those
    /// that found no slot.
    #[must_use]
    pub fn of(&self, netns: u32, accounts: &[u32]) -> Option<Tally> {
        let nothing = || {
            let zeros = accounts.iter().map(|account| (*account, AccountCounters::default())).collect();
            let none_missed = self.overflow().sums.iter().all(|n| *n == 0);
            none_missed.then(|| tally([0; Counter::COUNT], zeros))
        };
        self.table(netns, accounts).or_else(nothing)
    }

    /// Sums of one account.
    #[must_use]
    pub fn account(&self, account: u32) -> AccountCounters {
        let mut sums = [0; AccountCounters::WORDS];
        for cpu in 0..self.cpus {
            let first = (cpu * MAX_ACCOUNTS as usize + account as usize) * AccountCounters::WORDS;
            for (word, sum) in sums.iter_mut().enumerate() {
                *sum += self.accounts.word(first + word);
            }
        }
        let [allocs, frees, moved_in, moved_out, inserts, answers, answers_freed, pad] = sums;
        AccountCounters { allocs, frees, moved_in, moved_out, inserts, answers, answers_freed, pad }
    }

    /// Starts an account at zero, for its next owner; what it had counted.
    pub fn zero_account(&self, account: u32) -> AccountCounters {
        let last = self.account(account);
        for cpu in 0..self.cpus {
            let first = (cpu * MAX_ACCOUNTS as usize + account as usize) * AccountCounters::WORDS;
            (first..first + AccountCounters::WORDS).for_each(|word| self.accounts.set(word, 0));
        }
        last
    }

    /// Starts a namespace that is gone at zero, should its inode be used again, and gives its slot back when few
    /// are free. `alive` says which namespaces there are.
    pub fn retire(&self, alive: impl Fn(u32) -> bool) {
        self.pool.give_back(|slot| self.clear(slot));
        let taken: Vec<_> = (OVERFLOW_SLOT + 1..MAX_TABLES)
            .filter_map(|slot| Some((slot, u32::try_from(self.slots.word(slot as usize)).ok()?)))
            .filter(|(_, netns)| *netns != 0)
            .collect();
        let few = (MAX_TABLES as usize).saturating_sub(taken.len()) < FEW_FREE;
        for (slot, netns) in taken {
            if !alive(netns) {
                if few {
                    self.pool.forget(&netns, slot);
                } else {
                    self.zero(slot);
                }
            }
        }
    }

    fn clear(&self, slot: u32) {
        self.zero(slot);
        self.slots.set(slot as usize, 0);
    }

    fn zero(&self, slot: u32) {
        let words = self.cpus * size_of::<TableCounters>() / size_of::<u64>();
        for word in slot as usize * words..(slot as usize + 1) * words {
            self.counters.set(word, 0);
        }
        self.zero_account(slot);
    }

    /// What happened in namespaces that found no slot.
    #[must_use]
    pub fn overflow(&self) -> Tally {
        tally(self.sums(OVERFLOW_SLOT), vec![(OVERFLOW_SLOT, self.account(OVERFLOW_SLOT))])
    }

    fn sums(&self, slot: u32) -> Sums {
        let words = size_of::<TableCounters>() / size_of::<u64>();
        let mut sums = [0; Counter::COUNT];
        for cpu in 0..self.cpus {
            let first = (slot as usize * self.cpus + cpu) * words;
            for (counter, sum) in sums.iter_mut().enumerate() {
                *sum += self.counters.word(first + counter);
            }
        }
        sums
    }
}

fn tally(sums: Sums, accounts: Vec<AccountSums>) -> Tally {
    let mut tally = Tally { sums, accounts: Vec::with_capacity(accounts.len() + 1) };
    accounts.into_iter().for_each(|(account, counters)| tally.add(account, counters));
    tally
}

impl Tally {
    /// Adds an account.
    fn add(&mut self, account: u32, counters: AccountCounters) {
        self.sums[Counter::Allocs as usize] += counters.allocs;
        self.sums[Counter::Frees as usize] += counters.frees;
        self.sums[Counter::Inserts as usize] += counters.inserts;
        self.accounts.push((account, counters));
    }

    /// Adds what accounts had counted that were given back: the table's, but nobody's any more.
    #[must_use]
    pub fn with_given_back(mut self, counters: AccountCounters) -> Self {
        self.add(OVERFLOW_SLOT, counters);
        if let Some((_, last)) = self.accounts.last_mut() {
            last.inserts = 0;
        }
        self
    }
}
