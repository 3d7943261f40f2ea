//! What surrounds conntrack on this node and decides what can be seen of it: read thinly, judged in
//! [`crate::aggregate::gaps`].

use std::io;
use std::path::Path;

use super::netns::{Scan, in_namespace};
use super::nftables::{self, Ruleset};
use super::rtnetlink::{self, Link};
use super::{netlink, presence};
use crate::config::System;
use crate::kernel::symbols::Symbols;

/// Namespaces whose rulesets are read at most: a node's pods have none of their own as a rule.
const MAX_RULESETS: usize = 256;

/// Facts. None: could not be found out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Surroundings {
    /// Is conntrack in this kernel?
    pub conntrack_loaded: bool,
    /// Does the kernel tell its types (BTF)?
    pub btf: bool,
    /// Does the kernel offer kprobes by perf_event_open?
    pub kprobes: bool,
    /// The kernel's lockdown mode: "none", "integrity" or "confidentiality".
    pub lockdown: Option<String>,
    /// The effective capabilities of this process, as in `/proc/self/status`.
    pub capabilities: Option<u64>,
    /// Is this process in a user namespace other than the initial one?
    pub user_namespace: Option<bool>,
    /// Names of what is pinned in `fs/bpf/tc/globals`.
    pub pinned: Vec<String>,
    /// Devices of the host's namespace.
    pub links: Option<Vec<Link>>,
    /// Of nftables, by namespace. Empty: nf_tables is not in this kernel.
    pub rulesets: Vec<NamespaceRules>,
    /// Does iptables-legacy have a raw table whose rules could exempt from tracking or set zones? Its rules
    /// are not read.
    pub legacy_raw: Option<bool>,
    /// Does iptables-legacy have a filter or mangle table, whose rules could drop INVALID packets? They are not read.
    pub legacy_filter: Option<bool>,
    /// `nf_conntrack_tcp_be_liberal` of the host's namespace: packets out of window are not INVALID.
    pub be_liberal: Option<bool>,
    /// IPVS in the host's namespace; None: not in this kernel.
    pub ipvs: Option<Ipvs>,
    /// Is the module loaded by which tc rules use conntrack?
    pub act_ct: bool,
    /// Processes that could not be looked at: namespaces that only they are in are missing.
    pub denied: u64,
}

/// A namespace's ruleset, or one line saying why it could not be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamespaceRules {
    /// Inode of the namespace.
    pub netns: u32,
    /// Is it the host's?
    pub host: bool,
    /// The ruleset.
    pub rules: Result<Ruleset, String>,
}

/// IPVS.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ipvs {
    /// Virtual services.
    pub services: u64,
    /// `net.ipv4.vs.conntrack`: are its connections in conntrack too?
    pub conntrack: Option<bool>,
}

impl Surroundings {
    /// Looks around. Loads no module.
    #[must_use]
    pub fn read(system: &System, scan: &Scan) -> Self {
        let (procfs, sysfs) = (system.procfs.as_path(), system.sysfs.as_path());
        let conntrack_loaded = presence::conntrack_loaded(procfs);
        let host = scan.namespaces.iter().find(|n| n.host);
        let links = host.and_then(|n| in_namespace(&n.path, n.inum, rtnetlink::links).ok()?.ok());
        // Rules that concern conntrack need conntrack: without it there is nothing to ask for.
        let ask = conntrack_loaded && nf_tables_loaded(procfs, sysfs);
        Self {
            conntrack_loaded,
            btf: sysfs.join("kernel/btf/vmlinux").exists(),
            kprobes: sysfs.join("bus/event_source/devices/kprobe/type").exists(),
            lockdown: text(&sysfs.join("kernel/security/lockdown")).and_then(|t| chosen(&t)),
            capabilities: text(&procfs.join("self/status")).and_then(|t| effective(&t)),
            user_namespace: text(&procfs.join("self/uid_map")).map(|t| !initial_user_namespace(&t)),
            pinned: names(&sysfs.join("fs/bpf/tc/globals")),
            links,
            rulesets: if ask { rulesets(scan) } else { Vec::new() },
            legacy_raw: legacy_raw(procfs),
            legacy_filter: legacy_filter(procfs),
            be_liberal: text(&procfs.join("sys/net/netfilter/nf_conntrack_tcp_be_liberal"))
                .map(|t| t.trim() != "0"),
            ipvs: text(&procfs.join("1/net/ip_vs")).map(|services| Ipvs {
                services: count_services(&services),
                conntrack: text(&procfs.join("sys/net/ipv4/vs/conntrack")).map(|t| t.trim() != "0"),
            }),
            act_ct: sysfs.join("module/act_ct").exists(),
            denied: scan.denied,
        }
    }
}

