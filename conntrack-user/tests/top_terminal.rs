//! `top` on a real pseudo-terminal, asking a server that answers as the daemon does.

#![allow(clippy::unwrap_used, reason = "a test: what fails must panic")]

use std::fs::File;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use conntrack_user::aggregate::snapshot::{Counted, OwnerPart, Owners, Snapshot, Table};
use conntrack_user::attribute::owner::Owner;
use conntrack_user::export::snapshot_json;
use conntrack_user::export::view::{OwnerCounts, View};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{LocalModes, Winsize, tcgetattr, tcsetwinsize};

const PATIENCE: Duration = Duration::from_secs(20);
/// Into the other screen, and back.
const ENTER: &str = "\u{1b}[?1049h";
const LEAVE: &str = "\u{1b}[?1049l";

fn view() -> View {
    let part = |owner, entries| OwnerPart {
        owner,
        entries,
        responder_entries: 0,
        inserts: None,
        inserts_per_second: Some(1.0),
    };
    let victim = Owner::Cgroup { cgroup: "hurt\u{1b}[2J".into() };
    let table = Table {
        netns: 1,
        host: true,
        owner: Owner::Host,
        entries: Some(90),
        limit: Some(100),
        buckets: None,
        accounted: None,
        counted: Some(Counted::default()),
        kernel: None,
        kernel_at_start: None,
        owners: Some(Owners {
            source: "probes",
            parts: vec![part(Owner::External, 80), part(victim.clone(), 10)],
        }),
        forecast: None,
    };
    View {
        snapshot: Snapshot { conntrack_loaded: true, tables: vec![table], ..Snapshot::default() },
        owners: vec![OwnerCounts { table: "host", owner: victim, held: None, drops: 7, evictions: 0 }],
    }
}

/// Answers every request until the test ends; returns its address.
fn daemon() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let body = snapshot_json::line(&view(), None).unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut request = Vec::new();
            let mut byte = [0];
            // Who only looks whether anybody is there asks nothing.
            while !request.ends_with(b"\r\n\r\n") && stream.read_exact(&mut byte).is_ok() {
                request.push(byte[0]);
            }
            let answer = format!("HTTP/1.0 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len());
            _ = stream.write_all(answer.as_bytes());
        }
    });
    address
}

struct Session {
    child: Child,
    main: File,
    terminal: OwnedFd,
    said: Receiver<Vec<u8>>,
    seen: String,
}

impl Session {
    fn start() -> Self {
        let main = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).unwrap();
        grantpt(&main).unwrap();
        unlockpt(&main).unwrap();
        let name = ptsname(&main, Vec::new()).unwrap();
        let terminal = File::options().read(true).write(true).open(name.to_str().unwrap()).unwrap();
        tcsetwinsize(&terminal, Winsize { ws_row: 24, ws_col: 80, ws_xpixel: 0, ws_ypixel: 0 }).unwrap();
        let stdio = || Stdio::from(terminal.try_clone().unwrap());
        let child = Command::new(env!("CARGO_BIN_EXE_conntrack-pressure"))
            .args(["top", "--web.address", &daemon()])
            .env("TERM", "xterm")
            .stdin(stdio())
            .stdout(stdio())
            .stderr(stdio())
            .spawn()
            .unwrap();
        let main = File::from(main);
        let mut reader = main.try_clone().unwrap();
        let (say, said) = channel();
        std::thread::spawn(move || {
            let mut some = [0; 4096];
            while let Ok(n) = reader.read(&mut some) {
                if say.send(some[..n].to_vec()).is_err() {
                    return;
                }
            }
        });
        Self { child, main, terminal: terminal.into(), said, seen: String::new() }
    }

    fn wait_for(&mut self, text: &str) {
        let deadline = Instant::now() + PATIENCE;
        while !self.seen.contains(text) {
            let left = deadline.saturating_duration_since(Instant::now());
            let some = self.said.recv_timeout(left);
            let some = some.unwrap_or_else(|_| panic!("no {text:?} in {:?}", self.seen));
            self.seen.push_str(&String::from_utf8_lossy(&some));
        }
    }

    fn end(&mut self) -> ExitStatus {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(Instant::now() < deadline, "it does not end");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    fn cooked(&self) -> bool {
        tcgetattr(&self.terminal).unwrap().local_modes.contains(LocalModes::ICANON | LocalModes::ECHO)
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        _ = self.child.kill();
        _ = self.child.wait();
    }
}

#[test]
fn q_ends_it_and_the_terminal_is_as_before() {
    let mut session = Session::start();
    session.wait_for("hurt\\u{1b}[2J ");
    assert!(session.seen.contains(ENTER) && !session.seen.contains(LEAVE) && !session.cooked());
    session.main.write_all(b"?").unwrap();
    session.wait_for("holds the most entries");
    session.main.write_all(b"q").unwrap();
    assert_eq!(session.end().code(), Some(0));
    session.wait_for(LEAVE);
    assert!(session.cooked());
}

#[test]
fn a_signal_ends_it_and_the_terminal_is_as_before() {
    let mut session = Session::start();
    session.wait_for("external");
    assert!(!session.cooked());
    let pid = rustix::process::Pid::from_child(&session.child);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    assert_eq!(session.end().code(), Some(0));
    session.wait_for(LEAVE);
    assert!(session.cooked());
}

#[test]
fn once_needs_no_terminal_and_says_who_is_who() {
    let run = |args: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_conntrack-pressure"));
        command.args(["top", "--web.address", &daemon()]).args(args).env_remove("COLUMNS").output().unwrap()
    };
    let printed = run(&["--once"]);
    assert!(printed.status.success(), "{printed:?}");
    let text = String::from_utf8(printed.stdout).unwrap();
    let starts = |start: &str| text.lines().any(|line| line.starts_with(start));
    assert!(starts("C  external ") && starts(" V hurt"), "{text}");
    assert!(!text.contains('\u{1b}'), "{text}");
    let refused = run(&[]);
    let error = String::from_utf8(refused.stderr).unwrap();
    assert_eq!((refused.status.code(), error.lines().count()), (Some(2), 1), "{error}");
    assert!(error.contains("--once") && refused.stdout.is_empty(), "{error}");
}
