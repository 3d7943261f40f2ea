//! One pod fills the table, another is refused: who holds entries and who paid for it are told apart.

mod screens;

use anyhow::{Context as _, ensure};
use serde_json::Value;

use self::screens::Row;
use crate::daemon::Daemon;
use crate::lab::books::{figure, tell_missed_runs};
use crate::lab::entries;
use crate::lab::holdings::{Held, Holdings, cgroup, pod};
use crate::lab::kernel::{self, Statistics};
use crate::lab::nft;
use crate::lab::node::{Node, PORT, STRANGERS};
use crate::lab::process::Process;
use crate::lab::workload::{NAMESPACE, Wiring, Workload};
use crate::owners::settled;

const LOG: &str = "/tmp/conntrack-pressure.log";
/// Connections of the pod that fills the table, and of a bystander: 90 % and 10 %.
const GREEDY: u64 = 900;
const MODEST: u64 = 100;
/// Of the pod that comes too late, and of a service of the node.
const LATE: u64 = 150;
const LOCAL: u64 = 70;
/// What of the victim's packets reaches the node's conntrack, and what gets past it.
const PATH: &str = "table inet path { \
    counter before {}; counter after {}; \
    chain before { type filter hook prerouting priority -400; iifname \"cali3\" udp dport 80 counter name before; }; \
    chain after { type filter hook prerouting priority -150; iifname \"cali3\" udp dport 80 counter name after; }; }";

pub(crate) fn test() -> anyhow::Result<()> {
    let node = Node::build()?;
    let mut greedy = Workload::start(&node, Wiring::Bridged, 2, "greedy")?;
    let mut victim = Workload::start(&node, Wiring::Routed, 3, "victim")?;
    let mut modest = Workload::start(&node, Wiring::Routed, 4, "modest")?;
    let mut service = Process::on_the_node("/system.slice/backup.service")?;
    nft::load(&node.host, PATH)?;
    let mut daemon = Daemon::start(LOG, "confirm")?;
    // Established, so that early_drop leaves them alone.
    for stranger in STRANGERS {
        greedy.process.tcp(None, (stranger, PORT).into(), GREEDY / 2)?;
        modest.process.tcp(None, (stranger, PORT).into(), MODEST / 2)?;
    }
    kernel::set_size(GREEDY + MODEST, None)?;
    daemon.until("the daemon's round after the table is full", |page| {
        figure(page, &node.host, "conntrack_entries", None)
            .is_ok_and(|entries| entries == (GREEDY + MODEST).cast_signed())
    })?;
    let before = Holdings::read(&daemon.page()?)?;
    let (statistics, packets) = (Statistics::read(&node.host)?, nft::counters_at_rest(&node.host)?);
    for stranger in STRANGERS {
        victim.process.udp(None, (stranger, PORT).into(), LATE / 2)?;
    }
    let refused_here = service.udp(None, (STRANGERS[0], PORT).into(), LOCAL)?;
    let now = nft::counters_at_rest(&node.host)?;
    let missing = (now["before"] - packets["before"]) - (now["after"] - packets["after"]);
    let dropped = Statistics::read(&node.host)?.since(&statistics).of("drop")?;
    ensure!(missing == LATE, "{missing} of {LATE} packets of the victim did not get past conntrack");
    ensure!(refused_here == [0, LOCAL], "the service's sends taken and refused: {refused_here:?}");
    ensure!(dropped == LATE + LOCAL, "the kernel dropped {dropped}");

    let (late, local) = (pod("host", "victim"), cgroup("/system.slice/backup.service"));
    let page = daemon.until("the refusals by owner", |page| {
        Holdings::read(page).is_ok_and(|held| {
            let held = held.since(&before);
            held.of(&late).drops + held.of(&local).drops >= dropped.cast_signed()
        })
    })?;
    settled(&mut daemon, &format!("conntrack_owner_drops_total{late}"), page)?;
    let page = daemon.page()?;
    let held = Holdings::read(&page)?;
    let refused = |drops: u64| Held { drops: drops.cast_signed(), ..Held::default() };
    held.since(&before)
        .must_be("refusals", &[(late.clone(), refused(LATE)), (local.clone(), refused(LOCAL))])?;
    let listed = entries::list(&node.host)?;
    let made_by = |workload: &Workload| {
        listed.iter().filter(|ends| workload.addresses.contains(&ends.from)).count() as i64
    };
    for (workload, name) in [(&greedy, "greedy"), (&modest, "modest"), (&victim, "victim")] {
        let (kernel, held) = (made_by(workload), held.of(&pod("host", name)).entries);
        println!("figure: culprit: {name}: the kernel lists {kernel}, it holds {held}");
        ensure!(kernel == held, "{name}: the kernel lists {kernel}, it holds {held}");
    }
    println!(
        "figure: culprit: the kernel dropped {dropped}, nft missed {missing} of the victim's, EPERM {}; charged to the \
         victim {}, to the service {}",
        refused_here[1],
        held.of(&late).drops,
        held.of(&local).drops
    );
    tell_missed_runs(&page);
    let row = |name, mark, entries, refused| Row { name, mark, entries, refused };
    screens::test(
        "1,000 / 1,000",
        &[
            row("shop/greedy", "C", GREEDY, 0),
            row("shop/victim", "V", 0, LATE),
            row("/system.slice/backup.service", "V", 0, LOCAL),
        ],
    )?;
    daemon.stop()?;
    told(victim.addresses.map(|address| address.to_string()))
}

/// The log names the victim, and who filled the table.
fn told(victims: [String; 2]) -> anyhow::Result<()> {
    let log = std::fs::read_to_string(LOG)?;
    let events: Vec<Value> = log.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    for victim in victims {
        let event =
            events.iter().find(|event| event["event"] == "refused" && event["src"] == victim.as_str());
        let event = event.with_context(|| format!("no event of a refusal of {victim}:\n{log}"))?;
        for (name, wanted) in [("owner", "pod"), ("namespace", NAMESPACE), ("pod", "victim")] {
            ensure!(event[name] == wanted, "{name} is not {wanted}: {event}");
        }
        let culprit = &event["culprit"];
        for (name, wanted) in [("owner", "pod"), ("namespace", NAMESPACE), ("pod", "greedy")] {
            ensure!(culprit[name] == wanted, "the culprit's {name} is not {wanted}: {event}");
        }
        ensure!(culprit["entries"] == GREEDY && culprit["percent"] == 90, "the culprit holds 900: {event}");
        println!("figure: culprit: event of {victim}: victim {}, culprit {culprit}", event["pod"]);
    }
    Ok(())
}
