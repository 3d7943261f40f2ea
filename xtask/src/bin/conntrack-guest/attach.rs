//! What `doctor` says of a kernel: what attaches, and what is not covered, as things that hide it come.

use anyhow::{Context as _, ensure};
use serde_json::Value;

use crate::lab::command::output;

pub(crate) fn test() -> anyhow::Result<()> {
    let loaded = || std::path::Path::new("/sys/module/nf_conntrack").exists();
    if !loaded() {
        let found = doctor()?;
        ensure!(
            state(&found, "not_loaded")? == "present",
            "doctor does not say that conntrack is not loaded"
        );
        ensure!(!loaded(), "doctor loaded conntrack");
    }
    output("modprobe", &["nf_conntrack_netlink"])?;
    ensure!(
        !std::path::Path::new("/sys/module/nf_tables").exists(),
        "nf_tables is loaded too early for this test"
    );
    let clear = doctor()?;
    ensure!(!std::path::Path::new("/sys/module/nf_tables").exists(), "doctor loaded nf_tables");
    for probe in clear["probes"].as_array().context("doctor names no probes")? {
        let text = |name: &str| probe[name].as_str().unwrap_or_default();
        println!("figure: attached: {} {} {}", text("probe"), text("mechanism"), text("target"));
        let told = !text("reason").is_empty() && !text("remedy").is_empty();
        ensure!(text("mechanism") != "none" || told, "no reason or no remedy: {probe}");
    }
    for kind in ["not_loaded", "cilium", "notrack", "zones", "flow_offload", "ipvs", "no_btf", "no_kprobes"] {
        ensure!(state(&clear, kind)? == "absent", "{kind} on a bare kernel: {clear:#}");
    }
    hide()
}

/// Each thing is set up as its users do, and must be told.
fn hide() -> anyhow::Result<()> {
    expect(
        "notrack",
        "add table inet t; add chain inet t raw { type filter hook output priority -300; }; \
            add rule inet t raw udp dport 9 notrack",
    )?;
    expect("zones", "add rule inet t raw udp dport 10 ct zone set 3")?;
    output("modprobe", &["nf_flow_table"])?;
    expect("flow_offload", "add flowtable inet t ft { hook ingress priority 0; devices = { lo }; }")?;
    output("nft", &["delete table inet t"])?;
    let found = doctor()?;
    for kind in ["notrack", "zones", "flow_offload"] {
        ensure!(state(&found, kind)? == "absent", "{kind} stays when its rules are gone");
    }
    output("mount", &["-t", "bpf", "bpf", "/sys/fs/bpf"])?;
    std::fs::create_dir_all("/sys/fs/bpf/tc/globals")?;
    let map =
        "map create /sys/fs/bpf/tc/globals/cilium_ct4_global type hash key 8 value 8 entries 16 name ct4";
    output("bpftool", &map.split(' ').collect::<Vec<_>>())?;
    let found = doctor()?;
    let text = gap(&found, "cilium")?["found"].as_str().unwrap_or_default().to_owned();
    ensure!(text.starts_with("Cilium without kube-proxy"), "{text}");
    println!("figure: doctor told of conntrack not loaded, NOTRACK, zones, flow tables and a Cilium");
    Ok(())
}

fn expect(kind: &str, rules: &str) -> anyhow::Result<()> {
    output("nft", &[rules])?;
    let found = doctor()?;
    ensure!(
        state(&found, kind)? == "present",
        "{kind} is not told after `nft {rules}`: {:#}",
        found["coverage"]
    );
    Ok(())
}

fn gap<'a>(doctor: &'a Value, kind: &str) -> anyhow::Result<&'a Value> {
    let gaps = doctor["coverage"].as_array().context("doctor tells no coverage")?;
    gaps.iter().find(|gap| gap["kind"] == kind).with_context(|| format!("no gap {kind} in {doctor:#}"))
}

fn state<'a>(doctor: &'a Value, kind: &str) -> anyhow::Result<&'a str> {
    gap(doctor, kind)?["state"].as_str().context("a gap without a state")
}

fn doctor() -> anyhow::Result<Value> {
    Ok(serde_json::from_str(&output("conntrack-pressure", &["doctor", "-o", "json"])?)?)
}
