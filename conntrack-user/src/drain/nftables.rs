//! What the ruleset of the current namespace does to connection tracking, without `nft`.
//!
//! Asking loads nf_tables: look whether it is there first ([`super::surroundings`] does).

use std::collections::BTreeSet;

use super::netlink::{Connection, Error, Message, NLM_F_DUMP};
use super::nft_invalid::Drops;
use super::nlattr::{Attributes, be32, string};

const NETLINK_NETFILTER: isize = 12;
const NFNL_SUBSYS_NFTABLES: u16 = 10;
const NFT_MSG_NEWCHAIN: u16 = 3;
const NFT_MSG_GETCHAIN: u16 = 4;
const NFT_MSG_NEWRULE: u16 = 6;
const NFT_MSG_GETRULE: u16 = 7;
const NFT_MSG_NEWFLOWTABLE: u16 = 22;
const NFT_MSG_GETFLOWTABLE: u16 = 23;

/// `struct nfgenmsg`: all families.
const ALL_FAMILIES: [u8; 4] = [0; 4];

const NFTA_RULE_TABLE: u16 = 1;
const NFTA_RULE_CHAIN: u16 = 2;
const NFTA_RULE_EXPRESSIONS: u16 = 4;
const NFTA_EXPR_NAME: u16 = 1;
const NFTA_EXPR_DATA: u16 = 2;
const NFTA_CT_KEY: u16 = 2;
const NFTA_CT_SREG: u16 = 4;
const NFT_CT_ZONE: u32 = 17;
const NFTA_TARGET_NAME: u16 = 1;
const NFTA_TARGET_INFO: u16 = 3;
/// In `struct xt_ct_target_info.flags`.
const XT_CT_NOTRACK: u16 = 1;
const XT_CT_ZONE_MARK: u16 = 1 << 4;
const NFTA_FLOWTABLE_TABLE: u16 = 1;
const NFTA_FLOWTABLE_NAME: u16 = 2;
const NFTA_FLOWTABLE_FLAGS: u16 = 7;
const NFT_FLOWTABLE_HW_OFFLOAD: u32 = 1;

/// A ruleset that changes while it is read is read anew, so often.
const TRIES: usize = 3;

/// What was found. Places are written as `nft` writes them: "inet filter prerouting".
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ruleset {
    /// Chains with a rule that exempts packets from tracking.
    pub notrack: BTreeSet<String>,
    /// Chains with a rule that puts connections into a zone.
    pub zones: BTreeSet<String>,
    /// Flow tables.
    pub flowtables: BTreeSet<String>,
    /// Is one of them put into hardware?
    pub hardware: bool,
    /// Are there rules of kube-proxy's?
    pub kube_proxy: bool,
    /// Where INVALID packets are dropped.
    pub drops_invalid: Drops,
}

/// The ruleset of the current namespace. `iptables-nft`'s rules are among it, those of the older
/// `iptables-legacy` are not.
///
/// # Errors
/// Any [`Error`].
pub fn read() -> Result<Ruleset, Error> {
    let mut connection = Connection::open(NETLINK_NETFILTER)?;
    let mut tries = 0;
    loop {
        tries += 1;
        let mut found = Ruleset::default();
        let mut interrupted = false;
        for (question, answer) in [
            (NFT_MSG_GETCHAIN, NFT_MSG_NEWCHAIN),
            (NFT_MSG_GETRULE, NFT_MSG_NEWRULE),
            (NFT_MSG_GETFLOWTABLE, NFT_MSG_NEWFLOWTABLE),
        ] {
            let kind = NFNL_SUBSYS_NFTABLES << 8;
            let asked = connection.ask(kind | question, NLM_F_DUMP, &ALL_FAMILIES, |message| {
                if message.kind == kind | answer {
                    found.enter(answer, message)?;
                }
                Ok(())
            });
            interrupted |= asked?.interrupted;
        }
        if !interrupted {
            return Ok(found);
        }
        if tries == TRIES {
            return Err(Error::Overtaken);
        }
    }
}

