//! A table's entries, as `conntrack -L` lists them.

use std::net::IpAddr;

use super::netns::Netns;

/// Who made an entry, and who answers it: the sources of both directions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Ends {
    /// Source of the original direction.
    pub(crate) from: IpAddr,
    /// Source of the reply direction, after translation.
    pub(crate) answering: IpAddr,
}

/// The ends of every entry.
///
/// # Errors
/// When `conntrack` fails.
pub(crate) fn list(netns: &Netns) -> anyhow::Result<Vec<Ends>> {
    let mut all = Vec::new();
    for family in ["ipv4", "ipv6"] {
        all.extend(netns.output("conntrack", &["-L", "-f", family])?.lines().filter_map(parse));
    }
    Ok(all)
}

fn parse(line: &str) -> Option<Ends> {
    let mut sources = line.split_whitespace().filter_map(|word| word.strip_prefix("src=")?.parse().ok());
    Some(Ends { from: sources.next()?, answering: sources.next()? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_sources_are_read() {
        let line = "udp      17 29 src=10.0.0.1 dst=10.96.0.1 sport=1 dport=2 [UNREPLIED] src=10.0.0.2 dst=10.0.0.1 \
                    sport=2 dport=1 mark=0 use=1";
        let ends = parse(line).unwrap();
        assert_eq!(
            (ends.from.to_string(), ends.answering.to_string()),
            ("10.0.0.1".into(), "10.0.0.2".into())
        );
        assert_eq!(parse("conntrack v1.4.7 (conntrack-tools): 2 flow entries have been shown."), None);
    }
}
