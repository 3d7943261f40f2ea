//! Which account an entry is in, and counting there.

use aya_ebpf::helpers::bpf_get_smp_processor_id;
use conntrack_common::{
    AccountCounters, MAX_ACCOUNTS,
    directory::{OWNER_SEARCH, OWNER_SELF, OWNER_TENANT, address_key, cgroup_key, device_key, table_key},
    place::PLACE_PRINT_SHIFT,
};

use crate::{
    directory::look_up,
    kernel::{Probed, Reader, member_by, sk_cgroup, skb_iif, skb_netns},
    maps::{ACCOUNTS, offsets},
    table::{add_one, slot},
};

/// A counter of an account: its word in [`AccountCounters`].
#[derive(Clone, Copy)]
pub(crate) enum Column {
    Allocs,
    Frees,
    MovedIn,
    MovedOut,
    Inserts,
    Answers,
    AnswersFreed,
}

/// Adds one on this CPU.
#[inline(always)]
pub(crate) fn add(account: u32, column: Column) {
    // SAFETY: no arguments, always allowed.
    let cpu = unsafe { bpf_get_smp_processor_id() } as u32;
    if let Some(counters) = ACCOUNTS.get_ptr_mut(cpu * MAX_ACCOUNTS + account) {
        // SAFETY: a live value of an array, and one of its words.
        unsafe {
            add_one(counters.cast::<[u64; AccountCounters::WORDS]>().cast::<u64>().add(column as usize))
        };
    }
}

/// The account of the directory's value.
#[inline(always)]
fn account_of(value: u64) -> u32 {
    (value as u32).wrapping_sub(1)
}

/// The accounts of a place: see [`conntrack_common::place::Place`].
#[derive(Clone, Copy)]
pub(crate) struct Accounts(pub(crate) u64);

impl Accounts {
    /// Of the directory's value.
    #[inline(always)]
    fn of(value: u64) -> Self {
        Self(u64::from(account_of(value) as u16) | (value >> 32 & 0xffff) << 16)
    }

    /// Who made the entry.
    #[inline(always)]
    pub(crate) fn owner(self) -> u32 {
        u32::from(self.0 as u16)
    }

    /// Who answers it, if that is known.
    #[inline(always)]
    pub(crate) fn responder(self) -> Option<u32> {
        let responder = u32::from((self.0 >> 32) as u16);
        if responder == 0 { None } else { Some(responder - 1) }
    }

    /// And who answers the entry, by its reply tuple.
    #[inline(always)]
    fn answered(self, netns: u32, entry: u64) -> Self {
        if let Some((l3num, source)) = Probed::tuple_source(entry + offsets().ct_reply() as u64) {
            let found = look_up(address_key(netns, l3num, source));
            if found & OWNER_TENANT != 0 {
                return Self(self.0 | u64::from(account_of(found) + 1) << 32);
            }
        }
        self
    }

    /// With the fingerprint of the entry's tuple.
    #[inline(always)]
    pub(crate) fn printed<R: Reader>(self, orig: u64) -> Self {
        Self(self.0 | u64::from(R::tuple_print(orig).unwrap_or(0)) << PLACE_PRINT_SHIFT)
    }

    #[inline(always)]
    fn has(self, flag: u64) -> bool {
        self.0 & flag >> 16 != 0
    }
}

/// The accounts of a new entry: its table's, or its source address's.
#[inline(always)]
pub(crate) fn of_new<R: Reader>(netns: u32, orig: u64) -> Accounts {
    let table = look_up(table_key(netns));
    if table == 0 {
        // The daemon has not told of this table yet.
        return Accounts(slot(netns).into());
    }
    if table & OWNER_SEARCH != 0
        && let Some((l3num, source)) = R::tuple_source(orig)
    {
        let found = look_up(address_key(netns, l3num, source));
        return Accounts::of(if found == 0 { table } else { found | OWNER_SEARCH });
    }
    Accounts::of(table)
}

/// The accounts of an entry that is confirmed now: the packet tells more than the tuple, and its reply tuple is
/// final. Evidence in the order of the daemon's own index: device, address, socket.
#[inline(always)]
pub(crate) fn of_confirmed<R: Reader>(accounts: Accounts, entry: u64, skb: u64) -> Accounts {
    if !accounts.has(OWNER_SEARCH) {
        return accounts;
    }
    let Some(netns) = skb_netns::<R>(skb) else { return accounts };
    let mut owner = accounts.owner();
    let iif = skb_iif::<R>(skb).unwrap_or(0);
    let found = if iif != 0 {
        if accounts.has(OWNER_SELF) { 0 } else { look_up(device_key(netns, iif)) }
    } else if accounts.has(OWNER_TENANT) {
        0
    } else {
        let sk = member_by::<R, u64>(skb, offsets().skb_sk()).unwrap_or(0);
        socket::<R>(netns, R::follow(sk))
    };
    if found != 0 {
        owner = account_of(found);
    }
    Accounts(accounts.0 & !0xffff | u64::from(owner as u16)).answered(netns, entry)
}

/// The accounts of an entry whose making was not seen: what its addresses tell now.
#[inline(always)]
pub(crate) fn of_old(netns: u32, entry: u64) -> Accounts {
    let accounts = of_new::<Probed>(netns, entry + offsets().ct_orig() as u64);
    let accounts = if accounts.has(OWNER_SEARCH) { accounts.answered(netns, entry) } else { accounts };
    accounts.printed::<Probed>(entry + offsets().ct_orig() as u64)
}

/// What the directory says of a socket's cgroup.
#[inline(always)]
fn socket<R: Reader>(netns: u32, sk: u64) -> u64 {
    if sk == 0 {
        return 0;
    }
    sk_cgroup::<R>(sk).map_or(0, |cgroup| look_up(cgroup_key(netns, cgroup)))
}
