//! A dump that is whole, or none.

use super::ct_entry::Entry;
use super::ctnetlink::{self, DumpSummary, Family};
use super::netlink::Error;

/// How often a dump that broke off is asked for anew.
const ATTEMPTS: usize = 3;

/// Folds every confirmed entry of the current namespace into what `begin` makes. Where the kernel's answer breaks off
/// (the socket's buffer overran, what is dumped changed so that the dump is spoilt) what was folded is thrown
/// away, and it begins anew; at most three times.
///
/// A dump is no picture of one instant: an entry that came or went meanwhile may be in it or not, one that moved
/// may be missing or come twice, and unconfirmed and expired ones are not in it, though the kernel counts them.
///
/// # Errors
/// Any [`Error`]; [`Error::Overtaken`] where each attempt was spoilt.
pub fn fold<T>(
    family: Option<Family>,
    begin: impl FnMut() -> T,
    mut each: impl FnMut(&mut T, &Entry),
) -> Result<(T, DumpSummary), Error> {
    whole(begin, |folded| ctnetlink::dump(family, |entry| each(folded, &entry)))
}

/// The first answer that is whole.
fn whole<T>(
    mut begin: impl FnMut() -> T,
    mut dump: impl FnMut(&mut T) -> Result<DumpSummary, Error>,
) -> Result<(T, DumpSummary), Error> {
    let mut broken = Error::Overtaken;
    for _ in 0..ATTEMPTS {
        let mut folded = begin();
        match dump(&mut folded) {
            Ok(summary) if summary.interrupted => broken = Error::Overtaken,
            Ok(summary) => return Ok((folded, summary)),
            Err(Error::Overrun) => broken = Error::Overrun,
            Err(error) => return Err(error),
        }
    }
    Err(broken)
}

#[cfg(test)]
mod tests {
    use super::*;

    type Answer = Result<(u64, bool), Error>;

    /// Folds these answers, one an attempt: (entries handed on, was it spoilt?). Tells what came of it, and how
    /// many attempts it took.
    fn folded(answers: Vec<Answer>) -> (Result<(Vec<u64>, DumpSummary), Error>, usize) {
        let mut attempt = 0;
        let mut answers = answers.into_iter();
        let result = whole(Vec::new, |folded| {
            attempt += 1;
            // Whatever breaks does so after a few entries.
            folded.extend([attempt as u64; 3]);
            let (entries, interrupted) = answers.next().unwrap()?;
            Ok(DumpSummary { entries, malformed: 0, interrupted })
        });
        (result, attempt)
    }

    #[test]
    fn what_broke_off_leaves_nothing_behind() {
        let (result, attempts) = folded(vec![Err(Error::Overrun), Ok((3, true)), Ok((3, false))]);
        let (folded, summary) = result.unwrap();
        assert_eq!((folded, summary.entries, attempts), (vec![3; 3], 3, 3));
    }

    #[test]
    fn it_ends_after_three_attempts() {
        let (result, attempts) = folded(vec![Ok((1, true)), Ok((1, true)), Ok((1, true)), Ok((1, false))]);
        assert!(matches!(result, Err(Error::Overtaken)), "{result:?}");
        assert_eq!(attempts, 3);
        let (result, _) = folded(vec![Ok((1, true)), Ok((1, true)), Err(Error::Overrun)]);
        assert!(matches!(result, Err(Error::Overrun)), "{result:?}");
    }

    #[test]
    fn what_another_attempt_does_not_mend_is_told_at_once() {
        for error in [Error::TimedOut, Error::Truncated(70_000), Error::Malformed("x")] {
            let told = error.to_string();
            let (result, attempts) = folded(vec![Err(error), Ok((1, false))]);
            assert_eq!((result.unwrap_err().to_string(), attempts), (told, 1));
        }
    }
}
