//! Whose a refusal in the node's table is: a pod's by its device, someone's elsewhere by name of the device.

use std::net::{Ipv4Addr, UdpSocket};
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use serde_json::Value;

use crate::daemon::{Daemon, value};
use crate::lab::kernel::{self, Statistics};
use crate::lab::pod::Pod;
use crate::lab::router::{CLIENT4, Lab, Placement, SERVER4};
use crate::lab::socket_option;
use crate::lab::traffic::{hold_tcp, udp_flows};

const LOG: &str = "/tmp/conntrack-pressure.log";
const HELD: usize = 60;
const FLOWS: u16 = 300;
/// The daemon's rounds are a second apart.
const SETTLED: Duration = Duration::from_millis(2_500);
/// An address of nobody on this machine.
const STRANGER: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 9);

pub(crate) fn test() -> anyhow::Result<()> {
    let lab = Lab::build(Placement::Guest)?;
    let mut daemon = Daemon::start(LOG, "alloc")?;
    // After the daemon: it must notice.
    let _pod = Pod::start(&lab.client, "shop", "cart")?;
    let _held = hold_tcp(&lab, SERVER4.into(), 80, HELD)?;
    kernel::set_size(HELD as u64 + 4, None)?;
    let pod = "conntrack_owner_drops_total{table=\"host\",owner=\"pod\",namespace=\"shop\",pod=\"cart\",cgroup=\"\"}";
    let mut port = 10_000;
    let page = daemon.until("the pod to be known by its device", |page| {
        port += 1;
        udp_flows(&lab, SERVER4.into(), 9, port, 1).is_ok() && value(page, pod) > Some(0.0)
    })?;
    let known = settled(&mut daemon, pod, page)?;
    let before = Statistics::read(&lab.router)?;
    udp_flows(&lab, SERVER4.into(), 9, 20_000, FLOWS)?;
    let refused = Statistics::read(&lab.router)?.since(&before).of("drop")?;
    let page = daemon.until("the pod's refusals", |page| value(page, pod) >= Some(known + refused as f64))?;
    let charged = settled(&mut daemon, pod, page)? - known;
    println!("figure: owners: the kernel refused a pod {refused} times, it was charged with {charged}");
    ensure!(refused >= u64::from(FLOWS) / 2, "the table refused only {refused}");
    ensure!(charged == refused as f64, "not all of them are the pod's, or more");

    stranger(&lab)?;
    let outside =
        "conntrack_owner_drops_total{table=\"host\",owner=\"external\",namespace=\"\",pod=\"\",cgroup=\"\"}";
    daemon.until("the stranger's refusals", |page| value(page, outside) > Some(0.0))?;
    daemon.stop()?;
    let log = std::fs::read_to_string(LOG)?;
    let events: Vec<Value> = log.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    let of = |source: Ipv4Addr| {
        let source = source.to_string();
        // The last: earlier ones may be from before the pod was known.
        let event = events.iter().rfind(|e| e["event"] == "refused" && e["src"] == source.as_str());
        event.with_context(|| format!("no event of a refusal of {source}:\n{log}"))
    };
    told(of(CLIENT4)?, &[("owner", "pod"), ("pod", "cart"), ("evidence", "device"), ("device", "client")])?;
    told(of(STRANGER)?, &[("owner", "external"), ("device", "server")])
}

/// The series when it has not changed for two of the daemon's rounds: what was held back is credited once a second.
pub(crate) fn settled(daemon: &mut Daemon, series: &str, page: String) -> anyhow::Result<f64> {
    let (mut last, mut since) = (value(&page, series), Instant::now());
    daemon.until("the series to settle", |page| {
        let now = value(page, series);
        if now != last {
            (last, since) = (now, Instant::now());
        }
        since.elapsed() > SETTLED
    })?;
    last.with_context(|| format!("no series {series}"))
}

/// Datagrams from an address that nobody here has, from the server's side.
fn stranger(lab: &Lab) -> anyhow::Result<()> {
    lab.server.run(|| {
        std::fs::write("/proc/sys/net/ipv4/ip_nonlocal_bind", "1")?;
        for port in 30_000..30_050 {
            let socket = UdpSocket::bind((STRANGER, port))?;
            socket_option::set(&socket, libc::SOL_IP, libc::IP_TRANSPARENT, 1)?;
            socket.send_to(b"x", (CLIENT4, 9))?;
        }
        Ok(())
    })
}

fn told(event: &Value, fields: &[(&str, &str)]) -> anyhow::Result<()> {
    for (name, wanted) in fields {
        ensure!(event[name] == *wanted, "{name} is not {wanted}: {event}");
    }
    println!("figure: owners: {fields:?}");
    Ok(())
}
