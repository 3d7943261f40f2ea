//! The one loader: loads the object with this kernel's offsets, attaches what can be attached, and says of
//! every probe how it went.

use std::io;

use anyhow::Context as _;
use aya::programs::{KProbe, Program, RawTracePoint};
use aya::{Ebpf, EbpfLoader};
use conntrack_common::{Control, MAX_SOURCES, MAX_TABLES, OVERFLOW_SLOT, SHARED_SOURCES};

use super::fentry::{Facts, Fentry};
use super::info;
use super::table::{FENTRY, Hook, KPROBE, PROBES, Probe, Way, plan, traced};
use crate::aggregate::snapshot::ProbeState;
use crate::cli::MechanismArg;
use crate::config::System;
use crate::drain::counters::Counters;
use crate::drain::events::Events;
use crate::drain::mapping::Mapping;
use crate::drain::pending::Pending;
use crate::drain::pool::Pool;
use crate::drain::sources::Sources;
use crate::export::coverage::{ALLOC, EARLY_DROP, KFREE_SKB, NOT_ATTACHED, attached};
use crate::kernel::btf::KernelBtf;
use crate::kernel::offsets::offsets;

static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/conntrack-ebpf"));

/// The ways to read what the probes say.
pub struct Drains {
    /// Counters of each table.
    pub counters: Counters,
    /// What the limiter held back.
    pub sources: Sources,
    /// Records of rare facts.
    pub events: Events,
    /// Refusals that wait for their packet.
    pub pending: Pending,
}

