//! What went wrong, in one line that says what to do.

use std::error::Error;
use std::time::Duration;

/// Longer lines are cut.
const LONGEST: usize = 240;

/// A failure of one attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// Of what kind.
    pub kind: FailureKind,
    /// In one line.
    pub text: String,
    /// How long the server asks to be left alone.
    pub pause: Option<Duration>,
}

/// What a failure means for what comes next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FailureKind {
    /// No rights.
    Forbidden,
    /// What was to go on from is no longer kept: make a new list.
    Gone,
    /// An answer is larger than what is taken: ask for less at a time.
    TooLarge,
    /// Any other: try again later.
    Other,
}

impl Failure {
    /// Of no special kind.
    #[must_use]
    pub fn other(text: &str) -> Self {
        Self { kind: FailureKind::Other, text: one_line(text), pause: None }
    }

    /// What an error says, and what caused it.
    #[must_use]
    pub fn of(what: &str, error: &(dyn Error + 'static)) -> Self {
        let mut text = what.to_owned();
        let mut next = Some(error);
        while let Some(error) = next {
            let said = error.to_string();
            // Many errors repeat what caused them.
            if !text.contains(&said) {
                text = format!("{text}: {said}");
            }
            next = error.source();
        }
        Self::other(&text)
    }

    /// An answer that cannot be read.
    #[must_use]
    pub fn nonsense(why: &str) -> Self {
        Self::other(&format!("the API server's answer makes no sense: {why}"))
    }

    /// An answer that is larger than what is taken.
    #[must_use]
    pub fn too_large(limit: usize) -> Self {
        let text = format!("the API server's answer is larger than {} MiB", limit >> 20);
        Self { kind: FailureKind::TooLarge, ..Self::other(&text) }
    }

    /// An answer with this status instead of 200, when asked for objects of this kind.
    #[must_use]
    pub fn status(what: &str, code: u16, message: &str, pause: Option<Duration>) -> Self {
        let message = message.trim();
        let said = if message.is_empty() { String::new() } else { format!(": {message:.160}") };
        let (kind, text) = match code {
            401 => (
                FailureKind::Other,
                format!("the API server does not know us (401){said}; look at the token or the kubeconfig"),
            ),
            403 => (
                FailureKind::Forbidden,
                format!(
                    "no right to list and watch {what} (403){said}; apply the ClusterRole of deploy/rbac.yaml"
                ),
            ),
            410 => (FailureKind::Gone, format!("the API server no longer keeps what we had (410){said}")),
            429 => (FailureKind::Other, format!("the API server is too busy (429){said}")),
            // What an API server says that has not caught up yet with what another told us.
            504 if message.contains("resource version") => {
                (FailureKind::Gone, format!("the API server is behind what we had (504){said}"))
            }
            _ => (FailureKind::Other, format!("the API server answers {code}{said}")),
        };
        Self { kind, text: one_line(&text), pause }
    }
}

/// No line breaks, no control characters, not too long.
fn one_line(text: &str) -> String {
    let mut line = String::new();
    for word in text.split(|c: char| c.is_whitespace() || c.is_control()).filter(|word| !word.is_empty()) {
        if line.len() + word.len() > LONGEST {
            line.push('…');
            break;
        }
        if !line.is_empty() {
            line.push(' ');
        }
        line.push_str(word);
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_says_what_to_do() {
        let of = |code, message| Failure::status("pods", code, message, None);
        let forbidden =
            of(403, "pods is forbidden: User \"x\" cannot list resource \"pods\"\n\tat the cluster scope");
        assert_eq!(forbidden.kind, FailureKind::Forbidden);
        assert!(
            forbidden.text.contains("rbac.yaml") && forbidden.text.contains("cannot list"),
            "{forbidden:?}"
        );
        assert!(!forbidden.text.contains(['\n', '\t']));
        assert!(of(401, "Unauthorized").text.contains("token"));
        assert_eq!(of(410, "").kind, FailureKind::Gone);
        assert_eq!(of(504, "Too large resource version: 9, current: 7").kind, FailureKind::Gone);
        assert_eq!(of(504, "timeout").kind, FailureKind::Other);
        assert_eq!(of(500, "").text, "the API server answers 500");
    }

    #[test]
    fn a_long_or_hostile_message_is_cut_to_a_line() {
        let text = Failure::nonsense(&format!("{} \u{1b}[31m\r\nred", "x".repeat(5_000))).text;
        assert!(text.len() <= LONGEST + 4 && !text.contains(['\u{1b}', '\n']), "{text}");
        let text = Failure::status("pods", 500, &"é ".repeat(500), None).text;
        assert!(text.len() <= LONGEST + 4, "{text}");
    }

    #[test]
    fn causes_are_told_once() {
        let inner = std::io::Error::new(std::io::ErrorKind::ConnectionRefused, "refused");
        let outer = std::io::Error::other(inner);
        assert_eq!(Failure::of("no answer", &outer).text, "no answer: refused");
    }
}
