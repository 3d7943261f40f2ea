//! Attaches what can be attached, and says of every probe how it went.

use std::time::Duration;

use aya::Ebpf;
use aya::programs::{KProbe, Program, RawTracePoint};
use conntrack_common::Control;
use conntrack_common::event::AT_LIMIT_TABLES;
use conntrack_common::token::{
    EVICTIONS_LEFT, PRESSED_BY_EVICTION, PRESSED_BY_REFUSAL, REFUSALS_LEFT, STALL_WINDOW_NS,
};

use super::fentry::{Facts, Fentry};
use super::info;
use super::table::{FENTRY, Given, Hook, KPROBE, PROBES, Probe, Way, plan, traced};
use crate::aggregate::snapshot::ProbeState;
use crate::cli::MechanismArg;
use crate::config::System;
use crate::drain::mapping::Mapping;
use crate::drain::turns::{Turns, lost};
use crate::export::coverage::{ALLOC, EARLY_DROP, KFREE_SKB, NOT_ATTACHED, attached};

/// Probes in the kernel; dropping it detaches and unloads everything.
pub struct Probes {
    pub(super) ebpf: Ebpf,
    pub(super) fentry: Fentry,
    pub(super) system: System,
    pub(super) control: Mapping,
    pub(super) at_limit: Mapping,
    pub(super) pressed: Mapping,
    pub(super) tokens: Mapping,
    pub(super) turns: Turns,
    #[cfg(feature = "debug-log")]
    pub(super) debug_log: super::debug_log::DebugLog,
    pub(super) states: Vec<ProbeState>,
    /// The way by which each probe is attached.
    pub(super) ways: Vec<Option<Way>>,
    pub(super) said: Control,
    /// Why refusals cannot be inferred, if so.
    pub(super) cause: Option<String>,
    /// Can programs compare and exchange?
    pub(super) exchange: bool,
}

impl Probes {
    /// Attaches every probe that can be; what cannot is said in its state, and the rest goes on.
    pub fn attach(&mut self) {
        let names: Vec<_> = traced().collect();
        let facts = Facts::read(&self.system.sysfs, &self.system.procfs, &names);
        let facts = facts.map_err(|error| format!("{error:#}"));
        for (index, probe) in PROBES.iter().enumerate() {
            let given = Given { alloc_attached: self.is_attached(ALLOC), exchange: self.exchange };
            (self.states[index], self.ways[index]) = self.attach_one(probe, given, facts.as_ref());
        }
        if self.ways.iter().flatten().any(|way| way.twins.is_some()) {
            self.turns.clear_signs();
        }
        let kfree_skb = u32::from(self.is_attached(KFREE_SKB) && self.is_attached(ALLOC));
        let early_drop = u32::from(self.is_attached(EARLY_DROP));
        self.say(Control { kfree_skb, early_drop, ..self.said });
    }

    /// Tells the inferring probe which tables are at their limit: of these namespaces, the first eight.
    pub fn at_limit(&self, tables: &[u32]) {
        let tables = tables.iter().map(|netns| u64::from(*netns)).chain(std::iter::repeat(0));
        for (index, netns) in tables.take(AT_LIMIT_TABLES as usize).enumerate() {
            if self.at_limit.word(index) != netns {
                self.at_limit.set(index, netns);
            }
        }
    }

    /// Tells the probes how long a connection attempt may go on, and how long after its eviction an entry would have
    /// lived; and, when no refusal or eviction is so young that something can still come of it, that none is. `now` is
    /// `CLOCK_MONOTONIC`.
    pub fn windows(&mut self, connect: Duration, reset: Duration, now: Duration) {
        let [connect_window_ns, reset_window_ns] =
            [connect, reset].map(|window| u64::try_from(window.as_nanos()).unwrap_or(u64::MAX));
        if (self.said.connect_window_ns, self.said.reset_window_ns) != (connect_window_ns, reset_window_ns) {
            self.say(Control { connect_window_ns, reset_window_ns, ..self.said });
        }
        let longest = connect.max(Duration::from_nanos(STALL_WINDOW_NS));
        for (word, longest) in [(PRESSED_BY_REFUSAL, longest), (PRESSED_BY_EVICTION, reset)] {
            let last = self.pressed.word(word as usize);
            if last != 0 && now.saturating_sub(Duration::from_nanos(last)) > longest {
                // Unless another came meanwhile.
                self.pressed.exchange(word as usize, last, 0);
            }
        }
    }