/// Probes in the kernel; dropping it detaches and unloads everything.
pub struct Probes {
    ebpf: Ebpf,
    fentry: Fentry,
    system: System,
    control: Mapping,
    #[cfg(feature = "debug-log")]
    debug_log: super::debug_log::DebugLog,
    states: Vec<ProbeState>,
    said: Control,
    cause: Option<String>,
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
        let offsets = offsets(&btf);
        let reason = btf.enum_value("skb_drop_reason", "SKB_DROP_REASON_NETFILTER_DROP").unwrap_or(u32::MAX);
        let mut ebpf = EbpfLoader::new()
            .override_global("OFFSETS", &offsets, true)
            .override_global("CPUS", &cpus, true)
            .override_global("REASON_NETFILTER_DROP", &reason, true)
            .map_max_entries("COUNTERS", MAX_TABLES * cpus)
            .load(OBJECT)
            .context("cannot load the probes' maps (root, or CAP_BPF and CAP_PERFMON, is needed)")?;
        let fentry = Fentry::new(OBJECT, &ebpf)?;
        let take =
            |ebpf: &mut Ebpf, name: &str| ebpf.take_map(name).with_context(|| format!("no map {name}"));
        // What is taken is kept open by whom it is handed to: programs are loaded later, and name maps by fd.
        let tables = Pool::new(
            take(&mut ebpf, "TABLES")?,
            take(&mut ebpf, "FREE_SLOTS")?,
            OVERFLOW_SLOT + 1..MAX_TABLES,
        )?;
        let sources = Pool::new(
            take(&mut ebpf, "SOURCES")?,
            take(&mut ebpf, "FREE_SOURCES")?,
            SHARED_SOURCES..MAX_SOURCES,
        )?;
        let (counters, slots) = (take(&mut ebpf, "COUNTERS")?, take(&mut ebpf, "SLOT_NETNS")?);
        let drains = Drains {
            counters: Counters::map(counters, slots, tables, cpus)?,
            sources: Sources::map(take(&mut ebpf, "SOURCE_WINDOWS")?, sources)?,
            events: Events::new(take(&mut ebpf, "EVENTS")?)?,
            pending: Pending::new(take(&mut ebpf, "PENDING")?)?,
        };
        let control = Mapping::new(take(&mut ebpf, "CONTROL")?, size_of::<Control>())?;
        let cause = (reason == u32::MAX)
            .then(|| "this kernel gives no reason for a drop: refusals cannot be inferred".to_owned());
        let probes = Self {
            #[cfg(feature = "debug-log")]
            debug_log: super::debug_log::open(&mut ebpf)?,
            ebpf,
            fentry,
            system: system.clone(),
            control,
            states: PROBES
                .iter()
                .map(|p| state(p, "not tried yet: conntrack is not loaded".into()))
                .collect(),
            said: Control::default(),
            cause,
        };
        Ok((probes, drains))
    }

    /// Attaches every probe that can be; what cannot is said in its state, and the rest goes on.
    pub fn attach(&mut self) {
        let names: Vec<_> = traced().collect();
        let facts = Facts::read(&self.system.sysfs, &self.system.procfs, &names);
        let facts = facts.map_err(|error| format!("{error:#}"));
        for (index, probe) in PROBES.iter().enumerate() {
            let alloc = self.is_attached(ALLOC);
            self.states[index] = self.attach_one(probe, alloc, facts.as_ref());
        }
        let kfree_skb = u32::from(self.is_attached(KFREE_SKB) && self.is_attached(ALLOC));
        let early_drop = u32::from(self.is_attached(EARLY_DROP));
        self.say(Control { kfree_skb, early_drop, ..self.said });
    }

    /// Tells the inferring probe whether some table is at its limit.
    pub fn at_limit(&mut self, at_limit: bool) {
        if (self.said.at_limit != 0) != at_limit {
            self.say(Control { at_limit: u32::from(at_limit), ..self.said });
        }
    }

    /// Prints what the probes said; nothing unless built with the feature `debug-log`.
    pub fn print_debug_log(&mut self) {
        #[cfg(feature = "debug-log")]
        self.debug_log.flush();
    }

    /// Every probe, with its runs as of now.
    #[must_use]
    pub fn states(&self) -> Vec<ProbeState> {
        let mut states = self.states.clone();
        for (state, probe) in states.iter_mut().zip(PROBES) {
            let Some((_, way)) = probe.ways.iter().find(|(_, w)| w.mechanism == state.mechanism) else {
                continue;
            };
            let mut names: Vec<_> = way.programs.iter().map(|(name, _)| *name).collect();
            names.dedup(); // one program on two functions
            let runs: Option<Vec<_>> = names.iter().map(|name| self.runs(name)).collect();
            state.missed = runs.as_ref().map(|r| r.iter().map(|r| r.missed).sum());
            state.runs = runs.as_ref().map(|r| r.iter().map(|r| r.runs).sum()).filter(|r| *r > 0);
            state.run_time_ns = runs.map(|r| r.iter().map(|r| r.time_ns).sum()).filter(|t| *t > 0);
        }
        states
    }

    fn runs(&self, program: &str) -> Option<info::Runs> {
        let fd = match self.ebpf.program(program)? {
            Program::KProbe(p) => p.fd(),
            Program::RawTracePoint(p) => p.fd(),
            _ => return self.fentry.runs(program),
        };
        info::runs(fd.ok()?)
    }

    fn is_attached(&self, name: &str) -> bool {
        self.states.iter().any(|s| s.probe == name && attached(s))
    }

    fn say(&mut self, control: Control) {
        let word = |low: u32, high: u32| {
            let mut bytes = [0; 8];
            bytes[..4].copy_from_slice(&low.to_ne_bytes());
            bytes[4..].copy_from_slice(&high.to_ne_bytes());
            u64::from_ne_bytes(bytes)
        };
        // Written in place: a map system call would make the kernel skip kprobe programs.
        self.control.set(0, word(control.kfree_skb, control.early_drop));
        self.control.set(1, word(control.at_limit, control.pad));
        self.said = control;
    }

    fn attach_one(
        &mut self,
        probe: &'static Probe,
        alloc: bool,
        facts: Result<&Facts, &String>,
    ) -> ProbeState {
        let mut reasons = Vec::new();
        let asked = self.system.mechanism;
        if asked == MechanismArg::None
            && probe.ways.iter().all(|(_, w)| [FENTRY, KPROBE].contains(&w.mechanism))
        {
            return state(probe, "probes are switched off with --probe.mechanism none".into());
        }
        for way in plan(probe, asked, alloc) {
            let inferring = way.programs.iter().any(|(name, _)| *name == "kfree_skb_inferred");
            let refused = |r: &String| r == probe.name || probe.way_meant(r) == Some(way.mechanism);
            let tried = if self.system.refuse_probes.iter().any(refused) {
                Err("refused by --test.refuse-probe".to_owned())
            } else if let (true, Some(cause)) = (inferring, &self.cause) {
                Err(cause.clone())
            } else {
                self.attach_way(&way, facts)
            };
            match tried {
                Ok(target) => {
                    return ProbeState {
                        mechanism: way.mechanism,
                        target: Some(target),
                        ..state(probe, reasons.join("; "))
                    };
                }
                Err(reason) => reasons.push(format!("{}: {reason}", way.mechanism)),
            }
        }
        state(probe, reasons.join("; "))
    }

    /// All programs of a way, or none.
    fn attach_way(&mut self, way: &Way, facts: Result<&Facts, &String>) -> Result<String, String> {
        let mut targets = Vec::new();
        for (name, hook) in way.programs {
            let attached = if way.mechanism == FENTRY {
                self.attach_fentry(name, *hook, facts)
            } else {
                self.attach_program(name, *hook)
            };
            match attached {
                Ok(target) if targets.contains(&target) => {}
                Ok(target) => targets.push(target),
                Err(error) => {
                    for (name, _) in way.programs {
                        self.unload(name);
                    }
                    return Err(error);
                }
            }
        }
        Ok(targets.join(", "))
    }

    fn attach_fentry(
        &mut self,
        name: &'static str,
        hook: Hook,
        facts: Result<&Facts, &String>,
    ) -> Result<String, String> {
        let Hook::Function([function]) = hook else {
            return Err(format!("{name}: fentry wants one function"));
        };
        self.fentry.attach(name, &facts.map_err(String::clone)?.target(function)?)?;
        Ok((*function).to_owned())
    }

    fn attach_program(&mut self, name: &str, hook: Hook) -> Result<String, String> {
        let program = self.ebpf.program_mut(name).ok_or_else(|| format!("no program {name}"))?;
        match (program, hook) {
            (Program::KProbe(program), Hook::Function(candidates)) => {
                if program.fd().is_err() {
                    program.load().map_err(one_line)?;
                }
                let mut last = "no function to attach to".to_owned();
                for function in candidates {
                    match program.attach(function, 0) {
                        Ok(_) => return Ok((*function).to_owned()),
                        Err(error) => last = format!("{function}: {}", one_line(error)),
                    }
                }
                Err(last)
            }
            (Program::RawTracePoint(program), Hook::RawTracepoint(tracepoint)) => {
                if program.fd().is_err() {
                    program.load().map_err(one_line)?;
                }
                program.attach(tracepoint).map_err(one_line)?;
                Ok(tracepoint.to_owned())
            }
            _ => Err(format!("program {name} is not of the kind its hook wants")),
        }
    }

    fn unload(&mut self, name: &str) {
        match self.ebpf.program_mut(name) {
            Some(Program::KProbe(p)) => drop(KProbe::unload(p)),
            Some(Program::RawTracePoint(p)) => drop(RawTracePoint::unload(p)),
            _ => self.fentry.detach(name),
        }
    }
}

