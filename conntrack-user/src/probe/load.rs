//! The one loader: the object with this kernel's offsets, its maps in the sizes this node needs, and the ways to
//! read them.

use std::io;

use anyhow::Context as _;
use aya::maps::Map;
use aya::{Ebpf, EbpfLoader};
use conntrack_common::directory::{DIRECTORY_PLACES, DirectoryEntry};
use conntrack_common::event::AT_LIMIT_TABLES;
use conntrack_common::place::{Bucket, WAYS};
use conntrack_common::token::{PRESSED_WORDS, TOKEN_WORDS};
use conntrack_common::{Control, MAX_ACCOUNTS, MAX_SOURCES, MAX_TABLES, OVERFLOW_SLOT, SHARED_SOURCES};

use super::attach::{Probes, state};
use super::bpf;
use super::fentry::Fentry;
use super::table::PROBES;
use crate::config::System;
use crate::drain::counters::Counters;
use crate::drain::directory::Directory;
use crate::drain::events::Events;
use crate::drain::mapping::Mapping;
use crate::drain::pending::Pending;
use crate::drain::places::{AUDIT_BYTES, Places};
use crate::drain::pool::Pool;
use crate::drain::presence;
use crate::drain::sources::Sources;
use crate::drain::turns::Turns;
use crate::kernel::btf::KernelBtf;
use crate::kernel::offsets::offsets;

static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/conntrack-ebpf"));

/// Entries that have a place, where the limit is not known or smaller.
const LEAST_PLACED: u64 = 32_768;
/// And at most: 128 MB.
const MOST_PLACED: u64 = 4 << 20;

/// The ways to read what the probes say, and to tell them.
pub struct Drains {
    /// Counters of each table and account.
    pub counters: Counters,
    /// What the limiter held back.
    pub sources: Sources,
    /// Records of rare facts.
    pub events: Events,
    /// Refusals that wait for their packet.
    pub pending: Pending,
    /// Owners, as the probes find them.
    pub directory: Directory,
    /// Places of entries.
    pub places: Places,
    /// Can what nobody saw the end of be taken out of its place? Not where places are a hash map.
    pub sweeps: bool,
}

impl Probes {
    /// Loads the maps and hands out the ways to read them. Attaches nothing yet.
    ///
    /// # Errors
    /// One line: no BTF, no right to use bpf(2), no memory.
    pub fn load(system: &System) -> anyhow::Result<(Self, Drains)> {
        let btf_folder = system.sysfs.join("kernel/btf");
        let btf = KernelBtf::open(&btf_folder)
            .with_context(|| format!("cannot read the kernel's types at {}", btf_folder.display()))?;
        let cpus = aya::util::nr_cpus().map_err(|(file, error)| anyhow::anyhow!("{file}: {error}"))?;
        let cpus = u32::try_from(cpus)?;
        lift_memlock();
        let exchange = bpf::has_exchange();
        let placed = placed(presence::max(&system.procfs).ok());
        let buckets = if exchange { placed / WAYS as u32 * 2 } else { 1 };
        let reason = btf.enum_value("skb_drop_reason", "SKB_DROP_REASON_NETFILTER_DROP").unwrap_or(u32::MAX);
        let (offsets, places_mask) = (offsets(&btf), buckets - 1);
        let mut ebpf = EbpfLoader::new()
            .override_global("OFFSETS", &offsets, true)
            .override_global("CPUS", &cpus, true)
            .override_global("PLACES_MASK", &places_mask, true)
            .override_global("REASON_NETFILTER_DROP", &reason, true)
            .map_max_entries("COUNTERS", MAX_TABLES * cpus)
            .map_max_entries("ACCOUNTS", MAX_ACCOUNTS * cpus)
            .map_max_entries("PLACES", buckets)
            .map_max_entries("PLACES_BY_HASH", if exchange { 1 } else { placed })
            .load(OBJECT)
            .context("cannot load the probes' maps (root, or CAP_BPF and CAP_PERFMON, is needed)")?;
        let fentry = Fentry::new(OBJECT, &ebpf)?;
        // What is taken is kept open by whom it is handed to: programs are loaded later, and name maps by fd.
        let drains = drains(&mut ebpf, cpus, buckets)?;
        let control = Mapping::new(take(&mut ebpf, "CONTROL")?, size_of::<Control>())?;
        let at_limit =
            Mapping::new(take(&mut ebpf, "AT_LIMIT")?, AT_LIMIT_TABLES as usize * size_of::<u64>())?;
        let pressed = Mapping::new(take(&mut ebpf, "PRESSED")?, PRESSED_WORDS as usize * size_of::<u64>())?;
        let tokens = Mapping::new(take(&mut ebpf, "TOKENS")?, TOKEN_WORDS as usize * size_of::<u64>())?;
        let turns = Turns::new(take(&mut ebpf, "TURNS")?, take(&mut ebpf, "SIGNS")?)?;
        let cause = (reason == u32::MAX)
            .then(|| "this kernel gives no reason for a drop: refusals cannot be inferred".to_owned());
        let untried = |p| state(p, "not tried yet: conntrack is not loaded".into());
        let probes = Self {
            #[cfg(feature = "debug-log")]
            debug_log: super::debug_log::open(&mut ebpf)?,
            ebpf,
            fentry,
            system: system.clone(),
            control,
            at_limit,
            pressed,
            tokens,
            turns,
            states: PROBES.iter().map(untried).collect(),
            ways: vec![None; PROBES.len()],
            said: Control::default(),
            cause,
            exchange,
        };
        Ok((probes, drains))
    }
}

