//! Is this node protected from resets by INVALID packets (kubernetes 74839, 117924)?
//!
//! A packet out of window is INVALID and passes untranslated; who gets it knows of no such connection and resets it.

use super::doctor_text::Note;
use crate::drain::nft_invalid::Dropped;
use crate::drain::surroundings::Surroundings;

/// The finding of `doctor`; None: conntrack is not loaded.
#[must_use]
pub fn note(around: &Surroundings) -> Option<Note> {
    if !around.conntrack_loaded {
        return None;
    }
    let note = |found: String, advice: Option<&str>| {
        Some(Note { topic: "invalid", found, advice: advice.map(str::to_owned) })
    };
    if around.be_liberal == Some(true) {
        let found = "protected from resets by INVALID packets: nf_conntrack_tcp_be_liberal is 1";
        return note(found.to_owned(), None);
    }
    let host = around.rulesets.iter().find(|namespace| namespace.host).map(|namespace| &namespace.rules);
    // No nf_tables: no rule of it.
    let dropped = host.map_or(Ok(Dropped::Nowhere), |rules| {
        rules.as_ref().map(|rules| rules.drops_invalid.on_the_way_through())
    });
    const DO: &str = "drop them by rule where packets are forwarded (`ct state invalid drop`; kube-proxy does unless its \
                      conntrack.tcpBeLiberal is set), or set nf_conntrack_tcp_be_liberal=1";
    const LOOK: &str = "`nft list ruleset` and `iptables-save` show whether a rule drops them in forwarding";
    match dropped {
        Ok(Dropped::In(chain)) => {
            note(format!("protected from resets by INVALID packets: a rule in `{chain}` drops them"), None)
        }
        Ok(Dropped::Perhaps(chain)) => note(
            format!("whether INVALID packets are dropped cannot be told: `{chain}` decides by a map over `ct state`"),
            Some(LOOK),
        ),
        Ok(Dropped::Nowhere) if around.legacy_filter != Some(false) => note(
            "whether INVALID packets are dropped cannot be told: the rules of iptables-legacy are not read".to_owned(),
            Some(LOOK),
        ),
        Ok(Dropped::Nowhere) => note(
            "not protected from resets by INVALID packets: a packet out of window passes untranslated, and who gets it \
             resets the connection (kubernetes 74839)"
                .to_owned(),
            Some(DO),
        ),
        Err(why) => note(
            format!("whether INVALID packets are dropped cannot be told: the rules could not be read: {why}"),
            Some(LOOK),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::drain::nftables::Ruleset;
    use crate::drain::surroundings::NamespaceRules;

    fn around() -> Surroundings {
        let rules = Ok(Ruleset::default());
        Surroundings {
            conntrack_loaded: true,
            be_liberal: Some(false),
            legacy_filter: Some(false),
            rulesets: vec![NamespaceRules { netns: 1, host: true, rules }],
            ..Surroundings::default()
        }
    }

    fn found(around: &Surroundings) -> String {
        note(around).unwrap().found
    }

    #[test]
    fn each_answer_is_its_own() {
        assert!(found(&around()).starts_with("not protected"));
        let without = Surroundings { rulesets: Vec::new(), ..around() };
        assert!(found(&without).starts_with("not protected"), "there is no nf_tables");
        let liberal = Surroundings { be_liberal: Some(true), ..around() };
        assert!(found(&liberal).starts_with("protected"));
        let legacy = Surroundings { legacy_filter: Some(true), ..around() };
        assert!(found(&legacy).contains("iptables-legacy"));
        let mut unread = around();
        unread.rulesets[0].rules = Err("EPERM".to_owned());
        assert!(found(&unread).contains("EPERM"));
        assert_eq!(note(&Surroundings::default()), None);
    }

    #[test]
    fn who_is_not_protected_is_told_what_to_do() {
        assert!(note(&around()).unwrap().advice.unwrap().contains("ct state invalid drop"));
    }
}
