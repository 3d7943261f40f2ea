//! A pod that comes while the daemon runs is soon an owner.

use super::*;

/// Between two connections of the new pod.
const TICK: Duration = Duration::from_millis(50);
const TICKS: u32 = 80;
/// The daemon looks around once a second.
const SOON: Duration = Duration::from_millis(1_500);

/// Starts a pod that makes a connection every 50 ms from the start on, and nobody scrapes meanwhile: those that
/// were not its own when made tell how long the daemon did not know it.
pub(super) fn comes(daemon: &mut Daemon, node: &Node) -> anyhow::Result<()> {
    let before = Holdings::read(&daemon.page()?)?;
    let mut pod_started = Workload::start(node, Wiring::Routed, 40, "latecomer")?;
    let started = Instant::now();
    for tick in 0..TICKS {
        std::thread::sleep((TICK * tick).saturating_sub(started.elapsed()));
        pod_started.process.udp(None, (STRANGERS[(tick % 2) as usize], PORT).into(), 1)?;
    }
    counted(&node.host, TICKS.into())?;
    let now = Holdings::read(&daemon.page()?)?.since(&before);
    let charged = now.of(&pod("host", "latecomer")).entries;
    let rest = i64::from(TICKS) - charged;
    println!(
        "figure: whose: a new pod made {TICKS} connections, one each {} ms; the first {rest} were made before it was \
         known, the other {charged} are its own",
        TICK.as_millis()
    );
    ensure!(now.sum("host") == i64::from(TICKS), "the sum over owners changed by {}", now.sum("host"));
    ensure!(TICK * u32::try_from(rest)? <= SOON, "the pod was unknown for too long: {:#?}", now.0);
    Ok(())
}
