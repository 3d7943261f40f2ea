//! docs/performance.md and docs/performance.json.

use std::fmt::Write as _;
use std::fs;

use serde_json::{Value, json};

use super::figures::{BARE, Variant};
use super::native::Program;
use super::programs;

/// The native program whose cost is the test run's own and the bench's, not the handlers'.
const HARNESS: &str = "harness";

/// All that was measured.
#[derive(Clone, Debug)]
pub(crate) struct Results {
    /// Day and time, UTC.
    pub(crate) date: String,
    /// Of the sources it was measured from.
    pub(crate) source_hash: String,
    /// Processor and kernel of the host.
    pub(crate) host: String,
    /// The guest's kernel.
    pub(crate) kernel: String,
    /// Connections of one run.
    pub(crate) connections: u32,
    /// The handlers on this host, or why they could not be measured.
    pub(crate) native: Result<Vec<Program>, String>,
    /// Figures of the dump of a full table on this host, or why there are none.
    pub(crate) dump: Result<Vec<String>, String>,
    /// The churn.
    pub(crate) churn: Vec<Variant>,
    /// What each program takes of it.
    pub(crate) programs: Vec<programs::Program>,
}

/// Processor and kernel of this host; what cannot be read is said to be unknown.
pub(crate) fn host() -> String {
    let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpuinfo.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let known = |text: &str| if text.is_empty() { "not known".to_owned() } else { text.to_owned() };
    format!("{}, Linux {}", known(model.map_or("", |(_, name)| name)), known(kernel.trim()))
}

impl Results {
    /// As Markdown.
    pub(crate) fn markdown(&self) -> String {
        let mut text = format!(
            "# Performance\n\nWritten by `cargo xtask bench`.\n\n- Date: {}\n- Source hash: `{}`\n- Host: {}\n- \
             Guest: {}\n\n",
            self.date, self.source_hash, self.host, self.kernel
        );
        self.write_native(&mut text);
        self.write_dump(&mut text);
        self.write_churn(&mut text);
        self.write_programs(&mut text);
        text
    }

    fn write_native(&self, text: &mut String) {
        text.push_str(
            "## The handlers, on the host\n\nThe handlers that every mechanism calls, behind a `sched_cls` program, \
             by BPF_PROG_TEST_RUN, over an entry that is made up; each is checked to have counted every run. `empty` \
             is what the test run itself costs, `harness` that and what the bench adds. How a kernel gets to the \
             program (a trampoline, a breakpoint) is not in it: the churn below has that.\n\n",
        );
        let programs = match &self.native {
            Ok(programs) => programs,
            Err(why) => {
                let _ = writeln!(text, "not run: {why}\n");
                return;
            }
        };
        let harness = programs.iter().find(|p| p.program == HARNESS).map(|p| p.ns);
        text.push_str(
            "| program | ns (median of 5) | least–greatest | ns beyond the harness |\n|---|---|---|---|\n",
        );
        for p in programs {
            let beyond = harness.filter(|_| !["empty", HARNESS].contains(&p.program.as_str()));
            let beyond = beyond.map_or_else(String::new, |harness| p.ns.saturating_sub(harness).to_string());
            let name = p.program.replace('_', " ");
            let _ = writeln!(text, "| {name} | {} | {}–{} | {beyond} |", p.ns, p.ns_min, p.ns_max);
        }
        let repeat = programs.first().map_or(0, |p| p.repeat);
        let _ = writeln!(
            text,
            "\nEach figure is the mean of {repeat} runs. A connection is its allocation, its insert and its free; a \
             refusal is `early_drop` finding nothing, and the failed allocation.\n"
        );
    }

    fn write_dump(&self, text: &mut String) {
        text.push_str(
            "## Owners without probes, on the host\n\nA table of a namespace made for it, filled by ctnetlink, then \
             dumped, read and given to its owners on one thread; each owner got what is its own, and all together what \
             the kernel counts. `cargo xtask bench --dump-only` measures this alone.\n\n",
        );
        match &self.dump {
            Ok(figures) => figures.iter().for_each(|figure| text.push_str(&format!("- {figure}\n"))),
            Err(why) => text.push_str(&format!("not run: {why}\n")),
        }
        text.push('\n');
    }