/// Every probe, when none could be loaded for this reason.
#[must_use]
pub fn unloaded(reason: &str) -> Vec<ProbeState> {
    PROBES.iter().map(|p| state(p, reason.to_owned())).collect()
}

fn state(probe: &Probe, reason: String) -> ProbeState {
    ProbeState {
        probe: probe.name,
        purpose: probe.purpose,
        mechanism: NOT_ATTACHED,
        target: None,
        reason: (!reason.is_empty()).then_some(reason),
        missed: None,
        runs: None,
        run_time_ns: None,
    }
}

/// An error and its sources in one line; of a verifier log, its first words and the end, where the reason is.
fn one_line(error: impl std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(next) = source {
        text = format!("{text}: {next}");
        source = next.source();
    }
    shortened(&text)
}

/// The first line, and the last but for the verifier's statistics.
fn shortened(text: &str) -> String {
    let lines = text.lines().map(str::trim).filter(|l| !l.is_empty());
    let statistics = ["verification time ", "stack depth ", "processed "];
    let lines: Vec<&str> = lines.take_while(|l| !statistics.iter().any(|s| l.starts_with(s))).collect();
    match lines.as_slice() {
        [] => "no reason given".to_owned(),
        [only] => (*only).to_owned(),
        [first, .., last] => format!("{first} … {last}"),
    }
}

/// Before 5.11 maps are charged to RLIMIT_MEMLOCK. Without the right to lift it, loading says so itself.
fn lift_memlock() {
    let unlimited = rustix::process::Rlimit { current: None, maximum: None };
    let _: io::Result<()> =
        rustix::process::setrlimit(rustix::process::Resource::Memlock, unlimited).map_err(Into::into);
}

#[cfg(test)]
mod tests {
    use super::shortened;

    #[test]
    fn of_a_verifier_log_the_reason_is_told() {
        let log = "the syscall failed. Verifier output: arg#0 type is not a struct\n0: (bf) r6 = r1\n\
                   R1 invalid mem access 'inv'\nstack depth 8+0\nprocessed 9 insns (limit 1000000)\n\n: Permission denied";
        let told =
            "the syscall failed. Verifier output: arg#0 type is not a struct … R1 invalid mem access 'inv'";
        assert_eq!(shortened(log), told);
        assert_eq!(shortened("one"), "one");
        assert_eq!(shortened("\n"), "no reason given");
    }
}
