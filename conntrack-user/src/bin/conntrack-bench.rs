//! Nanoseconds of the handlers on this machine, by BPF_PROG_TEST_RUN; one JSON object a line.
//! `cargo xtask bench` builds and runs it.

use anyhow::{Context as _, ensure};
use aya::maps::{Array, Queue};
use aya::programs::{SchedClassifier, TestRun as _, TestRunOptions};
use aya::{Ebpf, EbpfLoader};
use conntrack_common::{Counter, MAX_TABLES, Offsets, TableCounters};
use conntrack_user::kernel::btf::KernelBtf;
use conntrack_user::kernel::offsets::offsets;

static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/conntrack-ebpf"));

/// Runs of a program in one measurement.
const REPEAT: u32 = 1_000_000;
/// Measurements of each program; they are interleaved.
const ROUNDS: usize = 5;
/// The namespace of the made-up entry.
const NETNS: u32 = 0xf000_0001;
/// `IPS_CONFIRMED`.
const CONFIRMED: u64 = 1 << 3;
/// (program, what one run of it adds to the counters)
const PROGRAMS: [(&str, &[Counter]); 5] = [
    ("bench_empty", &[]),
    ("bench_harness", &[]),
    ("bench_connection_fentry", &[Counter::Allocs, Counter::Inserts, Counter::Frees]),
    ("bench_connection_kprobe", &[Counter::Allocs, Counter::Inserts, Counter::Frees]),
    ("bench_refusal", &[Counter::TableFull, Counter::Refused]),
];

fn main() -> anyhow::Result<()> {
    let mut ebpf = load()?;
    prepare(&mut ebpf)?;
    let counters: Array<_, TableCounters> =
        ebpf.take_map("COUNTERS").context("no map COUNTERS")?.try_into()?;
    run(&mut ebpf, "bench_setup", 1)?;
    let mut measured: Vec<Vec<u64>> = vec![Vec::new(); PROGRAMS.len()];
    for _ in 0..ROUNDS {
        for ((name, counted), times) in PROGRAMS.iter().zip(&mut measured) {
            let before = sums(&counters)?;
            times.push(run(&mut ebpf, name, REPEAT)?);
            let after = sums(&counters)?;
            for counter in *counted {
                let new = after[*counter as usize] - before[*counter as usize];
                ensure!(new == u64::from(REPEAT), "{name} counted {new} {counter:?} in {REPEAT} runs");
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

fn load() -> anyhow::Result<Ebpf> {
    let btf = KernelBtf::open(std::path::Path::new("/sys/kernel/btf"))?;
    // The made-up entry's layout; what is not named is as in this kernel.
    let offsets = Offsets {
        skb_nfct: 0,
        ct_status: 8,
        ct_net: 16,
        ct_timeout: 24,
        ct_orig: 32,
        ct_reply: 72,
        net_inum: 0,
        ..offsets(&btf)
    };
    let cpus = cpus()?;
    EbpfLoader::new()
        .override_global("OFFSETS", &offsets, true)
        .override_global("CPUS", &cpus, true)
        .map_max_entries("COUNTERS", MAX_TABLES * cpus)
        .load(OBJECT)
        .context("cannot load the bench's maps (root is needed)")
}

fn cpus() -> anyhow::Result<u32> {
    let cpus = aya::util::nr_cpus().map_err(|(file, error)| anyhow::anyhow!("{file}: {error}"))?;
    Ok(u32::try_from(cpus)?)
}

/// Makes the entry up, and gives its namespace and its source a place of their own.
fn prepare(ebpf: &mut Ebpf) -> anyhow::Result<()> {
    let mut fake = [0_u64; 32];
    fake[1] = CONFIRMED;
    fake[4] = u64::from_ne_bytes([10, 0, 0, 1, 0, 0, 0, 0]);
    fake[16] = u64::from(NETNS);
    let mut map: Array<_, [u64; 32]> = ebpf.map_mut("FAKE").context("no map FAKE")?.try_into()?;
    map.set(0, fake, 0)?;
    for (queue, index) in [("FREE_SLOTS", 1), ("FREE_SOURCES", conntrack_common::SHARED_SOURCES)] {
        let mut free: Queue<_, u32> =
            ebpf.map_mut(queue).with_context(|| format!("no map {queue}"))?.try_into()?;
        free.push(index, 0)?;
    }
    Ok(())
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

fn sums(counters: &Array<aya::maps::MapData, TableCounters>) -> anyhow::Result<[u64; Counter::COUNT]> {
    let mut sums = [0; Counter::COUNT];
    for cpu in 0..cpus()? {
        let values = counters.get(&(cpus()? + cpu), 0)?.values;
        sums.iter_mut().zip(values).for_each(|(sum, value)| *sum += value);
    }
    Ok(sums)
}