    fn write_churn(&self, text: &mut String) {
        let _ = writeln!(
            text,
            "## Connections while being watched, in a guest\n\nOne processor that counts instructions, so that the \
             host's load is not in it. {} short TCP connections a run over the loopback, one after the other, and the \
             removal of their entries; the variants take turns in every round. The ratio is connections per \
             second beside the bare run of the same round; `bare again` shows the noise. Of conntrack-pressure the \
             whole daemon is measured, its reading once a second included; `readings alone` is that without a probe on \
             conntrack.\n",
            self.connections
        );
        text.push_str("| watched by | rounds | ratio (median) | least–greatest | instructions' ns a connection | connections made | seen | exact rounds | runs missed |\n|---|---|---|---|---|---|---|---|---|\n");
        for v in &self.churn {
            if let Some(why) = &v.not_run {
                let _ = writeln!(text, "| {} | not run: {why} | | | | | | | |", v.variant);
                continue;
            }
            let [median, least, greatest] =
                v.ratio.map_or([String::new(), String::new(), String::new()], |ratio| {
                    ratio.map(|r| format!("{r:.4}"))
                });
            let each = v.ns_a_connection.map_or_else(String::new, |ns| format!("{ns:.0}"));
            let or_dash = |n: Option<u64>| n.map_or_else(|| "–".to_owned(), |n| n.to_string());
            let exact =
                v.saw.map_or_else(|| "–".to_owned(), |_| format!("{} of {}", v.exact_rounds, v.rounds));
            let _ = writeln!(
                text,
                "| {} | {} | {median} | {least}–{greatest} | {each} | {} | {} | {exact} | {} |",
                v.variant,
                v.rounds,
                v.made,
                or_dash(v.saw),
                or_dash(v.missed)
            );
        }
    }

    /// How much of what a variant costs is its programs, and how much the way to them. None: no program of it is known.
    fn way(&self, variant: &Variant) -> Option<String> {
        let bare = self.churn.iter().find(|other| other.variant == BARE)?.ns_a_connection?;
        let beyond = variant.ns_a_connection? - bare;
        let [runs, inside] = programs::sums(&self.programs, &variant.variant)?;
        Some(format!(
            "- {}: {beyond:.0} ns a connection more than bare, {inside:.0} of them in {runs:.0} runs of programs, {:.0} on the \
             way to them.\n",
            variant.variant,
            beyond - inside
        ))
    }

    fn write_programs(&self, text: &mut String) {
        text.push_str(
            "\n## What each program takes of a connection, in the same guest\n\nOne more run with the kernel's \
             statistics of programs on (`kernel.bpf_stats_enabled`), which add two readings of the clock to each run \
             (about 100 ns: a run that only returns takes 124). An instruction is two nanoseconds.\n\n",
        );
        if self.programs.is_empty() {
            text.push_str("not run: the guest told of no program\n");
        } else {
            text.push_str(&programs::table(&self.programs));
            text.push('\n');
            for variant in &self.churn {
                text.extend(self.way(variant));
            }
            text.push_str(
                "\nHow far that is from nothing, and why: a kernel's way to a program (saving registers, entering RCU, the guard \
                 against recursion) costs more than most of these programs do. Each hook has two programs by fentry, since the \
                 kernel skips one that is interrupted in itself, and books that must balance cannot do without that run. TCP's \
                 own tracepoint is passed ten times a connection, for the one change in a thousand that ends an attempt: \
                 `readings alone` is the price of that.\n",
            );
        }
    }

    /// As JSON.
    pub(crate) fn json(&self) -> Value {
        json!({
            "date": self.date,
            "source_hash": self.source_hash,
            "host": self.host,
            "guest": self.kernel,
            "connections_a_run": self.connections,
            "native": self.native.as_ref().ok(),
            "native_not_run": self.native.as_ref().err(),
            "dump": self.dump.as_ref().ok(),
            "dump_not_run": self.dump.as_ref().err(),
            "churn": self.churn,
            "programs": self.programs,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_not_run_is_said_and_not_zero() {
        let results = Results {
            date: "today".to_owned(),
            source_hash: "abc".to_owned(),
            host: "h".to_owned(),
            kernel: "6.12".to_owned(),
            connections: 2_000,
            native: Err("no root".to_owned()),
            dump: Err("no ip".to_owned()),
            churn: vec![Variant {
                variant: "bpftrace".to_owned(),
                not_run: Some("could not be had".to_owned()),
                ..Variant::default()
            }],
            programs: Vec::new(),
        };
        let text = results.markdown();
        assert!(text.contains("not run: no root") && text.contains("not run: no ip"), "{text}");
        assert!(text.contains("not run: the guest told of no program"), "{text}");
        assert!(text.contains("| bpftrace | not run: could not be had |"), "{text}");
        assert!(results.json()["churn"][0]["saw"].is_null());
    }
}