fn rulesets(scan: &Scan) -> Vec<NamespaceRules> {
    // The host's first: it must not be the one that is left out.
    let (host, others): (Vec<_>, Vec<_>) = scan.namespaces.iter().partition(|n| n.host);
    let all = host.into_iter().chain(others).take(MAX_RULESETS);
    let read = all.filter_map(|n| {
        let rules = match in_namespace(&n.path, n.inum, nftables::read) {
            Ok(rules) => rules.map_err(|error: netlink::Error| error.to_string()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
            Err(error) => Err(error.to_string()),
        };
        Some(NamespaceRules { netns: n.inum, host: n.host, rules })
    });
    read.collect()
}

/// Asked over netlink, the kernel would load it: this only looks.
fn nf_tables_loaded(procfs: &Path, sysfs: &Path) -> bool {
    const EXPORTED: &str = "nft_register_expr";
    sysfs.join("module/nf_tables").exists()
        || Symbols::read(procfs, &[EXPORTED]).is_ok_and(|symbols| symbols.exact(EXPORTED).is_some())
}

fn text(path: &Path) -> Option<String> {
    std::fs::read_to_string(path).ok()
}

fn names(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let mut names: Vec<String> = entries.filter_map(|e| e.file_name().into_string().ok()).collect();
    names.sort();
    names
}

/// `none [integrity] confidentiality`: the one in brackets.
fn chosen(text: &str) -> Option<String> {
    let (_, from) = text.split_once('[')?;
    Some(from.split_once(']')?.0.to_owned())
}

fn effective(status: &str) -> Option<u64> {
    let digits = status.lines().find_map(|line| line.strip_prefix("CapEff:"))?;
    u64::from_str_radix(digits.trim(), 16).ok()
}

/// The initial one maps every id onto itself.
fn initial_user_namespace(uid_map: &str) -> bool {
    uid_map.split_whitespace().eq(["0", "0", "4294967295"])
}

/// The raw table is there and a target that concerns tracking is registered, for IPv4 or IPv6.
fn legacy_raw(procfs: &Path) -> Option<bool> {
    let of = |family: &str| {
        let raw = legacy_line(procfs, &format!("{family}_tables_names"), &["raw"])?;
        Some(raw && legacy_line(procfs, &format!("{family}_tables_targets"), &["CT", "NOTRACK"])?)
    };
    Some(of("ip")? || of("ip6")?)
}

fn legacy_filter(procfs: &Path) -> Option<bool> {
    let of = |family: &str| legacy_line(procfs, &format!("{family}_tables_names"), &["filter", "mangle"]);
    Some(of("ip")? || of("ip6")?)
}

/// Has this file of iptables-legacy one of these lines?
fn legacy_line(procfs: &Path, file: &str, wanted: &[&str]) -> Option<bool> {
    match std::fs::read_to_string(procfs.join("1/net").join(file)) {
        Ok(text) => Some(text.lines().any(|line| wanted.contains(&line))),
        // No iptables-legacy in this kernel, or none of this family.
        Err(error) if error.kind() == io::ErrorKind::NotFound => Some(false),
        Err(_) => None,
    }
}

/// `/proc/net/ip_vs`: one line for each service begins with its protocol, those of its servers with "  ->".
fn count_services(text: &str) -> u64 {
    let service = |line: &&str| ["TCP ", "UDP ", "SCTP ", "FWM "].iter().any(|p| line.starts_with(p));
    text.lines().filter(service).count() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_the_files_say() {
        assert_eq!(chosen("none [integrity] confidentiality\n").as_deref(), Some("integrity"));
        assert_eq!(chosen("none"), None);
        assert_eq!(effective("Name:\tx\nCapEff:\t000001ffffffffff\n"), Some(0x1ff_ffff_ffff));
        assert_eq!(effective("CapEff:\tzz\n"), None);
        assert!(initial_user_namespace("         0          0 4294967295\n"));
        assert!(!initial_user_namespace("         0     100000      65536\n"));
        let ip_vs = "IP Virtual Server version 1.2.1 (size=4096)\nProt LocalAddress:Port Scheduler Flags\n  \
                     -> RemoteAddress:Port Forward Weight ActiveConn InActConn\nTCP  0A600001:01BB rr\n  -> \
                     0AF40006:01BB      Masq    1      0          0\nUDP  0A60000A:0035 rr\n";
        assert_eq!(count_services(ip_vs), 2);
    }

    #[test]
    fn a_raw_table_matters_only_with_a_target_that_concerns_tracking() {
        let root = std::env::temp_dir().join(format!("surroundings-{}", std::process::id()));
        let net = root.join("1/net");
        std::fs::create_dir_all(&net).unwrap();
        let legacy = || legacy_raw(&root);
        assert_eq!(legacy(), Some(false));
        std::fs::write(net.join("ip_tables_names"), "filter\nraw\n").unwrap();
        std::fs::write(net.join("ip_tables_targets"), "ERROR\nDNAT\n").unwrap();
        assert_eq!(legacy(), Some(false));
        std::fs::write(net.join("ip_tables_targets"), "ERROR\nCT\nCT\n").unwrap();
        assert_eq!(legacy(), Some(true));
        std::fs::remove_file(net.join("ip_tables_names")).unwrap();
        std::fs::create_dir(net.join("ip_tables_names")).unwrap();
        assert_eq!(legacy(), None, "what cannot be read is not a no");
        std::fs::remove_dir_all(&root).unwrap();
    }

    #[test]
    fn reads_this_host() {
        use crate::cli::MechanismArg;
        let system = System {
            procfs: "/proc".into(),
            sysfs: "/sys".into(),
            cgroupfs: "/sys/fs/cgroup".into(),
            podlogs: "/var/log/pods".into(),
            mechanism: MechanismArg::Auto,
            refuse_probes: Vec::new(),
        };
        let around = Surroundings::read(&system, &Scan { denied: 3, ..Scan::default() });
        assert_eq!(around.btf, Path::new("/sys/kernel/btf/vmlinux").exists());
        assert_eq!((around.denied, around.rulesets.len()), (3, 0));
        assert!(around.capabilities.is_some() && around.user_namespace.is_some());
    }
}
