//! What is not covered, as time goes on.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use super::gaps::{Gap, GapState, NOT_LOADED, gaps};
use super::snapshot::ProbeState;
use crate::config::System;
use crate::drain::netns::Scan;
use crate::drain::surroundings::Surroundings;

/// Between two looks: rulesets can be long.
const LOOK_AGAIN: Duration = Duration::from_secs(60);

/// Looks around now and then.
#[derive(Debug, Default)]
pub struct Watch {
    last: Option<(Instant, Surroundings)>,
    told: BTreeSet<&'static str>,
}

impl Watch {
    /// The gaps of now. The surroundings are looked at anew each minute, and when conntrack comes or goes.
    pub fn gaps(
        &mut self,
        system: &System,
        scan: &Scan,
        conntrack_loaded: bool,
        probes: &[ProbeState],
    ) -> Vec<Gap> {
        let last = self
            .last
            .take()
            .filter(|(at, seen)| at.elapsed() < LOOK_AGAIN && seen.conntrack_loaded == conntrack_loaded);
        let (at, seen) = last.unwrap_or_else(|| (Instant::now(), Surroundings::read(system, scan)));
        let found = gaps(&seen, probes);
        self.last = Some((at, seen));
        found
    }

    /// Those that are to be told: each kind once. That conntrack is not loaded is no news: the daemon says it itself.
    pub fn news(&mut self, gaps: &[Gap]) -> Vec<Gap> {
        let present = gaps.iter().filter(|g| g.state == GapState::Present && g.kind != NOT_LOADED);
        present.filter(|gap| self.told.insert(gap.kind)).cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gap_is_news_once() {
        let gap = |kind, state| Gap { kind, state, found: None, advice: None };
        let kinds = |gaps: Vec<Gap>| gaps.into_iter().map(|gap| gap.kind).collect::<Vec<_>>();
        let mut watch = Watch::default();
        let before = [
            gap("ipvs", GapState::Present),
            gap("zones", GapState::Unknown),
            gap("cilium", GapState::Absent),
        ];
        assert_eq!(kinds(watch.news(&before)), ["ipvs"]);
        assert!(watch.news(&[gap(NOT_LOADED, GapState::Present)]).is_empty());
        let after = [gap("ipvs", GapState::Present), gap("zones", GapState::Present)];
        assert_eq!(kinds(watch.news(&after)), ["zones"]);
    }
}
