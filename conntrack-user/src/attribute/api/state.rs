//! How it stands with the API server.

use std::time::{Duration, Instant};

use super::failure::{Failure, FailureKind};

/// How it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// Nobody is asked, for this reason.
    Disabled(String),
    /// The first list has not come yet; with what went wrong last.
    Connecting(Option<String>),
    /// The directory is as the API server has it.
    Synced,
    /// The directory is as the API server had it when it was last heard.
    Stale {
        /// When it was last heard.
        since: Instant,
        /// What went wrong last.
        error: String,
    },
    /// No rights. What was known before they went stays known.
    Forbidden {
        /// When it was last heard; None: never.
        since: Option<Instant>,
        /// What it said.
        error: String,
    },
}

impl State {
    /// After a failure; `heard`: when the server last told something that held.
    #[must_use]
    pub fn failed(failure: &Failure, heard: Option<Instant>) -> Self {
        let error = failure.text.clone();
        match (failure.kind, heard) {
            (FailureKind::Forbidden, since) => Self::Forbidden { since, error },
            (_, Some(since)) => Self::Stale { since, error },
            (_, None) => Self::Connecting(Some(error)),
        }
    }

    /// In a word, as the JSON of `snapshot` and `doctor` has it.
    #[must_use]
    pub fn word(&self) -> &'static str {
        match self {
            Self::Disabled(_) => "disabled",
            Self::Connecting(_) => "connecting",
            Self::Synced => "synced",
            Self::Stale { .. } => "stale",
            Self::Forbidden { .. } => "forbidden",
        }
    }

    /// Did the last reading succeed? None: nobody is asked, or there was no answer yet.
    #[must_use]
    pub fn success(&self) -> Option<bool> {
        match self {
            Self::Disabled(_) | Self::Connecting(None) => None,
            Self::Synced => Some(true),
            Self::Connecting(Some(_)) | Self::Stale { .. } | Self::Forbidden { .. } => Some(false),
        }
    }

    /// Why it is not as it should be. None: it is.
    #[must_use]
    pub fn reason(&self) -> Option<&str> {
        match self {
            Self::Disabled(reason) => Some(reason),
            Self::Connecting(error) => error.as_deref(),
            Self::Synced => None,
            Self::Stale { error, .. } | Self::Forbidden { error, .. } => Some(error),
        }
    }

    /// For how long the directory has not been known to be true. None: it is, or it never was.
    #[must_use]
    pub fn stale_for(&self, now: Instant) -> Option<Duration> {
        match self {
            Self::Stale { since, .. } | Self::Forbidden { since: Some(since), .. } => {
                Some(now.saturating_duration_since(*since))
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_failure_makes_of_it() {
        let now = Instant::now();
        let refused = Failure::other("refused");
        let forbidden = Failure::status("pods", 403, "", None);
        assert_eq!(State::failed(&refused, None), State::Connecting(Some("refused".into())));
        let stale = State::failed(&refused, Some(now));
        assert_eq!((stale.word(), stale.success(), stale.reason()), ("stale", Some(false), Some("refused")));
        assert_eq!(stale.stale_for(now + Duration::from_secs(3)), Some(Duration::from_secs(3)));
        let state = State::failed(&forbidden, None);
        assert_eq!((state.word(), state.stale_for(now)), ("forbidden", None));
        assert!(State::failed(&forbidden, Some(now)).stale_for(now).is_some());
    }

    #[test]
    fn nothing_is_said_of_what_was_not_asked() {
        assert_eq!(State::Disabled("off".into()).success(), None);
        assert_eq!(State::Connecting(None).success(), None);
        assert_eq!(State::Synced.success(), Some(true));
    }
}
