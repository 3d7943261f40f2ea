//! The terminal: put into its mode, drawn, and given back as it was, whatever happens.

use std::io::{self, IsTerminal as _, Stdout, stdout};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use crossterm::event::{self, Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};
use crossterm::terminal::{self, EnterAlternateScreen, LeaveAlternateScreen};
use crossterm::{cursor, execute};
use ratatui::Terminal;
use ratatui::backend::CrosstermBackend;
use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use tokio::signal::unix::{SignalKind, signal};

use super::app::App;
use super::draw::text;
use super::feed::Feed;
use super::state::Key;
use super::wire::Document;

/// Between two documents.
const INTERVAL: Duration = Duration::from_secs(1);
/// Longest time until a signal or a document is noticed.
const TURN: Duration = Duration::from_millis(100);
/// Longest wait for a first document.
const FIRST: Duration = Duration::from_secs(10);

/// Is the terminal in our mode?
static OURS: AtomicBool = AtomicBool::new(false);
/// Is it time to end?
static END: AtomicBool = AtomicBool::new(false);
/// What threads said that panicked while the terminal was ours.
static SAID: Mutex<Vec<String>> = Mutex::new(Vec::new());

/// Colours, unless `NO_COLOR` is set to anything.
#[must_use]
pub fn colour() -> bool {
    std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

/// Is there a terminal to show it on?
///
/// # Errors
/// If there is none; what to do.
pub fn is_terminal() -> anyhow::Result<()> {
    ensure!(
        stdout().is_terminal(),
        "top needs a terminal on standard output; --once prints one screen as text"
    );
    Ok(())
}

/// Shows it until q, Ctrl-C or a signal.
///
/// # Errors
/// If there is no terminal, or it cannot be used.
pub fn live(feed: Box<dyn Feed>) -> anyhow::Result<()> {
    ensure!(
        stdout().is_terminal(),
        "top needs a terminal on standard output; --once prints one screen as text"
    );
    let app = App::new(feed.source(), colour());
    let (documents, come) = channel();
    let (stop, stopped) = channel();
    let signals = signals()?;
    let mut screen = Ours::enter().context("cannot use the terminal")?;
    let polls =
        std::thread::Builder::new().name("polls".into()).spawn(move || poll(feed, &documents, &stopped))?;
    let shown = show(&mut screen, app, &come);
    drop(screen);
    drop(stop);
    drop(signals);
    // That it panicked is among what was said.
    _ = polls.join();
    let said = std::mem::take(&mut *SAID.lock().unwrap_or_else(PoisonError::into_inner));
    ensure!(said.is_empty(), "{}", said.join("; "));
    shown.context("cannot use the terminal")
}

/// One screen as text, with all rows, from two documents so that there are rates.
///
/// # Errors
/// Why there is none.
pub fn once(feed: Box<dyn Feed>) -> anyhow::Result<String> {
    once_after(INTERVAL, feed)
}

fn once_after(interval: Duration, mut feed: Box<dyn Feed>) -> anyhow::Result<String> {
    let mut app = App::new(feed.source(), false);
    let start = Instant::now();
    app.receive(start, Ok(Some(first(feed.as_mut(), start)?)));
    std::thread::sleep(interval);
    app.receive(Instant::now(), feed.latest());
    if let Some(error) = app.error() {
        bail!("{error}");
    }
    let columns = std::env::var("COLUMNS").ok().and_then(|columns| columns.parse().ok()).unwrap_or(80);
    let area = Rect::new(0, 0, columns, app.height());
    let mut buf = Buffer::empty(area);
    app.paint(Instant::now(), area, &mut buf);
    Ok(text(&buf))
}

fn first(feed: &mut dyn Feed, start: Instant) -> anyhow::Result<Document> {
    loop {
        if let Some(document) = feed.latest()? {
            return Ok(document);
        }
        ensure!(start.elapsed() < FIRST, "{}: there is no reading yet; its log may say why", feed.source());
        std::thread::sleep(TURN);
    }
}

type Came = (Instant, anyhow::Result<Option<Document>>);

/// Asks for documents until told to stop.
fn poll(mut feed: Box<dyn Feed>, documents: &Sender<Came>, stopped: &Receiver<()>) {
    loop {
        let document = feed.latest();
        // Asked again at once while there is none yet.
        let pause = if matches!(document, Ok(None)) { TURN } else { INTERVAL };
        if documents.send((Instant::now(), document)).is_err() {
            return;
        }
        if stopped.recv_timeout(pause) != Err(RecvTimeoutError::Timeout) {
            return;
        }
    }
}

/// Ends at SIGTERM, SIGINT and SIGHUP, for as long as it is kept.
fn signals() -> io::Result<tokio::runtime::Runtime> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let within = runtime.enter();
    for kind in [SignalKind::terminate(), SignalKind::interrupt(), SignalKind::hangup()] {
        let mut signal = signal(kind)?;
        runtime.spawn(async move {
            if signal.recv().await.is_some() {
                END.store(true, Ordering::Relaxed);
            }
        });
    }
    drop(within);
    Ok(runtime)
}

