//! Which account is whose, and what each owner holds: the books by owner.

use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, Instant};

use conntrack_common::{AccountCounters, MAX_ACCOUNTS, MAX_TABLES};

use self::due::{FEW_FREE, Left};
use super::snapshot::{OwnerPart, Owners};
use crate::attribute::owner::Owner;
use crate::attribute::telling::Need;
use crate::drain::counters::AccountSums;

mod due;
#[cfg(test)]
mod tests;

/// Accounts there are to give.
const ACCOUNTS: usize = (MAX_ACCOUNTS - MAX_TABLES) as usize;
/// Unless so many are free, no account is given that only may be needed.
const PLENTY_FREE: usize = ACCOUNTS / 2;
/// Rates are over at least this long.
const RATE_OVER: Duration = Duration::from_secs(1);

/// Every account that was given to an owner.
#[derive(Debug, Default)]
pub struct Accounts {
    ids: HashMap<(u32, Owner), u32>,
    rows: BTreeMap<u32, Row>,
    /// Of tables: what their accounts that were given back had counted, which belongs to the table still.
    given_back: BTreeMap<u32, AccountCounters>,
    refused: u64,
}

#[derive(Debug)]
struct Row {
    netns: u32,
    owner: Owner,
    inserts: Option<(Instant, u64)>,
    rate: Option<f64>,
    wanted: bool,
    /// Since when nobody has asked for it.
    gone: Option<Instant>,
    /// Since when, of that time, it has held nothing.
    idle: Option<Instant>,
}

impl Accounts {
    /// The account of an owner in a table. None: there is none left, and to the books the owner is not known; or one
    /// that only may be needed is not given while accounts are scarce.
    pub fn account(&mut self, netns: u32, owner: &Owner, need: Need) -> Option<u32> {
        let key = (netns, owner.clone());
        let free = ACCOUNTS - self.rows.len();
        if let Some(id) = self.ids.get(&key) {
            if need == Need::Perhaps && free < FEW_FREE {
                return None;
            }
            if let Some(row) = self.rows.get_mut(id) {
                row.wanted = true;
            }
            return Some(*id);
        }
        if need == Need::Perhaps && free < PLENTY_FREE {
            return None;
        }
        // Not looked for where all are in use: a thousand owners may ask for one each round.
        let first_free = || (MAX_TABLES..MAX_ACCOUNTS).find(|id| !self.rows.contains_key(id));
        let Some(id) = (free > 0).then(first_free).flatten() else {
            self.refused += 1;
            return None;
        };
        let row = Row {
            netns,
            owner: owner.clone(),
            inserts: None,
            rate: None,
            wanted: true,
            gone: None,
            idle: None,
        };
        self.ids.insert(key, id);
        self.rows.insert(id, row);
        Some(id)
    }

    /// How often an owner asked for an account and there was none.
    #[must_use]
    pub fn refused(&self) -> u64 {
        self.refused
    }

    /// Accounts in use.
    #[must_use]
    pub fn used(&self) -> usize {
        self.rows.len()
    }

    /// Notes that what was asked for before counts no more: whoever is still there asks again.
    pub fn ask_anew(&mut self) {
        self.rows.values_mut().for_each(|row| row.wanted = false);
    }

    /// The accounts of a table.
    #[must_use]
    pub fn of(&self, netns: u32) -> Vec<u32> {
        self.rows.iter().filter(|(_, row)| row.netns == netns).map(|(id, _)| *id).collect()
    }

    /// What accounts of a table had counted that were given back since.
    #[must_use]
    pub fn given_back(&self, netns: u32) -> AccountCounters {
        self.given_back.get(&netns).copied().unwrap_or_default()
    }

    /// Whose an account is. None: a table's own, of nobody known.
    #[must_use]
    pub fn owner(&self, account: u32) -> Option<Owner> {
        self.rows.get(&account).map(|row| row.owner.clone()).filter(|owner| *owner != Owner::Unknown)
    }

