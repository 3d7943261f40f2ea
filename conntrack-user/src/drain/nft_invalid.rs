//! Which rules of nftables drop INVALID packets on their way through: in chains hooked where forwarded packets pass, or
//! that such chains jump to.

use std::collections::{BTreeMap, BTreeSet};

use super::nlattr::{Attributes, be32, string};

const NFTA_CHAIN_TABLE: u16 = 1;
const NFTA_CHAIN_NAME: u16 = 3;
const NFTA_CHAIN_HOOK: u16 = 4;
const NFTA_HOOK_HOOKNUM: u16 = 1;
/// `NF_INET_PRE_ROUTING`, `NF_INET_FORWARD`, `NF_INET_POST_ROUTING`.
const ON_THE_WAY_THROUGH: [u32; 3] = [0, 2, 4];

const NFTA_EXPR_NAME: u16 = 1;
const NFTA_EXPR_DATA: u16 = 2;
const NFTA_CT_DREG: u16 = 1;
const NFTA_CT_KEY: u16 = 2;
const NFT_CT_STATE: u32 = 0;
const NFTA_BITWISE_MASK: u16 = 4;
const NFTA_DATA_VALUE: u16 = 1;
const NFTA_IMMEDIATE_DATA: u16 = 2;
const NFTA_DATA_VERDICT: u16 = 2;
const NFTA_VERDICT_CODE: u16 = 1;
const NFTA_VERDICT_CHAIN: u16 = 2;
const NF_DROP: u32 = 0;
const NFTA_MATCH_NAME: u16 = 1;
const NFTA_MATCH_INFO: u16 = 3;
/// `NF_CT_STATE_INVALID_BIT`, and `XT_CONNTRACK_STATE_INVALID`, which is the same.
const INVALID: u32 = 1;
/// Of `struct xt_conntrack_mtinfo3`: `match_flags`, `invert_flags`, `state_mask`.
const MTINFO_FLAGS: std::ops::Range<usize> = 146..152;
/// `XT_CONNTRACK_STATE`.
const XT_CONNTRACK_STATE: u16 = 1;

/// (family, table, chain).
type Chain = (u8, String, String);

/// What was read of chains and rules.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Drops {
    /// Chains that are hooked on the way through.
    hooked: BTreeSet<Chain>,
    /// Chain → those it jumps or goes to.
    leads: BTreeMap<Chain, BTreeSet<Chain>>,
    /// Chains with a rule that drops what is INVALID.
    drops: BTreeSet<Chain>,
    /// Chains with a rule that decides by a map over the state, whose elements are not read.
    maps: BTreeSet<Chain>,
}

/// Are INVALID packets dropped on their way through?
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Dropped {
    /// In this chain, as `nft` writes it.
    In(String),
    /// Perhaps: this chain decides by a map over the state, which is not read.
    Perhaps(String),
    /// By no rule.
    Nowhere,
}

impl Drops {
    /// Enters a chain.
    pub(super) fn chain(&mut self, family: u8, attributes: Attributes<'_>) {
        let name = |kind| attributes.find(kind).and_then(string).unwrap_or("?").to_owned();
        let hook = attributes.find(NFTA_CHAIN_HOOK).map(Attributes::new);
        let number = hook.and_then(|hook| hook.find(NFTA_HOOK_HOOKNUM)).and_then(be32);
        if number.is_some_and(|number| ON_THE_WAY_THROUGH.contains(&number)) {
            self.hooked.insert((family, name(NFTA_CHAIN_TABLE), name(NFTA_CHAIN_NAME)));
        }
    }

    /// Enters a rule of a chain, given its list of expressions.
    pub(super) fn rule(&mut self, family: u8, table: &str, chain: &str, expressions: &[u8]) {
        let here = (family, table.to_owned(), chain.to_owned());
        let (mut state, mut invalid) = (false, false);
        for (_, expression) in Attributes::new(expressions) {
            let expression = Attributes::new(expression);
            let Some(name) = expression.find(NFTA_EXPR_NAME).and_then(string) else { continue };
            let Some(data) = expression.find(NFTA_EXPR_DATA).map(Attributes::new) else { continue };
            match name {
                "ct" => {
                    state = data.find(NFTA_CT_DREG).is_some()
                        && data.find(NFTA_CT_KEY).and_then(be32) == Some(NFT_CT_STATE);
                }
                "bitwise" if state => invalid |= mask(data).is_some_and(|mask| mask & INVALID != 0),
                "lookup" if state => _ = self.maps.insert(here.clone()),
                "match" => invalid |= matches_invalid(data),
                "immediate" => match verdict(data) {
                    Some((NF_DROP, _)) if invalid => _ = self.drops.insert(here.clone()),
                    Some((_, Some(to))) => {
                        let to = (family, table.to_owned(), to.to_owned());
                        self.leads.entry(here.clone()).or_default().insert(to);
                    }
                    _ => {}
                },
                _ => {}
            }
        }
    }

