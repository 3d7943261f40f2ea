//! Nanoseconds of the handlers on this machine, by BPF_PROG_TEST_RUN; one JSON object a line.
//! `cargo xtask bench` builds and runs it.

use anyhow::{Context as _, ensure};
use aya::maps::{Array, MapData, Queue};
use aya::programs::{SchedClassifier, TestRun as _, TestRunOptions};
use aya::{Ebpf, EbpfLoader};
use conntrack_common::directory::{
    DIRECTORY_PLACES, DirectoryEntry, OWNER_SEARCH, OWNER_TENANT, address_key, device_key, table_key,
};
use conntrack_common::{AccountCounters, Counter, MAX_ACCOUNTS, MAX_TABLES, Offsets, TableCounters};
use conntrack_user::drain::directory::{Directory, Told};
use conntrack_user::drain::mapping::Mapping;
use conntrack_user::kernel::btf::KernelBtf;
use conntrack_user::kernel::offsets::offsets;

static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/conntrack-ebpf"));

/// Runs of a program in one measurement.
const REPEAT: u32 = 1_000_000;
/// Measurements of each program; they are interleaved.
const ROUNDS: usize = 5;
/// The namespace of the made-up entry.
const NETNS: u32 = 0xf000_0001;
/// The device that the made-up packet came in by.
const IFINDEX: u32 = 5;
/// Buckets of places: what a limit of 262,144 entries gets.
const BUCKETS: u32 = 131_072;
/// `AF_INET`.
const AF_INET: u64 = 2;
/// `IPS_CONFIRMED`.
const CONFIRMED: u64 = 1 << 3;
/// The account of the entry's source, and of who answers it.
const OWNER: u32 = MAX_TABLES + 1;
const RESPONDER: u32 = MAX_TABLES + 2;
/// Owners that the directory knows besides.
const OWNERS: u32 = 1_000;
/// Programs, and what one run of each adds.
const PROGRAMS: [(&str, Counted); 5] = [
    ("bench_empty", Counted::Nothing),
    ("bench_harness", Counted::Nothing),
    ("bench_connection_fentry", Counted::Connection),
    ("bench_connection_kprobe", Counted::Connection),
    ("bench_refusal", Counted::Refusal),
];

/// What a program counts.
#[derive(Clone, Copy)]
enum Counted {
    Nothing,
    Connection,
    Refusal,
}

fn main() -> anyhow::Result<()> {
    let mut ebpf = load()?;
    // Kept open: programs are loaded later, and name maps by fd.
    let _directory = prepare(&mut ebpf)?;
    let maps = Maps {
        counters: ebpf.take_map("COUNTERS").context("no map COUNTERS")?.try_into()?,
        accounts: ebpf.take_map("ACCOUNTS").context("no map ACCOUNTS")?.try_into()?,
    };
    run(&mut ebpf, "bench_setup", 1)?;
    let mut measured: Vec<Vec<u64>> = vec![Vec::new(); PROGRAMS.len()];
    for _ in 0..ROUNDS {
        for ((name, counted), times) in PROGRAMS.iter().zip(&mut measured) {
            let before = maps.read(*counted)?;
            times.push(run(&mut ebpf, name, REPEAT)?);
            for (what, before, after) in
                before.into_iter().zip(maps.read(*counted)?).map(|(b, a)| (a.0, b.1, a.1))
            {
                let new = after - before;
                ensure!(new == u64::from(REPEAT), "{name} counted {new} {what} in {REPEAT} runs");
            }
        }
    }
    for ((name, _), mut times) in PROGRAMS.iter().zip(measured) {
        times.sort_unstable();
        let line = serde_json::json!({
            "program": name.trim_start_matches("bench_"),
            "repeat": REPEAT,
            "ns": times[times.len() / 2],
            "ns_min": times.first(),
            "ns_max": times.last(),
        });
        println!("{line}");
    }
    Ok(())
}

struct Maps {
    counters: Array<MapData, TableCounters>,
    accounts: Array<MapData, AccountCounters>,
}

impl Maps {
    fn read(&self, counted: Counted) -> anyhow::Result<Vec<(&'static str, u64)>> {
        Ok(match counted {
            Counted::Nothing => Vec::new(),
            Counted::Connection => {
                let (owner, responder) = (self.account(OWNER)?, self.account(RESPONDER)?);
                vec![
                    ("allocations", owner.allocs),
                    ("inserts", owner.inserts),
                    ("frees", owner.frees),
                    ("answers", responder.answers),
                    ("answers that ended", responder.answers_freed),
                ]
            }
            Counted::Refusal => {
                vec![
                    ("table full", self.counter(Counter::TableFull)?),
                    ("refused", self.counter(Counter::Refused)?),
                ]
            }
        })
    }

