//! Episodes: what one table did for one cause, from its first blow to its last, with who was hurt and who filled it.
//!
//! Single facts come by the thousand while a table is full; a person wants to hear of it once when it begins, and once
//! when it is over.

use std::collections::BTreeMap;
use std::time::{Duration, Instant, SystemTime};

use conntrack_common::EventKind;

use super::observed::Culprit;
use super::owner::Owner;
use super::verdict::{
    CAUSE_EVICTED, CAUSE_INVALID, CAUSE_NO_MEMORY, CAUSE_RACE, CAUSE_TABLE_FULL, Effect, Verdict,
};

/// An episode is over when nothing has happened for so long: a connection attempt can go on trying for that long with
/// the kernel's defaults (`tcp_syn_retries` 6: 127 s), so what it comes to is still of the same episode.
pub const QUIET: Duration = Duration::from_secs(128);

/// So long after its first blow an episode is told of, that it can be said who is hurt.
pub const GATHER: Duration = Duration::from_secs(1);

/// Owners told apart in one episode; further ones are counted as one.
pub const MAX_HURT: usize = 256;

/// What happened to an owner.
#[derive(Clone, Debug)]
pub struct Blow<'a> {
    /// Namespace of the table that did it; None: that is not known.
    pub table: Option<u32>,
    /// The kind of the record.
    pub kind: EventKind,
    /// What it is an outcome of, and that was not told before.
    pub verdict: Option<Verdict>,
    /// Who suffered it.
    pub owner: &'a Owner,
    /// How often.
    pub times: u64,
    /// Who held most of the table then, where that is known.
    pub culprit: Option<Culprit>,
}

/// One story.
#[derive(Clone, Debug)]
pub struct Episode {
    /// Namespace of the table.
    pub table: u32,
    /// `CAUSE_*`.
    pub cause: &'static str,
    /// Its first blow.
    pub since: SystemTime,
    /// Its last one so far.
    pub last: SystemTime,
    /// Packets refused, entries evicted, packets that lost a race; of INVALID packets, those that ended in a reset.
    pub count: u64,
    /// What that came to.
    pub effects: BTreeMap<Effect, u64>,
    /// Who held most of the table when it was last seen, while it lasted.
    pub culprit: Option<Culprit>,
    hurt: BTreeMap<Owner, u64>,
    others: u64,
    begun: Instant,
    latest: Instant,
    told: bool,
}

/// Where an episode is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// It has just begun.
    Begun,
    /// It is over: these are its totals.
    Ended,
    /// The daemon ends before it.
    CutOff,
}

impl Episode {
    /// Who was hurt, most first, and how often.
    #[must_use]
    pub fn hurt(&self) -> Vec<(&Owner, u64)> {
        let mut hurt: Vec<_> = self.hurt.iter().map(|(owner, times)| (owner, *times)).collect();
        hurt.sort_by_key(|(_, times)| std::cmp::Reverse(*times));
        hurt
    }

    /// How often those were hurt who are beyond [`MAX_HURT`].
    #[must_use]
    pub const fn others(&self) -> u64 {
        self.others
    }

    fn new(table: u32, cause: &'static str, now: Instant, time: SystemTime) -> Self {
        Self {
            table,
            cause,
            since: time,
            last: time,
            count: 0,
            effects: BTreeMap::new(),
            culprit: None,
            hurt: BTreeMap::new(),
            others: 0,
            begun: now,
            latest: now,
            told: false,
        }
    }

    fn hurts(&mut self, owner: &Owner, times: u64) {
        if let Some(so_far) = self.hurt.get_mut(owner) {
            *so_far += times;
        } else if self.hurt.len() < MAX_HURT {
            self.hurt.insert(owner.clone(), times);
        } else {
            self.others += times;
        }
    }
}

