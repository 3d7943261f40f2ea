use super::due::{FEW_FREE, FORGET_AFTER, GRACE};
use super::*;

const NONE: [u32; 0] = [];

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
    let (a, b) = (
        accounts.account(1, &pod("a"), Need::Now).unwrap(),
        accounts.account(1, &pod("b"), Need::Now).unwrap(),
    );
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
    let first = accounts.account(1, &pod("a"), Need::Now);
    assert_eq!(first, Some(MAX_TABLES));
    assert_eq!(accounts.account(1, &pod("a"), Need::Now), first);
    assert_ne!(accounts.account(2, &pod("a"), Need::Now), first);
    assert_eq!(accounts.of(2).len(), 1);
}

#[test]
fn who_finds_no_account_is_counted() {
    let mut accounts = Accounts::default();
    for n in MAX_TABLES..MAX_ACCOUNTS {
        assert!(accounts.account(1, &pod(&n.to_string()), Need::Now).is_some());
    }
    assert_eq!((accounts.account(1, &pod("last"), Need::Now), accounts.refused()), (None, 1));
}

/// A round in which every account has counted this; which were given back.
fn retired(accounts: &mut Accounts, counted: AccountCounters, alive: bool, at: Instant) -> Vec<u32> {
    let cleared = std::cell::RefCell::new(Vec::new());
    let clear = |id| {
        cleared.borrow_mut().push(id);
        counted
    };
    accounts.retire(at, |_| alive, |_| counted, clear);
    cleared.into_inner()
}

#[test]
fn an_account_is_given_back_when_its_owner_is_gone_and_it_is_empty() {
    let (mut accounts, now) = (Accounts::default(), Instant::now());
    let id = accounts.account(1, &pod("a"), Need::Now).unwrap();
    let later = now + FORGET_AFTER;
    let (holds, empty) = (counters(2, 1, 0, 0), counters(2, 2, 0, 0));
    accounts.ask_anew();
    assert_eq!(retired(&mut accounts, holds, true, now), NONE);
    assert_eq!(retired(&mut accounts, holds, true, later), NONE, "holds an entry");
    assert_eq!(retired(&mut accounts, empty, true, later), NONE, "only just empty");
    let answers = AccountCounters { answers: 1, ..empty };
    assert_eq!(retired(&mut accounts, answers, true, later + FORGET_AFTER), NONE, "answers an entry");
    accounts.account(1, &pod("a"), Need::Now);
    assert_eq!(retired(&mut accounts, empty, true, later + FORGET_AFTER), NONE, "its owner is there");
    accounts.ask_anew();
    let last = later + 2 * FORGET_AFTER;
    assert_eq!(retired(&mut accounts, empty, true, last), NONE, "its owner has only just gone");
    assert_eq!(retired(&mut accounts, empty, true, last + FORGET_AFTER), [id]);
    assert_eq!(accounts.used(), 0);
    assert_eq!(accounts.given_back(1), empty, "the table's sums must not fall");
}

#[test]
fn an_account_that_nobody_used_is_given_back_soon_though_its_table_lives() {
    let (mut accounts, now) = (Accounts::default(), Instant::now());
    let id = accounts.account(1, &pod("a"), Need::Now).unwrap();
    let nothing = AccountCounters::default();
    accounts.ask_anew();
    assert_eq!(retired(&mut accounts, nothing, true, now), NONE);
    assert_eq!(retired(&mut accounts, nothing, true, now + GRACE), [id]);
}

#[test]
fn the_accounts_of_a_namespace_that_is_gone_outlive_its_last_entries() {
    let (mut accounts, now) = (Accounts::default(), Instant::now());
    let id = accounts.account(1, &pod("a"), Need::Now).unwrap();
    let holds = counters(2, 1, 0, 0);
    assert_eq!(retired(&mut accounts, holds, false, now), NONE);
    assert_eq!(retired(&mut accounts, holds, false, now + FORGET_AFTER / 2), NONE);
    assert_eq!(retired(&mut accounts, holds, false, now + FORGET_AFTER), [id], "what holds still was missed");
    assert_eq!(accounts.given_back(1), AccountCounters::default());
    assert_eq!(accounts.used(), 0);
}

#[test]
fn thousands_of_pods_that_come_and_go_find_accounts() {
    let (mut accounts, start) = (Accounts::default(), Instant::now());
    let (host, strangers) = (1, 2);
    for second in 0..100_u32 {
        let at = start + Duration::from_secs(second.into());
        accounts.ask_anew();
        // Thirty a second, each there for two, in its own table, the host's and one of nobody's: more than the accounts
        // of a minute.
        let here = second * 30..second * 30 + 60;
        for number in here.clone() {
            let owner = pod(&number.to_string());
            assert!(
                accounts.account(host, &owner, Need::Now).is_some(),
                "second {second}: {}",
                accounts.used()
            );
            assert!(accounts.account(1_000 + number, &owner, Need::Now).is_some(), "second {second}");
            accounts.account(strangers, &owner, Need::Perhaps);
        }
        let alive = |netns: u32| netns < 1_000 || here.contains(&(netns - 1_000));
        let unused: Vec<_> = accounts.of(strangers);
        let count = |id| if unused.contains(&id) { AccountCounters::default() } else { counters(2, 2, 0, 0) };
        accounts.retire(at, alive, count, count);
    }
    assert_eq!(accounts.refused(), 0);
}

#[test]
fn what_only_may_be_needed_is_given_while_there_is_plenty() {
    let mut accounts = Accounts::default();
    let first = accounts.account(1, &pod("first"), Need::Perhaps);
    assert!(first.is_some());
    let mut fill = |free: usize| {
        (accounts.used()..ACCOUNTS - free)
            .for_each(|n| assert!(accounts.account(2, &pod(&n.to_string()), Need::Now).is_some()));
        let [new, again] = ["new", "first"].map(|name| accounts.account(1, &pod(name), Need::Perhaps));
        (new.is_some(), again.is_some())
    };
    assert_eq!(fill(PLENTY_FREE - 1), (false, true));
    assert_eq!(fill(FEW_FREE), (false, true));
    assert_eq!(fill(FEW_FREE - 1), (false, false));
    assert_eq!(accounts.refused(), 0, "nobody lacks it");
}

#[test]
fn rates_are_over_a_second() {
    let (mut accounts, now) = (Accounts::default(), Instant::now());
    let id = accounts.account(1, &pod("a"), Need::Now).unwrap();
    let mut rate = |inserts, at| {
        accounts.owners(&[(id, counters(inserts, 0, 0, 0))], 0, at, true).parts[0].inserts_per_second
    };
    assert_eq!(rate(10, now), None);
    assert_eq!(rate(20, now + Duration::from_millis(500)), None);
    assert_eq!(rate(50, now + Duration::from_secs(2)), Some(20.0));
    assert_eq!(rate(51, now + Duration::from_millis(2_100)), Some(20.0));
}