impl Ruleset {
    fn enter(&mut self, answer: u16, message: Message<'_>) -> Result<(), Error> {
        let malformed = || Error::Malformed("a message of nftables");
        let (&family, attributes) = message.payload.split_first().ok_or_else(malformed)?;
        let attributes = Attributes::new(attributes.get(3..).ok_or_else(malformed)?);
        let name = |kind| attributes.find(kind).and_then(string).unwrap_or("?");
        if answer == NFT_MSG_NEWFLOWTABLE {
            let flags = attributes.find(NFTA_FLOWTABLE_FLAGS).and_then(be32);
            self.hardware |= flags.is_some_and(|flags| flags & NFT_FLOWTABLE_HW_OFFLOAD != 0);
            self.flowtables.insert(place(family, name(NFTA_FLOWTABLE_TABLE), name(NFTA_FLOWTABLE_NAME)));
            return Ok(());
        }
        if answer == NFT_MSG_NEWCHAIN {
            self.drops_invalid.chain(family, attributes);
            return Ok(());
        }
        let (table, chain) = (name(NFTA_RULE_TABLE), name(NFTA_RULE_CHAIN));
        // In nftables mode the table is kube-proxy's own, else its chains are.
        self.kube_proxy |= table == "kube-proxy" || chain == "KUBE-SERVICES";
        let Some(expressions) = attributes.find(NFTA_RULE_EXPRESSIONS) else { return Ok(()) };
        self.drops_invalid.rule(family, table, chain, expressions);
        for (_, expression) in Attributes::new(expressions) {
            let (notrack, zone) = tracking(Attributes::new(expression));
            if notrack {
                self.notrack.insert(place(family, table, chain));
            }
            if zone {
                self.zones.insert(place(family, table, chain));
            }
        }
        Ok(())
    }
}

/// Does the expression exempt from tracking; does it set a zone?
fn tracking(expression: Attributes<'_>) -> (bool, bool) {
    let nothing = (false, false);
    let Some(name) = expression.find(NFTA_EXPR_NAME).and_then(string) else { return nothing };
    if name == "notrack" {
        return (true, false);
    }
    let Some(data) = expression.find(NFTA_EXPR_DATA).map(Attributes::new) else { return nothing };
    match name {
        "ct" => {
            let sets = data.find(NFTA_CT_SREG).is_some();
            (false, sets && data.find(NFTA_CT_KEY).and_then(be32) == Some(NFT_CT_ZONE))
        }
        // An iptables target, by way of iptables-nft.
        "target" => match data.find(NFTA_TARGET_NAME).and_then(string) {
            Some("NOTRACK") => (true, false),
            Some("CT") => data.find(NFTA_TARGET_INFO).map_or(nothing, ct_target),
            _ => nothing,
        },
        _ => nothing,
    }
}

/// The head of `struct xt_ct_target_info`: flags and zone.
fn ct_target(info: &[u8]) -> (bool, bool) {
    let Some(&[a, b, c, d]) = info.first_chunk::<4>() else { return (false, false) };
    let (flags, zone) = (u16::from_ne_bytes([a, b]), u16::from_ne_bytes([c, d]));
    (flags & XT_CT_NOTRACK != 0, zone != 0 || flags & XT_CT_ZONE_MARK != 0)
}

/// A chain or flow table, as `nft` writes it.
pub(super) fn place(family: u8, table: &str, of: &str) -> String {
    let family = match family {
        1 => "inet",
        2 => "ip",
        3 => "arp",
        5 => "netdev",
        7 => "bridge",
        10 => "ip6",
        _ => "?",
    };
    format!("{family} {table} {of}")
}

#[cfg(test)]
mod tests {
    use super::super::nlattr::build::{nest, put};
    use super::*;

    const NFTA_LIST_ELEM: u16 = 1;