fn show(screen: &mut Ours, mut app: App, come: &Receiver<Came>) -> io::Result<()> {
    let mut drawn: Option<Instant> = None;
    loop {
        let mut changed = drawn.is_none_or(|drawn| drawn.elapsed() >= INTERVAL);
        for (now, document) in come.try_iter() {
            app.receive(now, document);
            changed = true;
        }
        if changed {
            screen.0.draw(|frame| app.paint(Instant::now(), frame.area(), frame.buffer_mut()))?;
            drawn = Some(Instant::now());
        }
        let mut wait = TURN;
        while event::poll(wait)? {
            wait = Duration::ZERO;
            // What is no key is a new size, say.
            drawn = None;
            let key = match event::read()? {
                Event::Key(event) => key(event),
                _ => None,
            };
            let size = screen.0.size()?;
            if key.is_some_and(|key| !app.press(key, Rect::new(0, 0, size.width, size.height))) {
                return Ok(());
            }
        }
        if END.load(Ordering::Relaxed) {
            return Ok(());
        }
    }
}

fn key(event: KeyEvent) -> Option<Key> {
    if event.kind == KeyEventKind::Release {
        return None;
    }
    let control = event.modifiers.contains(KeyModifiers::CONTROL);
    Some(match event.code {
        KeyCode::Char('c') if control => Key::Quit,
        KeyCode::Char(_) if control => return None,
        KeyCode::Char('q' | 'Q') => Key::Quit,
        KeyCode::Char('s' | 'S') => Key::Sort,
        KeyCode::Char('t' | 'T') => Key::Table,
        KeyCode::Char('?' | 'h') | KeyCode::F(1) => Key::Help,
        KeyCode::Esc => Key::Escape,
        KeyCode::Up | KeyCode::Char('k') => Key::Up,
        KeyCode::Down | KeyCode::Char('j') => Key::Down,
        KeyCode::PageUp => Key::PageUp,
        KeyCode::PageDown | KeyCode::Char(' ') => Key::PageDown,
        KeyCode::Home => Key::Home,
        KeyCode::End => Key::End,
        _ => return None,
    })
}

/// The terminal in our mode, until dropped.
struct Ours(Terminal<CrosstermBackend<Stdout>>);

impl Ours {
    fn enter() -> io::Result<Self> {
        let before = std::panic::take_hook();
        let painter = std::thread::current().id();
        // Whichever thread panics: what it says must be seen, and nothing painted over it.
        std::panic::set_hook(Box::new(move |info| {
            END.store(true, Ordering::Relaxed);
            if OURS.load(Ordering::SeqCst) && std::thread::current().id() != painter {
                let said = info.to_string().replace('\n', " ");
                SAID.lock().unwrap_or_else(PoisonError::into_inner).push(said);
            } else {
                give_back();
                before(info);
            }
        }));
        OURS.store(true, Ordering::SeqCst);
        let entered = terminal::enable_raw_mode()
            .and_then(|()| execute!(stdout(), EnterAlternateScreen, cursor::Hide))
            .and_then(|()| Terminal::new(CrosstermBackend::new(stdout())));
        entered.map(Self).inspect_err(|_| give_back())
    }
}

impl Drop for Ours {
    fn drop(&mut self) {
        give_back();
    }
}

/// Once; what fails cannot be mended here.
fn give_back() {
    if OURS.swap(false, Ordering::SeqCst) {
        _ = execute!(stdout(), LeaveAlternateScreen, cursor::Show);
        _ = terminal::disable_raw_mode();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::top::example;

    #[test]
    fn keys_that_mean_something() {
        let of = |code, modifiers| key(KeyEvent::new(code, modifiers));
        assert_eq!(of(KeyCode::Char('c'), KeyModifiers::CONTROL), Some(Key::Quit));
        assert_eq!(of(KeyCode::Char('c'), KeyModifiers::NONE), None);
        assert_eq!(of(KeyCode::Char('s'), KeyModifiers::CONTROL), None);
        assert_eq!(of(KeyCode::Char('?'), KeyModifiers::SHIFT), Some(Key::Help));
        let mut release = KeyEvent::new(KeyCode::Char('q'), KeyModifiers::NONE);
        release.kind = KeyEventKind::Release;
        assert_eq!(key(release), None);
    }

    struct Fixed(Vec<anyhow::Result<Option<Document>>>);

    impl Feed for Fixed {
        fn latest(&mut self) -> anyhow::Result<Option<Document>> {
            self.0.remove(0)
        }
        fn source(&self) -> String {
            "test".to_owned()
        }
    }

    #[test]
    fn once_prints_all_rows_with_rates() {
        let mut later = example::document();
        later.owner_losses[0].drops += 1000;
        let printed = once_after(
            Duration::ZERO,
            Box::new(Fixed(vec![Ok(None), Ok(Some(example::document())), Ok(Some(later))])),
        )
        .unwrap();
        assert_eq!(printed.lines().count(), 12, "{printed}");
        let victim =
            printed.lines().find(|line| line.contains("shop/web-0 ") && line.contains("30210")).unwrap();
        assert!(victim.starts_with(" V ") && !victim.contains(" - "), "{victim}");
        let error = once_after(
            Duration::ZERO,
            Box::new(Fixed(vec![Ok(Some(example::document())), Err(anyhow::anyhow!("gone"))])),
        );
        assert_eq!(error.unwrap_err().to_string(), "gone");
    }
}
