//! What the kernel says of a conntrack table, and its settings.

use std::collections::BTreeMap;
use std::time::Instant;

use anyhow::{Context as _, ensure};

use super::command::output;
use super::netns::Netns;
use crate::daemon::DEADLINE;

const SYSCTLS: &str = "/proc/sys/net/netfilter";

/// Loads conntrack with what the tests need of it.
///
/// # Errors
/// When a module cannot be loaded.
pub(crate) fn load() -> anyhow::Result<()> {
    output("modprobe", &["-a", "nf_conntrack", "nf_conntrack_netlink"]).map(drop)
}

/// Sets a conntrack sysctl of a namespace, such as `udp_timeout` for `nf_conntrack_udp_timeout`.
///
/// # Errors
/// When the kernel has no such setting or refuses the value.
pub(crate) fn set(netns: &Netns, name: &str, value: u64) -> anyhow::Result<()> {
    let path = format!("{SYSCTLS}/nf_conntrack_{name}");
    netns.run(|| std::fs::write(&path, value.to_string()).with_context(|| format!("cannot set {path}")))
}

/// Sets the limit and the buckets, which all namespaces of a kernel share.
///
/// # Errors
/// When the kernel refuses.
pub(crate) fn set_size(max: u64, buckets: Option<u64>) -> anyhow::Result<()> {
    let host = Netns::host()?;
    if let Some(buckets) = buckets {
        set(&host, "buckets", buckets)?;
    }
    set(&host, "max", max)
}

/// Whether the running kernel is older than this version.
///
/// # Errors
/// When its release cannot be read or begins with no version.
pub(crate) fn older_than(major: u32, minor: u32) -> anyhow::Result<bool> {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease")?;
    let mut parts = release.split(|c: char| !c.is_ascii_digit()).map(str::parse::<u32>);
    let mut part = || parts.next().and_then(Result::ok).with_context(|| format!("no version: {release}"));
    Ok((part()?, part()?) < (major, minor))
}

/// Empties a namespace's table.
///
/// # Errors
/// When `conntrack` fails, or it does not become empty.
pub(crate) fn empty(netns: &Netns) -> anyhow::Result<()> {
    let deadline = Instant::now() + DEADLINE;
    while count(netns)? > 0 {
        ensure!(Instant::now() < deadline, "the table does not empty");
        netns.output("conntrack", &["-F"])?;
    }
    Ok(())
}

/// `nf_conntrack_count` of a namespace.
///
/// # Errors
/// When it cannot be read.
pub(crate) fn count(netns: &Netns) -> anyhow::Result<u64> {
    netns.run(own_count)
}

/// `nf_conntrack_count` of the calling thread's namespace.
///
/// # Errors
/// When it cannot be read.
pub(crate) fn own_count() -> anyhow::Result<u64> {
    let text = std::fs::read_to_string(format!("{SYSCTLS}/nf_conntrack_count"))?;
    Ok(text.trim().parse()?)
}

/// The statistics of a namespace's table as `conntrack -S` prints them, summed over CPUs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Statistics(BTreeMap<String, u64>);

impl Statistics {
    /// Reads them.
    ///
    /// # Errors
    /// When `conntrack -S` fails.
    pub(crate) fn read(netns: &Netns) -> anyhow::Result<Self> {
        Ok(Self::parse(&netns.output("conntrack", &["-S"])?))
    }

    fn parse(text: &str) -> Self {
        let mut sums = BTreeMap::new();
        for word in text.split_whitespace() {
            if let Some((name, value)) = word.split_once('=')
                && let Ok(value) = value.parse::<u64>()
                && name != "cpu"
            {
                *sums.entry(name.to_owned()).or_insert(0) += value;
            }
        }
        Self(sums)
    }

    /// One statistic.
    ///
    /// # Errors
    /// When this kernel does not have it.
    pub(crate) fn of(&self, name: &str) -> anyhow::Result<u64> {
        self.get(name).with_context(|| format!("this kernel has no conntrack statistic {name}"))
    }

    /// One statistic; None where the kernel does not have it.
    pub(crate) fn get(&self, name: &str) -> Option<u64> {
        self.0.get(name).copied()
    }

    /// What each rose by since `earlier`.
    pub(crate) fn since(&self, earlier: &Self) -> Self {
        let rise = |(name, now): (&String, &u64)| {
            (name.clone(), now.wrapping_sub(earlier.get(name).unwrap_or_default()))
        };
        Self(self.0.iter().map(rise).collect())
    }
}

/// The `drop` statistic of the table of the calling thread's namespace.
///
/// # Errors
/// When it cannot be read.
pub(crate) fn kernel_drops() -> anyhow::Result<u64> {
    Statistics::parse(&output("conntrack", &["-S"])?).of("drop")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statistics_are_summed_over_processors() {
        let text = "cpu=0   \tfound=1 insert=0 drop=3 early_drop=2 \ncpu=1   \tfound=4 insert=0 drop=5 early_drop=0 \n";
        let sums = Statistics::parse(text);
        assert_eq!((sums.of("drop").unwrap(), sums.of("early_drop").unwrap()), (8, 2));
        assert_eq!(sums.get("cpu"), None);
        assert!(sums.of("chaintoolong").is_err());
        let later = Statistics::parse("cpu=0 drop=9 early_drop=2");
        assert_eq!(later.since(&sums).of("drop").unwrap(), 1);
    }
}