fn drains(ebpf: &mut Ebpf, cpus: u32, buckets: u32) -> anyhow::Result<Drains> {
    let tables = Pool::new(take(ebpf, "TABLES")?, take(ebpf, "FREE_SLOTS")?, OVERFLOW_SLOT + 1..MAX_TABLES)?;
    let sources =
        Pool::new(take(ebpf, "SOURCES")?, take(ebpf, "FREE_SOURCES")?, SHARED_SOURCES..MAX_SOURCES)?;
    let [counters, accounts, slots] = ["COUNTERS", "ACCOUNTS", "SLOT_NETNS"].map(|name| take(ebpf, name));
    let directory = DIRECTORY_PLACES as usize * size_of::<DirectoryEntry>();
    let places = Mapping::new(take(ebpf, "PLACES")?, buckets as usize * size_of::<Bucket>())?;
    let audit = Mapping::new(take(ebpf, "AUDIT")?, AUDIT_BYTES)?;
    Ok(Drains {
        counters: Counters::map(counters?, accounts?, slots?, tables, cpus)?,
        sources: Sources::map(take(ebpf, "SOURCE_WINDOWS")?, sources)?,
        events: Events::new(take(ebpf, "EVENTS")?)?,
        pending: Pending::new(take(ebpf, "PENDING")?, take(ebpf, "WAITING")?)?,
        directory: Directory::new(Mapping::new(take(ebpf, "DIRECTORY")?, directory)?),
        sweeps: buckets > 1,
        places: Places::new(places, buckets as usize * WAYS, audit),
    })
}

fn take(ebpf: &mut Ebpf, name: &str) -> anyhow::Result<Map> {
    ebpf.take_map(name).with_context(|| format!("no map {name}"))
}

/// Entries that are to have a place: as many as the limit allows, a power of two.
fn placed(limit: Option<u64>) -> u32 {
    let limit = limit.unwrap_or(LEAST_PLACED).clamp(LEAST_PLACED, MOST_PLACED);
    u32::try_from(limit.next_power_of_two()).unwrap_or(1 << 22)
}

/// Before 5.11 maps are charged to RLIMIT_MEMLOCK. Without the right to lift it, loading says so itself.
fn lift_memlock() {
    let unlimited = rustix::process::Rlimit { current: None, maximum: None };
    let _: io::Result<()> =
        rustix::process::setrlimit(rustix::process::Resource::Memlock, unlimited).map_err(Into::into);
}

#[cfg(test)]
mod tests {
    use super::placed;

    #[test]
    fn places_follow_the_limit() {
        assert_eq!(placed(None), 32_768);
        assert_eq!(placed(Some(16)), 32_768);
        assert_eq!(placed(Some(262_144)), 262_144);
        assert_eq!(placed(Some(262_145)), 524_288);
        assert_eq!(placed(Some(u64::MAX)), 4 << 20);
    }
}
