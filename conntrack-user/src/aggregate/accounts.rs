//! Which account is whose, and what each owner holds: the books by owner.

use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, Instant};

use conntrack_common::{AccountCounters, MAX_ACCOUNTS, MAX_TABLES};

use super::snapshot::{OwnerPart, Owners};
use crate::attribute::owner::Owner;
use crate::drain::counters::AccountSums;

/// How long an account whose owner is gone, and that holds nothing, stays: scrapes are to see its last figures,
/// and a probe that has just looked it up is to be done with it.
const FORGET_AFTER: Duration = Duration::from_secs(60);
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
    /// Since when nobody has asked for it and it has held nothing.
    idle: Option<Instant>,
    wanted: bool,
}

impl Accounts {
    /// The account of an owner in a table. None: there is none left; to the books the owner is not known.
    pub fn account(&mut self, netns: u32, owner: &Owner) -> Option<u32> {
        let key = (netns, owner.clone());
        if let Some(id) = self.ids.get(&key) {
            if let Some(row) = self.rows.get_mut(id) {
                row.wanted = true;
            }
            return Some(*id);
        }
        // Not looked for where all are in use: a thousand owners may ask for one each round.
        let any = self.rows.len() < (MAX_ACCOUNTS - MAX_TABLES) as usize;
        let free = || (MAX_TABLES..MAX_ACCOUNTS).find(|id| !self.rows.contains_key(id));
        let Some(id) = any.then(free).flatten() else {
            self.refused += 1;
            return None;
        };
        let row = Row { netns, owner: owner.clone(), inserts: None, rate: None, idle: None, wanted: true };
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
            if let Some(row) = row.as_mut() {
                row.rest(entries == 0 && responders == 0, now);
            }
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

    /// Takes back the accounts whose owners are gone for a while and that hold nothing: `clear` is given each, to
    /// start it at zero, and returns what it had counted.
    pub fn retire(
        &mut self,
        now: Instant,
        alive: impl Fn(u32) -> bool,
        clear: impl Fn(u32) -> AccountCounters,
    ) {
        let mut gone = Vec::new();
        for (id, row) in &mut self.rows {
            if !alive(row.netns) {
                // The kernel frees the entries of a namespace that is gone some time later.
                row.wanted = false;
                row.idle.get_or_insert(now);
            }
            let rested = row.idle.is_some_and(|since| now.saturating_duration_since(since) >= FORGET_AFTER);
            if rested && !row.wanted {
                gone.push(*id);
            }
        }
        for id in gone {
            let last = clear(id);
            if let Some(row) = self.rows.remove(&id) {
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

    fn rest(&mut self, idle: bool, now: Instant) {
        self.idle = if idle { self.idle.or(Some(now)) } else { None };
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

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(name: &str) -> Owner {
        Owner::Pod { namespace: "shop".into(), pod: name.into(), uid: name.into() }
    }

    fn counters(allocs: u64, frees: u64, moved_in: u64, moved_out: u64) -> AccountCounters {
        AccountCounters { allocs, frees, moved_in, moved_out, inserts: allocs, ..AccountCounters::default() }
    }

    fn entries(owners: &Owners) -> Vec<(Owner, i64)> {
        owners.parts.iter().map(|part| (part.owner.clone(), part.entries)).collect()
    }

    #[test]
    fn the_sum_over_owners_is_what_is_accounted() {
        let mut accounts = Accounts::default();
        let (a, b) = (accounts.account(1, &pod("a")).unwrap(), accounts.account(1, &pod("b")).unwrap());
        // Ten older entries, eight of which a dump has shown: they moved from the table's own account to theirs.
        let answered = AccountCounters { answers: 8, answers_freed: 1, ..counters(7, 7, 0, 0) };
        let sums = [(3, counters(5, 1, 0, 10)), (a, counters(0, 4, 10, 0)), (b, answered)];
        let owners = accounts.owners(&sums, 10, Instant::now(), true);
        assert_eq!(entries(&owners), [(pod("a"), 6), (pod("b"), 0), (Owner::Unknown, 4)]);
        assert_eq!(owners.parts.iter().map(|part| part.responder_entries).collect::<Vec<_>>(), [0, 7, 0]);
    }

    #[test]
    fn an_owner_keeps_its_account_and_tables_are_apart() {
        let mut accounts = Accounts::default();
        let first = accounts.account(1, &pod("a"));
        assert_eq!(first, Some(MAX_TABLES));
        assert_eq!(accounts.account(1, &pod("a")), first);
        assert_ne!(accounts.account(2, &pod("a")), first);
        assert_eq!(accounts.of(2).len(), 1);
    }

    #[test]
    fn who_finds_no_account_is_counted() {
        let mut accounts = Accounts::default();
        for n in MAX_TABLES..MAX_ACCOUNTS {
            assert!(accounts.account(1, &pod(&n.to_string())).is_some());
        }
        assert_eq!((accounts.account(1, &pod("last")), accounts.refused()), (None, 1));
    }

    #[test]
    fn an_account_is_given_back_when_its_owner_is_gone_and_it_is_empty() {
        let (mut accounts, now) = (Accounts::default(), Instant::now());
        let id = accounts.account(1, &pod("a")).unwrap();
        let later = now + FORGET_AFTER;
        let round = |accounts: &mut Accounts, frees, at| {
            accounts.owners(&[(id, counters(2, frees, 0, 0))], 2 - frees as i64, at, true);
            let cleared = std::cell::Cell::new(0);
            accounts.retire(
                at,
                |_| true,
                |_| {
                    cleared.set(cleared.get() + 1);
                    counters(2, frees, 0, 0)
                },
            );
            cleared.get()
        };
        accounts.ask_anew();
        assert_eq!((round(&mut accounts, 1, now), round(&mut accounts, 1, later)), (0, 0), "holds an entry");
        assert_eq!(round(&mut accounts, 2, later), 0, "only just empty");
        accounts.account(1, &pod("a"));
        assert_eq!(round(&mut accounts, 2, later + FORGET_AFTER), 0, "its owner is there");
        accounts.ask_anew();
        assert_eq!(round(&mut accounts, 2, later + FORGET_AFTER), 1);
        assert_eq!(accounts.used(), 0);
        assert_eq!(accounts.given_back(1), counters(2, 2, 0, 0), "the table's sums must not fall");
    }

    #[test]
    fn the_accounts_of_a_namespace_that_is_gone_outlive_its_last_entries() {
        let (mut accounts, now) = (Accounts::default(), Instant::now());
        accounts.account(1, &pod("a")).unwrap();
        accounts.retire(now, |_| false, |_| panic!("too early"));
        accounts.retire(now + FORGET_AFTER, |_| false, |id| counters(u64::from(id), 0, 0, 0));
        assert_eq!(accounts.given_back(1), AccountCounters::default());
        assert_eq!(accounts.used(), 0);
    }

    #[test]
    fn rates_are_over_a_second() {
        let (mut accounts, now) = (Accounts::default(), Instant::now());
        let id = accounts.account(1, &pod("a")).unwrap();
        let mut rate = |inserts, at| {
            accounts.owners(&[(id, counters(inserts, 0, 0, 0))], 0, at, true).parts[0].inserts_per_second
        };
        assert_eq!(rate(10, now), None);
        assert_eq!(rate(20, now + Duration::from_millis(500)), None);
        assert_eq!(rate(50, now + Duration::from_secs(2)), Some(20.0));
        assert_eq!(rate(51, now + Duration::from_millis(2_100)), Some(20.0));
    }
}
