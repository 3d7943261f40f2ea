//! For how long what the table did to a connection may have an effect, by the sysctls in force.

use std::path::Path;
use std::str::FromStr;
use std::time::Duration;

/// `TCP_SYN_RETRIES`, the kernel's default: of namespaces whose sysctls are not read.
const DEFAULT_RETRIES: u32 = 6;
/// States of TCP entries that can be evicted, as their sysctls name them.
const EVICTABLE: [&str; 6] = ["syn_sent", "syn_recv", "fin_wait", "close_wait", "last_ack", "time_wait"];
/// The longest of them by default: `tcp_timeouts` of net/netfilter/nf_conntrack_proto_tcp.c, SYN_SENT, FIN_WAIT, TIME_WAIT.
const DEFAULT_RESET_WINDOW: Duration = Duration::from_secs(120);
/// `TCP_RTO_MAX`, seconds.
const LONGEST_PAUSE: u64 = 120;
/// What a timer on a busy node may be late by.
const SLACK: Duration = Duration::from_secs(5);

/// How long after its first packet an attempt may still come to its end. A pod may have sysctls of its own: at least
/// what the kernel's default gives.
#[must_use]
pub fn connect_window(procfs: &Path) -> Duration {
    let linear = number(procfs, "sys/net/ipv4/tcp_syn_linear_timeouts").unwrap_or(0);
    let retries = number(procfs, "sys/net/ipv4/tcp_syn_retries").unwrap_or(DEFAULT_RETRIES);
    let retries = retries.max(DEFAULT_RETRIES);
    give_up_time(retries, linear) + SLACK
}

/// How long after its eviction a flow's reset may be blamed on it: the longest that the kernel would have kept an entry
/// that can be evicted, one in a handshake (early_drop) or closing (the garbage collector).
#[must_use]
pub fn reset_window(procfs: &Path) -> Duration {
    let timeout = |state| number(procfs, &format!("sys/net/netfilter/nf_conntrack_tcp_timeout_{state}"));
    let longest = EVICTABLE.iter().filter_map(timeout).max();
    longest.map_or(DEFAULT_RESET_WINDOW, Duration::from_secs)
}

fn number<N: FromStr>(procfs: &Path, name: &str) -> Option<N> {
    std::fs::read_to_string(procfs.join(name)).ok()?.trim().parse().ok()
}

/// When the kernel gives an attempt up: after so many retransmissions at doubling pauses, and before them `linear` at
/// the same.
/// <https://github.com/torvalds/linux/blob/v6.12/net/ipv4/tcp_timer.c#L255>
fn give_up_time(retries: u32, linear: u32) -> Duration {
    let pause = |nth: u32| 1_u64.checked_shl(nth).map_or(LONGEST_PAUSE, |pause| pause.min(LONGEST_PAUSE));
    Duration::from_secs(u64::from(linear) + (0..=retries.min(255)).map(pause).sum::<u64>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_gives_up_when_it_does() {
        assert_eq!(give_up_time(6, 0), Duration::from_secs(127));
        assert_eq!(give_up_time(6, 4), Duration::from_secs(131));
        assert_eq!(give_up_time(2, 0), Duration::from_secs(7));
        assert_eq!(give_up_time(255, 4), Duration::from_secs(4 + 127 + 249 * 120));
    }

    #[test]
    fn sysctls_are_read_and_the_default_is_the_least() {
        let folder = std::env::temp_dir().join(format!("tcp-sysctls-{}", std::process::id()));
        let ipv4 = folder.join("sys/net/ipv4");
        std::fs::create_dir_all(&ipv4).unwrap();
        assert_eq!(
            connect_window(&folder),
            Duration::from_secs(127) + SLACK,
            "an old kernel, nothing to read"
        );
        std::fs::write(ipv4.join("tcp_syn_retries"), "2\n").unwrap();
        std::fs::write(ipv4.join("tcp_syn_linear_timeouts"), "4\n").unwrap();
        assert_eq!(connect_window(&folder), Duration::from_secs(131) + SLACK);
        std::fs::write(ipv4.join("tcp_syn_retries"), "7\n").unwrap();
        assert_eq!(connect_window(&folder), Duration::from_secs(131 + 120) + SLACK);
        assert_eq!(reset_window(&folder), DEFAULT_RESET_WINDOW);
        let netfilter = folder.join("sys/net/netfilter");
        std::fs::create_dir_all(&netfilter).unwrap();
        std::fs::write(netfilter.join("nf_conntrack_tcp_timeout_syn_recv"), "60\n").unwrap();
        std::fs::write(netfilter.join("nf_conntrack_tcp_timeout_fin_wait"), "90\n").unwrap();
        assert_eq!(reset_window(&folder), Duration::from_secs(90));
        std::fs::remove_dir_all(&folder).unwrap();
    }
}
