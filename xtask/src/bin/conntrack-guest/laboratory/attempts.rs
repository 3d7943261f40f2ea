//! Many connections of one pod at once, each played to its end by its own script.

use std::io::Read as _;
use std::net::TcpStream;
use std::os::fd::AsFd as _;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::sockopt::set_socket_linger;

use super::case::Case;
use crate::lab::attempt::{Attempt, Fate, unacknowledged};

/// What follows when it is connected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Then {
    /// It stays open.
    Keep,
    /// It is aborted: SO_LINGER 0 makes a close a reset.
    Abort,
    /// A byte is sent; when that is acknowledged, it is aborted.
    Send,
    /// A byte is sent, and the server's close or reset awaited.
    Hear,
}

/// A connection to be made.
#[derive(Debug)]
pub(super) struct Script {
    pub(super) case: Case,
    /// How often the kernel sends its SYN again.
    pub(super) retries: Option<i32>,
    /// When it is given up.
    pub(super) patience: Duration,
    pub(super) then: Then,
    /// It is open already.
    pub(super) open: Option<TcpStream>,
}

/// One that is still to be begun.
pub(super) fn attempt(case: Case, retries: Option<i32>, patience: Duration, then: Then) -> Script {
    Script { case, retries, patience, then, open: None }
}

/// The part of `count` that the `nth` of `of` has.
pub(super) fn share(count: usize, nth: usize, of: usize) -> std::ops::Range<usize> {
    0..(count + of - 1 - nth) / of
}

/// Connections that stay open, each with the place of its case.
pub(super) type Kept = Vec<(usize, TcpStream)>;

enum Stage {
    Connecting(Attempt),
    Sent(TcpStream),
    Hearing(TcpStream),
    Over,
}

/// Plays them all, in the calling thread's namespace. The cases, and those that are to stay open.
///
/// # Errors
/// When a socket cannot be made or asked.
pub(super) fn play(scripts: Vec<Script>) -> anyhow::Result<(Vec<Case>, Kept)> {
    let (mut cases, mut kept) = (Vec::new(), Kept::new());
    let mut under_way = Vec::new();
    for mut script in scripts {
        let begun = Instant::now();
        let stage = match script.open.take() {
            Some(stream) => {
                script.case.said.fate = Fate::Connected;
                after(script.then, stream, cases.len(), &mut kept)?
            }
            None => Stage::Connecting(Attempt::begin_from(
                Some(script.case.from),
                script.case.to,
                script.retries,
            )?),
        };
        under_way.push((cases.len(), begun, script.patience, script.then, stage));
        cases.push(script.case);
    }
    while !under_way.is_empty() {
        let now = Instant::now();
        for (index, begun, patience, then, stage) in &mut under_way {
            let is_late = now.duration_since(*begun) > *patience;
            let old = std::mem::replace(stage, Stage::Over);
            *stage = step(old, *index, &mut cases[*index], *then, is_late, &mut kept)?;
        }
        under_way.retain(|(.., stage)| !matches!(stage, Stage::Over));
        wait(under_way.iter().map(|(.., stage)| stage))?;
    }
    Ok((cases, kept))
}

fn step(
    stage: Stage,
    index: usize,
    case: &mut Case,
    then: Then,
    is_late: bool,
    kept: &mut Kept,
) -> anyhow::Result<Stage> {
    Ok(match stage {
        Stage::Connecting(attempt) => {
            case.said.fate = attempt.fate()?;
            match case.said.fate {
                Fate::Connected => after(then, attempt.into_stream(), index, kept)?,
                Fate::UnderWay if !is_late => Stage::Connecting(attempt),
                Fate::UnderWay | Fate::Failed(_) => Stage::Over,
            }
        }
        Stage::Sent(stream) => {
            if let Some(error) = stream.take_error()? {
                case.said.fate = Fate::Failed(error.raw_os_error().unwrap_or(0));
                return Ok(Stage::Over);
            }
            case.said.delivered = unacknowledged(&stream)? == 0;
            if !case.said.delivered && !is_late {
                return Ok(Stage::Sent(stream));
            }
            abort(&stream)?;
            Stage::Over
        }
        Stage::Hearing(mut stream) => match stream.read(&mut [0; 16]) {
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock && !is_late => {
                Stage::Hearing(stream)
            }
            Err(error) if error.kind() != std::io::ErrorKind::WouldBlock => {
                case.said.fate = Fate::Failed(error.raw_os_error().unwrap_or(0));
                Stage::Over
            }
            // The server's end, or none.
            _ => Stage::Over,
        },
        Stage::Over => Stage::Over,
    })
}

fn after(then: Then, stream: TcpStream, index: usize, kept: &mut Kept) -> anyhow::Result<Stage> {
    if matches!(then, Then::Send | Then::Hear) {
        // A reset that came meanwhile is the script's end, not this program's.
        let _: rustix::io::Result<usize> = rustix::net::send(&stream, b"x", rustix::net::SendFlags::NOSIGNAL);
    }
    Ok(match then {
        Then::Keep => {
            kept.push((index, stream));
            Stage::Over
        }
        Then::Abort => {
            abort(&stream)?;
            Stage::Over
        }
        Then::Send => Stage::Sent(stream),
        Then::Hear => Stage::Hearing(stream),
    })
}

/// Its close will be a reset.
///
/// # Errors
/// When the kernel refuses.
pub(super) fn abort(stream: &TcpStream) -> anyhow::Result<()> {
    Ok(set_socket_linger(stream, Some(Duration::ZERO))?)
}

/// Until one of them has something to tell, or patience may be at its end.
fn wait<'a>(stages: impl Iterator<Item = &'a Stage>) -> anyhow::Result<()> {
    let mut looked_at = Vec::new();
    let mut milliseconds = 100;
    for stage in stages {
        match stage {
            Stage::Connecting(attempt) => {
                looked_at.push(PollFd::from_borrowed_fd(attempt.stream().as_fd(), PollFlags::OUT));
            }
            Stage::Hearing(stream) => looked_at.push(PollFd::from_borrowed_fd(stream.as_fd(), PollFlags::IN)),
            Stage::Sent(_) => milliseconds = 20,
            Stage::Over => {}
        }
    }
    let time = Timespec { tv_sec: 0, tv_nsec: milliseconds * 1_000_000 };
    poll(&mut looked_at, Some(&time))?;
    Ok(())
}