/// Those under way.
#[derive(Clone, Debug, Default)]
pub struct Episodes(BTreeMap<(u32, &'static str), Episode>);

impl Episodes {
    /// Takes a blow in; what no table did is none.
    pub fn note(&mut self, blow: Blow<'_>, now: Instant, time: SystemTime) {
        let act = act(blow.kind);
        let Some(cause) = act.or(blow.verdict.map(|verdict| verdict.cause)) else { return };
        let Some(table) = blow.table.or_else(|| self.only_table(cause)) else { return };
        let episode = self.0.entry((table, cause)).or_insert_with(|| Episode::new(table, cause, now, time));
        episode.since = episode.since.min(time);
        episode.last = episode.last.max(time);
        episode.latest = now;
        // Nobody sees an INVALID packet but by the reset that it ends in.
        if act.is_some() || cause == CAUSE_INVALID {
            episode.count += blow.times;
            episode.hurts(blow.owner, blow.times);
        }
        if let Some(verdict) = blow.verdict {
            *episode.effects.entry(verdict.effect).or_insert(0) += blow.times;
        }
        if blow.culprit.is_some() {
            episode.culprit = blow.culprit;
        }
    }

    /// What is to be told now: of those that have begun, and of those that are over.
    pub fn news(&mut self, now: Instant) -> Vec<(State, Episode)> {
        let mut news = Vec::new();
        self.0.retain(|_, episode| {
            let over = now.saturating_duration_since(episode.latest) >= QUIET;
            if !episode.told && (over || now.saturating_duration_since(episode.begun) >= GATHER) {
                episode.told = true;
                news.push((State::Begun, episode.clone()));
            }
            if over {
                news.push((State::Ended, episode.clone()));
            }
            !over
        });
        news
    }

    /// What is to be told when the daemon ends.
    pub fn cut_off(&mut self) -> Vec<(State, Episode)> {
        let open = std::mem::take(&mut self.0).into_values();
        open.flat_map(|mut episode| {
            let told = std::mem::replace(&mut episode.told, true);
            let begun = (!told).then(|| (State::Begun, episode.clone()));
            begun.into_iter().chain([(State::CutOff, episode)])
        })
        .collect()
    }

    /// The table of the one episode of this cause, if there is one only.
    fn only_table(&self, cause: &str) -> Option<u32> {
        let mut tables = self.0.keys().filter(|(_, of)| *of == cause).map(|(table, _)| *table);
        tables.next().filter(|_| tables.next().is_none())
    }
}

/// The cause whose doing a record of this kind is by itself.
const fn act(kind: EventKind) -> Option<&'static str> {
    match kind {
        EventKind::RefusedTableFull | EventKind::Refused | EventKind::InferredRefusal => {
            Some(CAUSE_TABLE_FULL)
        }
        EventKind::RefusedNoMemory => Some(CAUSE_NO_MEMORY),
        EventKind::EvictedEarlyDrop | EventKind::EvictedGc => Some(CAUSE_EVICTED),
        EventKind::ClashLost => Some(CAUSE_RACE),
        EventKind::ResetSent
        | EventKind::ResetReceived
        | EventKind::Invalid
        | EventKind::ConnectedLate
        | EventKind::ConnectGivenUp
        | EventKind::Stalled => None,
    }
}

#[cfg(test)]
mod tests {
    use super::super::verdict::judge;
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn pod(name: &str) -> Owner {
        Owner::Pod { namespace: "shop".to_owned(), pod: name.to_owned(), uid: name.to_owned() }
    }

    fn refused<'a>(owner: &'a Owner, times: u64, culprit: Option<&Culprit>) -> Blow<'a> {
        let kind = EventKind::RefusedTableFull;
        Blow { table: Some(1), kind, verdict: None, owner, times, culprit: culprit.cloned() }
    }

    fn given_up(owner: &Owner, table: Option<u32>) -> Blow<'_> {
        let kind = EventKind::ConnectGivenUp;
        let verdict = judge(kind, Some(EventKind::RefusedTableFull), 0);
        Blow { table, kind, verdict, owner, times: 1, culprit: None }
    }

    #[test]
    fn it_is_told_of_once_when_it_begins_and_once_when_it_is_over() {
        let (start, time) = (Instant::now(), SystemTime::UNIX_EPOCH);
        let culprit = Culprit { owner: pod("proxy"), entries: 9, percent: 90 };
        let mut episodes = Episodes::default();
        episodes.note(refused(&pod("a"), 2, None), start, time);
        assert!(episodes.news(start).is_empty(), "who is hurt is not known yet");
        episodes.note(refused(&pod("b"), 5, Some(&culprit)), start, time + SECOND);
        let news = episodes.news(start + GATHER);
        let [(State::Begun, episode)] = news.as_slice() else { panic!("{news:?}") };
        assert_eq!(episode.hurt(), [(&pod("b"), 5), (&pod("a"), 2)]);
        assert_eq!((episode.count, episode.culprit.as_ref()), (7, Some(&culprit)));

        episodes.note(given_up(&pod("a"), Some(1)), start + 100 * SECOND, time + 100 * SECOND);
        assert!(episodes.news(start + 101 * SECOND).is_empty());
        assert!(episodes.news(start + 100 * SECOND + QUIET - Duration::from_millis(1)).is_empty());
        let news = episodes.news(start + 100 * SECOND + QUIET);
        let [(State::Ended, episode)] = news.as_slice() else { panic!("{news:?}") };
        assert_eq!(episode.effects, BTreeMap::from([(Effect::ConnectTimeout, 1)]));
        assert_eq!((episode.since, episode.last), (time, time + 100 * SECOND));
        assert_eq!(episode.count, 7, "an outcome is no refusal more");
        assert!(episodes.news(start + 1_000 * SECOND).is_empty());
    }

    #[test]
    fn causes_and_tables_are_episodes_of_their_own() {
        let (now, time) = (Instant::now(), SystemTime::UNIX_EPOCH);
        let mut episodes = Episodes::default();
        let owner = pod("a");
        episodes.note(refused(&owner, 1, None), now, time);
        episodes.note(Blow { table: Some(2), ..refused(&owner, 1, None) }, now, time);
        episodes.note(Blow { kind: EventKind::EvictedGc, ..refused(&owner, 1, None) }, now, time);
        assert_eq!(episodes.news(now + GATHER).len(), 3);
        let cut = episodes.cut_off();
        assert!(cut.len() == 3 && cut.iter().all(|(state, _)| *state == State::CutOff), "{cut:?}");
        assert!(episodes.cut_off().is_empty());
    }

    #[test]
    fn an_outcome_whose_table_is_not_known_is_of_the_only_episode_or_of_none() {
        let (now, time) = (Instant::now(), SystemTime::UNIX_EPOCH);
        let mut episodes = Episodes::default();
        let owner = pod("a");
        episodes.note(given_up(&owner, None), now, time);
        assert!(episodes.cut_off().is_empty(), "no table is known to have done it");
        episodes.note(refused(&owner, 1, None), now, time);
        episodes.note(given_up(&owner, None), now, time);
        let told = episodes.cut_off();
        assert_eq!(told.len(), 2, "begun, though nobody was told yet, and cut off");
        assert_eq!(told[1].1.effects[&Effect::ConnectTimeout], 1);
    }

    #[test]
    fn what_is_no_doing_of_a_table_is_none() {
        let owner = pod("a");
        let mut episodes = Episodes::default();
        let reset = Blow { kind: EventKind::ResetSent, ..refused(&owner, 1, None) };
        episodes.note(reset, Instant::now(), SystemTime::UNIX_EPOCH);
        assert!(episodes.cut_off().is_empty());
    }

    #[test]
    fn so_many_owners_are_told_apart_and_no_more() {
        let (now, time) = (Instant::now(), SystemTime::UNIX_EPOCH);
        let mut episodes = Episodes::default();
        for number in 0..MAX_HURT + 10 {
            episodes.note(refused(&pod(&number.to_string()), 1, None), now, time);
        }
        let (_, episode) = &episodes.news(now + GATHER)[0];
        assert_eq!((episode.hurt().len(), episode.others()), (MAX_HURT, 10));
        assert_eq!(episode.count, MAX_HURT as u64 + 10);
    }
}