    /// What follows from all of it.
    #[must_use]
    pub fn on_the_way_through(&self) -> Dropped {
        let mut reached = self.hooked.clone();
        let mut open: Vec<Chain> = reached.iter().cloned().collect();
        while let Some(chain) = open.pop() {
            for next in self.leads.get(&chain).into_iter().flatten() {
                if reached.insert(next.clone()) {
                    open.push(next.clone());
                }
            }
        }
        let place = |(family, table, chain): &Chain| super::nftables::place(*family, table, chain);
        let first = |of: &BTreeSet<Chain>| of.intersection(&reached).next().map(place);
        match (first(&self.drops), first(&self.maps)) {
            (Some(chain), _) => Dropped::In(chain),
            (None, Some(chain)) => Dropped::Perhaps(chain),
            (None, None) => Dropped::Nowhere,
        }
    }
}

/// The mask of a bitwise expression. Registers hold the state in host order.
fn mask(data: Attributes<'_>) -> Option<u32> {
    let value = Attributes::new(data.find(NFTA_BITWISE_MASK)?).find(NFTA_DATA_VALUE)?;
    Some(u32::from_ne_bytes(*value.first_chunk()?))
}

/// An iptables match, by way of iptables-nft.
fn matches_invalid(data: Attributes<'_>) -> bool {
    let (Some(name), Some(info)) = (data.find(NFTA_MATCH_NAME).and_then(string), data.find(NFTA_MATCH_INFO))
    else {
        return false;
    };
    match name {
        "state" => info.first_chunk().is_some_and(|mask| u32::from_ne_bytes(*mask) & INVALID != 0),
        "conntrack" => info.get(MTINFO_FLAGS).is_some_and(|flags| {
            let word = |n: usize| u16::from_ne_bytes([flags[2 * n], flags[2 * n + 1]]);
            word(0) & XT_CONNTRACK_STATE != 0
                && word(1) & XT_CONNTRACK_STATE == 0
                && u32::from(word(2)) & INVALID != 0
        }),
        _ => false,
    }
}

/// Verdict, and the chain it leads to.
fn verdict(data: Attributes<'_>) -> Option<(u32, Option<&str>)> {
    let value = Attributes::new(data.find(NFTA_IMMEDIATE_DATA)?);
    let verdict = Attributes::new(value.find(NFTA_DATA_VERDICT)?);
    Some((verdict.find(NFTA_VERDICT_CODE).and_then(be32)?, verdict.find(NFTA_VERDICT_CHAIN).and_then(string)))
}

#[cfg(test)]
mod tests {
    use super::super::nlattr::build::{nest, put};
    use super::*;

    const INET: u8 = 1;
    const NFT_JUMP: u32 = u32::MAX - 2;
    const NFTA_LIST_ELEM: u16 = 1;

    fn hooked(drops: &mut Drops, chain: &str, hook: u32) {
        let mut payload = Vec::new();
        put(&mut payload, NFTA_CHAIN_TABLE, b"fw\0");
        put(&mut payload, NFTA_CHAIN_NAME, format!("{chain}\0").as_bytes());
        nest(&mut payload, NFTA_CHAIN_HOOK, |out| put(out, NFTA_HOOK_HOOKNUM, &hook.to_be_bytes()));
        drops.chain(INET, Attributes::new(&payload));
    }

    fn expression(out: &mut Vec<u8>, name: &str, data: impl FnOnce(&mut Vec<u8>)) {
        nest(out, NFTA_LIST_ELEM, |e| {
            put(e, NFTA_EXPR_NAME, format!("{name}\0").as_bytes());
            nest(e, NFTA_EXPR_DATA, data);
        });
    }

    fn state(out: &mut Vec<u8>) {
        expression(out, "ct", |data| {
            put(data, NFTA_CT_KEY, &NFT_CT_STATE.to_be_bytes());
            put(data, NFTA_CT_DREG, &1_u32.to_be_bytes());
        });
    }

    fn bits(out: &mut Vec<u8>, bits: u32) {
        state(out);
        expression(out, "bitwise", |data| {
            nest(data, NFTA_BITWISE_MASK, |mask| put(mask, NFTA_DATA_VALUE, &bits.to_ne_bytes()));
        });
    }

