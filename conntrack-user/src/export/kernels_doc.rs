//! docs/kernels.md, made from the table of probes and from what the guests saw.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use crate::probe::table::{Condition, Hook, PROBES, Probe, Way};
use crate::probe::without;

const HEAD: &str = "# Kernels

Made from the table of probes (`conntrack-user/src/probe/table.rs`) and from `docs/probes-seen.tsv`, which `cargo xtask matrix`
writes; do not edit. `UPDATE_DOCS=1 cargo test -p conntrack-user --lib export` rewrites it.

What a kernel can do is found by trying, never by its version: distributions backport. `conntrack-pressure doctor` says what
attaches on the running one, why something does not, and what to do.

A kernel must have BTF (`CONFIG_DEBUG_INFO_BTF`, in distributions' since 5.10): the probes' offsets come from it. Without it, and
without the right to load BPF programs, the kernel's own statistics are all there is; they stay exact.

## Probes

Each is attached in the first way that works. A way is all of its programs or none.

| probe | gives | ways, best first | without it there is not | and instead |
|---|---|---|---|---|
";

const SEEN_HEAD: &str = "
## Seen

What attached in guests that booted these kernels: by which mechanism, on which function or tracepoint.

";

/// docs/kernels.md. `seen` holds lines of (kernel as asked for, release, probe, mechanism, target), tab-separated.
#[must_use]
pub fn kernels_markdown(seen: &str) -> String {
    let mut out = HEAD.to_owned();
    for probe in PROBES {
        let without = without::of(probe.name);
        let lost = without.map_or("", |w| w.lost);
        let instead = without.and_then(|w| w.instead).unwrap_or("nothing");
        let ways: Vec<String> = probe.ways.iter().map(|(condition, w)| way(*condition, w)).collect();
        let _ = writeln!(
            out,
            "| `{}` | {} | {} | {lost} | {instead} |",
            probe.name,
            probe.purpose,
            ways.join("; ")
        );
    }
    out.push_str(SEEN_HEAD);
    table_of_seen(&mut out, seen);
    out
}

fn way(condition: Condition, way: &Way) -> String {
    let mut places: Vec<String> = Vec::new();
    for (_, hook) in way.programs {
        let place = match hook {
            Hook::Function(names) => {
                names.iter().map(|n| format!("`{n}`")).collect::<Vec<_>>().join(", else ")
            }
            Hook::RawTracepoint(name) => format!("`{name}`"),
        };
        if !places.contains(&place) {
            places.push(place);
        }
    }
    let when = match condition {
        Condition::Always => "",
        Condition::WithAlloc => " (where `alloc` is attached)",
        Condition::WithoutAlloc => " (where `alloc` is not: refusals are inferred)",
        Condition::WithExchange => " (from 5.12 on)",
        Condition::WithoutExchange => " (before 5.12)",
    };
    let twice = if way.twins.is_some() { ", twice" } else { "" };
    format!("{} on {}{twice}{when}", way.mechanism.replace('_', " "), places.join(" and "))
}

/// One row for each probe, one column for each kernel in the order of the file.
fn table_of_seen(out: &mut String, seen: &str) {
    let mut kernels: Vec<(&str, &str)> = Vec::new();
    let mut cells: BTreeMap<(&str, &str), String> = BTreeMap::new();
    for line in seen.lines() {
        let fields: Vec<&str> = line.split('\t').collect();
        let [kernel, release, probe, mechanism, target] = fields[..] else { continue };
        if !kernels.contains(&(kernel, release)) {
            kernels.push((kernel, release));
        }
        let cell = match mechanism {
            "none" => "–".to_owned(),
            _ => format!("{} `{}`", mechanism.replace('_', " "), target.replace(", ", "`, `")),
        };
        cells.insert((kernel, probe), cell);
    }
    if kernels.is_empty() {
        out.push_str("Nothing yet: run `cargo xtask matrix`.\n");
        return;
    }
    let heads: Vec<&str> = kernels.iter().map(|(kernel, _)| *kernel).collect();
    let _ = writeln!(out, "| probe | {} |\n|---|{}", heads.join(" | "), "---|".repeat(heads.len()));
    // Probes that the table had then and has no more are left out.
    for Probe { name, .. } in PROBES {
        let row: Vec<&str> =
            heads.iter().map(|k| cells.get(&(*k, *name)).map_or("not tried", String::as_str)).collect();
        let _ = writeln!(out, "| `{name}` | {} |", row.join(" | "));
    }
    out.push('\n');
    for (kernel, release) in kernels.iter().collect::<BTreeSet<_>>() {
        let _ = writeln!(out, "- {kernel}: {release}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::export::golden::assert_file;

    #[test]
    fn kernels_md_is_what_the_table_says() {
        let file = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/probes-seen.tsv");
        assert_file("docs/kernels.md", &kernels_markdown(&std::fs::read_to_string(file).unwrap()));
    }

    #[test]
    fn what_was_seen_is_one_row_for_each_probe() {
        let seen = "5.10\t5.10.1 (1)\tdelete\tkprobe\tnf_ct_delete.part.0\n5.10\t5.10.1 (1)\tkfree_skb\tnone\t\n\
                    newest\t7.3 (2)\tsend_reset\traw_tracepoint\ta, b\nspoiled line\n";
        let text = kernels_markdown(seen);
        assert!(text.contains("| probe | 5.10 | newest |\n|---|---|---|\n"), "{text}");
        assert!(text.contains("\n| `delete` | kprobe `nf_ct_delete.part.0` | not tried |\n"), "{text}");
        assert!(text.contains("\n| `kfree_skb` | – | not tried |\n"), "{text}");
        assert!(text.contains("\n| `send_reset` | not tried | raw tracepoint `a`, `b` |\n"), "{text}");
        assert!(text.contains("\n- 5.10: 5.10.1 (1)\n- newest: 7.3 (2)\n"), "{text}");
        assert!(kernels_markdown("").contains("Nothing yet"));
    }

    #[test]
    fn every_probe_and_every_candidate_is_named() {
        let text = kernels_markdown("");
        for probe in PROBES {
            assert!(text.contains(&format!("\n| `{}` | {} |", probe.name, probe.purpose)), "{}", probe.name);
        }
        assert!(text.contains("kprobe on `nf_ct_delete.part.0`, else `nf_ct_delete`"), "{text}");
        assert!(text.contains("raw tracepoint on `kfree_skb` (where `alloc` is not"), "{text}");
    }
}