    /// Tokens left and taken since start: of refusals, of evictions.
    #[must_use]
    pub fn tokens(&self) -> [[u64; 2]; 2] {
        [REFUSALS_LEFT, EVICTIONS_LEFT]
            .map(|left| [self.tokens.word(left as usize), self.tokens.word(left as usize + 1)])
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
        for (state, way) in states.iter_mut().zip(&self.ways) {
            let Some(way) = way else { continue };
            let one = self.runs_of(way.programs);
            let two = way.twins.and_then(|(_, programs)| self.runs_of(programs));
            let all = one.map(|one| [one, two.unwrap_or_default()]);
            state.runs = all.map(|[a, b]| a.runs + b.runs).filter(|r| *r > 0);
            state.run_time_ns = all.map(|[a, b]| a.time_ns + b.time_ns).filter(|t| *t > 0);
            state.missed = one.map(|one| one.missed);
            if let (Some(one), Some(two), Some((twin, _))) = (one, two, way.twins) {
                let caught = self.turns.caught(twin);
                state.missed = Some(lost([one.missed, two.missed], self.turns.first(), caught));
                state.caught = Some(caught);
            }
        }
        states
    }

    /// Entries that found no place, so that they are in their table's own account.
    #[must_use]
    pub fn unplaced(&self) -> u64 {
        self.turns.unplaced()
    }

    fn runs_of(&self, programs: &[(&str, Hook)]) -> Option<info::Runs> {
        let mut names: Vec<_> = programs.iter().map(|(name, _)| *name).collect();
        names.dedup(); // one program on two functions
        let mut sum = info::Runs::default();
        for name in names {
            let runs = self.runs(name)?;
            sum.missed += runs.missed;
            sum.runs += runs.runs;
            sum.time_ns += runs.time_ns;
        }
        Some(sum)
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
        self.control.set(1, control.connect_window_ns);
        self.control.set(2, control.reset_window_ns);
        self.said = control;
    }

    fn attach_one(
        &mut self,
        probe: &'static Probe,
        given: Given,
        facts: Result<&Facts, &String>,
    ) -> (ProbeState, Option<Way>) {
        let mut reasons = Vec::new();
        let asked = self.system.mechanism;
        if asked == MechanismArg::None
            && probe.ways.iter().all(|(_, w)| [FENTRY, KPROBE].contains(&w.mechanism))
        {
            return (state(probe, "probes are switched off with --probe.mechanism none".into()), None);
        }
        for way in plan(probe, asked, given) {
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
                    let way = self.attach_twins(way, facts).unwrap_or_else(|reason| {
                        reasons.push(format!("not attached twice, so runs can be missed: {reason}"));
                        Way { twins: None, ..way }
                    });
                    let state = ProbeState {
                        mechanism: way.mechanism,
                        target: Some(target),
                        ..state(probe, reasons.join("; "))
                    };
                    return (state, Some(way));
                }
                Err(reason) => reasons.push(format!("{}: {reason}", way.mechanism)),
            }
        }
        (state(probe, reasons.join("; ")), None)
    }

    fn attach_twins(&mut self, way: Way, facts: Result<&Facts, &String>) -> Result<Way, String> {
        if let Some((_, programs)) = way.twins {
            self.attach_all(way.mechanism, programs, facts)?;
        }
        Ok(way)
    }

    fn attach_way(&mut self, way: &Way, facts: Result<&Facts, &String>) -> Result<String, String> {
        self.attach_all(way.mechanism, way.programs, facts)
    }

    /// All of these programs, or none.
    fn attach_all(
        &mut self,
        mechanism: &str,
        programs: &'static [(&'static str, Hook)],
        facts: Result<&Facts, &String>,
    ) -> Result<String, String> {
        let mut targets = Vec::new();
        for (name, hook) in programs {
            let attached = if mechanism == FENTRY {
                self.attach_fentry(name, *hook, facts)
            } else {
                self.attach_program(name, *hook)
            };
            match attached {
                Ok(target) if targets.contains(&target) => {}
                Ok(target) => targets.push(target),
                Err(error) => {
                    for (name, _) in programs {
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

/// A probe that is not attached.
pub(super) fn state(probe: &Probe, reason: String) -> ProbeState {
    ProbeState {
        probe: probe.name,
        purpose: probe.purpose,
        mechanism: NOT_ATTACHED,
        target: None,
        reason: (!reason.is_empty()).then_some(reason),
        missed: None,
        caught: None,
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