    fn rule(family: u8, chain: &str, expressions: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
        let mut payload = vec![family, 0, 0, 0];
        put(&mut payload, NFTA_RULE_TABLE, b"raw\0");
        put(&mut payload, NFTA_RULE_CHAIN, format!("{chain}\0").as_bytes());
        nest(&mut payload, NFTA_RULE_EXPRESSIONS, expressions);
        payload
    }

    fn expression(out: &mut Vec<u8>, name: &str, data: impl FnOnce(&mut Vec<u8>)) {
        nest(out, NFTA_LIST_ELEM, |e| {
            put(e, NFTA_EXPR_NAME, format!("{name}\0").as_bytes());
            nest(e, NFTA_EXPR_DATA, data);
        });
    }

    fn ct_target_rule(flags: u16, zone: u16) -> Vec<u8> {
        rule(2, "PREROUTING", |out| {
            expression(out, "target", |data| {
                put(data, NFTA_TARGET_NAME, b"CT\0");
                let mut info = flags.to_ne_bytes().to_vec();
                info.extend(zone.to_ne_bytes());
                info.extend([0; 40]);
                put(data, NFTA_TARGET_INFO, &info);
            });
        })
    }

    fn read(payload: &[u8]) -> Ruleset {
        let mut found = Ruleset::default();
        found.enter(NFT_MSG_NEWRULE, Message { kind: 0, flags: 0, sequence: 0, payload }).unwrap();
        found
    }

    #[test]
    fn notrack_in_both_spellings() {
        let native = read(&rule(1, "pre", |out| {
            expression(out, "meta", |_| {});
            expression(out, "notrack", |_| {});
        }));
        assert_eq!(native.notrack, BTreeSet::from(["inet raw pre".to_owned()]));
        assert!(native.zones.is_empty() && !native.kube_proxy);
        let iptables = read(&ct_target_rule(XT_CT_NOTRACK, 0));
        assert_eq!(iptables.notrack, BTreeSet::from(["ip raw PREROUTING".to_owned()]));
        assert_eq!(read(&ct_target_rule(0, 0)), Ruleset::default(), "a helper, say");
    }

    #[test]
    fn a_zone_that_is_set_and_not_one_that_is_read() {
        let ct = |attribute| {
            read(&rule(1, "pre", |out| {
                expression(out, "ct", |data| {
                    put(data, NFTA_CT_KEY, &NFT_CT_ZONE.to_be_bytes());
                    put(data, attribute, &8_u32.to_be_bytes());
                });
            }))
        };
        assert_eq!(ct(NFTA_CT_SREG).zones.len(), 1);
        assert!(ct(1).zones.is_empty(), "ct zone into a register");
        assert_eq!(read(&ct_target_rule(0, 5)).zones.len(), 1);
        assert_eq!(read(&ct_target_rule(XT_CT_ZONE_MARK, 0)).zones.len(), 1);
    }

    #[test]
    fn kube_proxy_and_flow_tables() {
        assert!(read(&rule(2, "KUBE-SERVICES", |_| {})).kube_proxy);
        let mut payload = vec![1, 0, 0, 0];
        put(&mut payload, NFTA_FLOWTABLE_TABLE, b"fw\0");
        put(&mut payload, NFTA_FLOWTABLE_NAME, b"ft\0");
        let mut found = Ruleset::default();
        let enter = |found: &mut Ruleset, payload: &[u8]| {
            let message = Message { kind: 0, flags: 0, sequence: 0, payload };
            found.enter(NFT_MSG_NEWFLOWTABLE, message).unwrap();
        };
        enter(&mut found, &payload);
        assert_eq!((found.hardware, found.flowtables.first().unwrap().as_str()), (false, "inet fw ft"));
        put(&mut payload, NFTA_FLOWTABLE_FLAGS, &1_u32.to_be_bytes());
        enter(&mut found, &payload);
        assert!(found.hardware);
        let cut = Message { kind: 0, flags: 0, sequence: 0, payload: &[1, 0] };
        assert!(found.enter(NFT_MSG_NEWRULE, cut).is_err());
    }
}