    fn ends(out: &mut Vec<u8>, code: u32, chain: Option<&str>) {
        expression(out, "immediate", |data| {
            nest(data, NFTA_IMMEDIATE_DATA, |value| {
                nest(value, NFTA_DATA_VERDICT, |verdict| {
                    put(verdict, NFTA_VERDICT_CODE, &code.to_be_bytes());
                    if let Some(chain) = chain {
                        put(verdict, NFTA_VERDICT_CHAIN, format!("{chain}\0").as_bytes());
                    }
                });
            });
        });
    }

    fn rule(drops: &mut Drops, chain: &str, write: impl FnOnce(&mut Vec<u8>)) {
        let mut expressions = Vec::new();
        write(&mut expressions);
        drops.rule(INET, "fw", chain, &expressions);
    }

    fn drop_invalid(out: &mut Vec<u8>) {
        bits(out, INVALID);
        ends(out, NF_DROP, None);
    }

    #[test]
    fn a_rule_counts_where_forwarded_packets_pass() {
        for (hook, dropped) in [(2, Dropped::In("inet fw chain".to_owned())), (1, Dropped::Nowhere)] {
            let mut drops = Drops::default();
            hooked(&mut drops, "chain", hook);
            rule(&mut drops, "chain", drop_invalid);
            assert_eq!(drops.on_the_way_through(), dropped, "hook {hook}");
        }
    }

    #[test]
    fn it_counts_in_a_chain_that_one_leads_to_by_way_of_others() {
        let mut drops = Drops::default();
        rule(&mut drops, "KUBE-FORWARD", drop_invalid);
        assert_eq!(drops.on_the_way_through(), Dropped::Nowhere, "nothing leads there");
        hooked(&mut drops, "FORWARD", 2);
        rule(&mut drops, "FORWARD", |out| ends(out, NFT_JUMP, Some("between")));
        rule(&mut drops, "between", |out| ends(out, NFT_JUMP, Some("KUBE-FORWARD")));
        rule(&mut drops, "between", |out| ends(out, NFT_JUMP, Some("FORWARD")));
        assert_eq!(drops.on_the_way_through(), Dropped::In("inet fw KUBE-FORWARD".to_owned()));
    }

    #[test]
    fn other_states_and_other_verdicts_do_not_count() {
        let mut drops = Drops::default();
        hooked(&mut drops, "FORWARD", 2);
        rule(&mut drops, "FORWARD", |out| {
            bits(out, 8);
            ends(out, NF_DROP, None);
        });
        rule(&mut drops, "FORWARD", |out| {
            bits(out, INVALID);
            ends(out, 1, None);
        });
        rule(&mut drops, "FORWARD", |out| ends(out, NF_DROP, None));
        assert_eq!(drops.on_the_way_through(), Dropped::Nowhere);
    }

    #[test]
    fn what_a_map_decides_is_not_known() {
        let mut drops = Drops::default();
        hooked(&mut drops, "FORWARD", 2);
        rule(&mut drops, "FORWARD", |out| {
            state(out);
            expression(out, "lookup", |_| {});
        });
        assert_eq!(drops.on_the_way_through(), Dropped::Perhaps("inet fw FORWARD".to_owned()));
    }

    #[test]
    fn iptables_matches() {
        let by_match = |name: &str, info: &[u8]| {
            let mut drops = Drops::default();
            hooked(&mut drops, "FORWARD", 2);
            rule(&mut drops, "FORWARD", |out| {
                expression(out, "match", |data| {
                    put(data, NFTA_MATCH_NAME, format!("{name}\0").as_bytes());
                    put(data, NFTA_MATCH_INFO, info);
                });
                ends(out, NF_DROP, None);
            });
            drops.on_the_way_through() != Dropped::Nowhere
        };
        let mtinfo = |words: [u16; 3]| {
            let mut info = vec![0; 160];
            for (n, word) in words.into_iter().enumerate() {
                info[MTINFO_FLAGS][2 * n..2 * n + 2].copy_from_slice(&word.to_ne_bytes());
            }
            info
        };
        assert!(by_match("conntrack", &mtinfo([1, 0, 1])));
        assert!(!by_match("conntrack", &mtinfo([1, 1, 1])), "all but INVALID");
        assert!(!by_match("conntrack", &mtinfo([2, 0, 1])), "not by state");
        assert!(by_match("state", &1_u32.to_ne_bytes()) && !by_match("state", &2_u32.to_ne_bytes()));
        assert!(!by_match("conntrack", &[0; 20]) && !by_match("limit", &mtinfo([1, 0, 1])));
    }
}