    /// What each owner holds of a table, whose entries are `accounted` in all. What no account holds, entries
    /// older than the probes whose owner could not be found for one, is nobody's known: the sum is `accounted`.
    /// `inserts_seen`: is the probe of inserts attached?
    pub fn owners(
        &mut self,
        sums: &[AccountSums],
        accounted: i64,
        now: Instant,
        inserts_seen: bool,
    ) -> Owners {
        let mut parts = BTreeMap::<Owner, OwnerPart>::new();
        let mut rest = accounted;
        for (id, counters) in sums {
            let mut row = self.rows.get_mut(id);
            let entries = held(counters);
            let responders = counters.answers.wrapping_sub(counters.answers_freed).cast_signed();
            rest -= entries;
            let rate = row.as_mut().and_then(|row| row.rate(counters.inserts, now));
            let owner = row.map_or(Owner::Unknown, |row| row.owner.clone());
            let nothing = entries == 0 && responders == 0 && counters.inserts == 0;
            if !nothing {
                add(&mut parts, owner, entries, responders, counters.inserts, rate);
            }
        }
        if rest != 0 {
            add(&mut parts, Owner::Unknown, rest, 0, 0, None);
        }
        if !inserts_seen {
            for part in parts.values_mut() {
                (part.inserts, part.inserts_per_second) = (None, None);
            }
        }
        Owners { source: "probes", parts: parts.into_values().collect() }
    }

    /// Takes back accounts whose owners are gone: see [`due`]. `count` gives what an account has counted; `clear` gives
    /// it too, and starts the account at zero.
    pub fn retire(
        &mut self,
        now: Instant,
        alive: impl Fn(u32) -> bool,
        count: impl Fn(u32) -> AccountCounters,
        clear: impl Fn(u32) -> AccountCounters,
    ) {
        let free = ACCOUNTS - self.rows.len();
        let mut left = Vec::new();
        for (&account, row) in &mut self.rows {
            let alive = alive(row.netns);
            row.wanted &= alive;
            if row.wanted {
                (row.gone, row.idle) = (None, None);
                continue;
            }
            let counted = count(account);
            let gone = *row.gone.get_or_insert(now);
            row.idle = if is_empty(&counted) { row.idle.or(Some(now)) } else { None };
            // The kernel frees the entries of a namespace that is gone some time later.
            let idle = row.idle.or_else(|| (!alive && now >= gone + due::FORGET_AFTER).then_some(gone));
            left.push(Left {
                account,
                gone: now.saturating_duration_since(gone),
                idle: idle.map(|since| now.saturating_duration_since(since)),
                used: counted != AccountCounters::default(),
            });
        }
        for account in due::due(left, free) {
            let last = clear(account);
            if let Some(row) = self.rows.remove(&account) {
                if alive(row.netns) {
                    add_up(self.given_back.entry(row.netns).or_default(), &last);
                }
                self.ids.remove(&(row.netns, row.owner));
            }
        }
        self.given_back.retain(|netns, _| alive(*netns));
    }
}

impl Row {
    fn rate(&mut self, inserts: u64, now: Instant) -> Option<f64> {
        match self.inserts {
            Some((at, before)) => {
                let passed = now.saturating_duration_since(at);
                if passed >= RATE_OVER {
                    self.rate = Some(inserts.saturating_sub(before) as f64 / passed.as_secs_f64());
                    self.inserts = Some((now, inserts));
                }
            }
            None => self.inserts = Some((now, inserts)),
        }
        self.rate
    }
}

fn add_up(sum: &mut AccountCounters, one: &AccountCounters) {
    sum.allocs += one.allocs;
    sum.frees += one.frees;
    sum.moved_in += one.moved_in;
    sum.moved_out += one.moved_out;
    sum.inserts += one.inserts;
    sum.answers += one.answers;
    sum.answers_freed += one.answers_freed;
}

/// Does the account hold nothing, and answer nothing?
fn is_empty(counters: &AccountCounters) -> bool {
    held(counters) == 0 && counters.answers == counters.answers_freed
}

/// Entries held of those that came since the probes were attached.
fn held(counters: &AccountCounters) -> i64 {
    let came = counters.allocs.wrapping_add(counters.moved_in);
    came.wrapping_sub(counters.frees.wrapping_add(counters.moved_out)).cast_signed()
}

fn add(
    parts: &mut BTreeMap<Owner, OwnerPart>,
    owner: Owner,
    entries: i64,
    responder_entries: i64,
    inserts: u64,
    rate: Option<f64>,
) {
    let part = parts.entry(owner.clone()).or_insert(OwnerPart {
        owner,
        entries: 0,
        responder_entries: 0,
        inserts: Some(0),
        inserts_per_second: None,
    });
    part.entries += entries;
    part.responder_entries += responder_entries;
    part.inserts = part.inserts.map(|before| before + inserts);
    part.inserts_per_second = match (part.inserts_per_second, rate) {
        (None, rate) => rate,
        (before, None) => before,
        (Some(before), Some(rate)) => Some(before + rate),
    };
}