    fn account(&self, account: u32) -> anyhow::Result<AccountCounters> {
        let mut sum = AccountCounters::default();
        for cpu in 0..cpus()? {
            let one = self.accounts.get(&(cpu * MAX_ACCOUNTS + account), 0)?;
            sum.allocs += one.allocs;
            sum.inserts += one.inserts;
            sum.frees += one.frees;
            sum.answers += one.answers;
            sum.answers_freed += one.answers_freed;
        }
        Ok(sum)
    }

    fn counter(&self, counter: Counter) -> anyhow::Result<u64> {
        let mut sum = 0;
        for cpu in 0..cpus()? {
            sum += self.counters.get(&(cpus()? + cpu), 0)?.values[counter as usize];
        }
        Ok(sum)
    }
}

fn load() -> anyhow::Result<Ebpf> {
    let btf = KernelBtf::open(std::path::Path::new("/sys/kernel/btf"))?;
    // The made-up packet's layout, and its entry's, device's and namespace's; what is not named is as here.
    let offsets = Offsets {
        skb_nfct: 0,
        ct_status: 8,
        ct_net: 16,
        ct_timeout: 24,
        ct_orig: 32,
        ct_reply: 72,
        net_inum: 128,
        skb_dev: 136,
        dev_net: 144,
        skb_iif: 152,
        skb_sk: 160,
        sk_state: 168,
        sk_cgrp_data: 176,
        cgroup_kn: 184,
        kernfs_id: 192,
        ..offsets(&btf)
    };
    let cpus = cpus()?;
    EbpfLoader::new()
        .override_global("OFFSETS", &offsets, true)
        .override_global("CPUS", &cpus, true)
        .override_global("PLACES_MASK", &(BUCKETS - 1), true)
        .map_max_entries("COUNTERS", MAX_TABLES * cpus)
        .map_max_entries("ACCOUNTS", MAX_ACCOUNTS * cpus)
        .map_max_entries("PLACES", BUCKETS)
        .load(OBJECT)
        .context("cannot load the bench's maps (root is needed)")
}

fn cpus() -> anyhow::Result<u32> {
    let cpus = aya::util::nr_cpus().map_err(|(file, error)| anyhow::anyhow!("{file}: {error}"))?;
    Ok(u32::try_from(cpus)?)
}

/// Makes the entry up, and tells the probes of its owner and its responder among others.
fn prepare(ebpf: &mut Ebpf) -> anyhow::Result<Directory> {
    let address = |last: u32| [u64::from(last) << 8 | 10, 0];
    let mut fake = [0_u64; 32];
    fake[1] = CONFIRMED;
    // Source, ports and family of the tuple and of its reply.
    (fake[4], fake[6]) = (address(1)[0], AF_INET << 16);
    (fake[9], fake[11]) = (address(2)[0], AF_INET << 16);
    fake[16] = u64::from(NETNS);
    fake[19] = u64::from(IFINDEX);
    let mut map: Array<_, [u64; 32]> = ebpf.map_mut("FAKE").context("no map FAKE")?.try_into()?;
    map.set(0, fake, 0)?;
    let value = |account: u32, flags| u64::from(account + 1) | flags;
    let mut told = Told::from([
        (table_key(NETNS), value(MAX_TABLES, OWNER_SEARCH)),
        (device_key(NETNS, IFINDEX), value(OWNER, 0)),
    ]);
    for n in 0..OWNERS {
        told.insert(address_key(NETNS, AF_INET as u32, address(n)), value(MAX_TABLES + n, OWNER_TENANT));
    }
    let bytes = DIRECTORY_PLACES as usize * size_of::<DirectoryEntry>();
    let map = ebpf.take_map("DIRECTORY").context("no map DIRECTORY")?;
    let mut directory = Directory::new(Mapping::new(map, bytes)?);
    ensure!(directory.tell(&told) == 0, "the directory has no room");
    for (queue, index) in [("FREE_SLOTS", 1), ("FREE_SOURCES", conntrack_common::SHARED_SOURCES)] {
        let mut free: Queue<_, u32> =
            ebpf.map_mut(queue).with_context(|| format!("no map {queue}"))?.try_into()?;
        free.push(index, 0)?;
    }
    Ok(directory)
}

/// Nanoseconds of one run, of the mean that the kernel tells.
fn run(ebpf: &mut Ebpf, name: &str, repeat: u32) -> anyhow::Result<u64> {
    let program: &mut SchedClassifier =
        ebpf.program_mut(name).with_context(|| format!("no program {name}"))?.try_into()?;
    if program.fd().is_err() {
        program.load().with_context(|| format!("{name} does not load"))?;
    }
    let packet = [0; 64];
    let options = TestRunOptions { data_in: Some(&packet), repeat, ..TestRunOptions::new() };
    let result = program.test_run(options).with_context(|| format!("{name} does not run"))?;
    ensure!(result.return_value == 0, "{name} returned {}", result.return_value);
    Ok(u64::try_from(result.duration.as_nanos())?)
}
