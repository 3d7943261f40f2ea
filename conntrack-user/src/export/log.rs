//! The one writer of log lines. Handing a line over never waits: what does not fit is counted.

use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use super::record::{Level, LogFormat, Record, Value};
use super::timestamp::rfc3339;

/// Lines that may wait for the writer.
pub const QUEUE_LINES: usize = 8192;

/// Bytes gathered before they are written although more lines wait.
const BATCH_BYTES: usize = 64 << 10;

/// Pause between two tries to hand over the request to flush, while the queue is full.
const FLUSH_RETRY: Duration = Duration::from_millis(5);

enum Message {
    Line(String),
    Flush(SyncSender<()>),
}

/// A handle on the writer; cheap to clone. The writer ends with the last one.
#[derive(Clone, Debug)]
pub struct Logger {
    format: LogFormat,
    queue: SyncSender<Message>,
    lost: Arc<AtomicU64>,
}

impl Logger {
    /// Starts a writer to standard output.
    ///
    /// # Errors
    /// If the thread cannot be started.
    pub fn stdout(format: LogFormat) -> io::Result<Self> {
        Self::to(format, io::stdout(), QUEUE_LINES)
    }

    /// Starts a writer to `out`, with room for `lines` waiting.
    ///
    /// # Errors
    /// If the thread cannot be started.
    pub fn to(format: LogFormat, out: impl Write + Send + 'static, lines: usize) -> io::Result<Self> {
        let (queue, messages) = sync_channel(lines);
        let lost = Arc::new(AtomicU64::new(0));
        let counter = Arc::clone(&lost);
        thread::Builder::new().name("log".to_owned()).spawn(move || write_all(out, &messages, &counter))?;
        Ok(Self { format, queue, lost })
    }

    /// Hands over one event or line.
    pub fn record(&self, record: &Record) {
        match self.queue.try_send(Message::Line(record.line(self.format))) {
            Ok(()) => {}
            Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => {
                self.lost.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    /// Says something good to know.
    pub fn info(&self, message: &str, fields: &[(&'static str, Value)]) {
        self.say(Level::Info, message, fields);
    }

    /// Says something somebody should look at.
    pub fn warn(&self, message: &str, fields: &[(&'static str, Value)]) {
        self.say(Level::Warn, message, fields);
    }

    /// Says why the program cannot do its work.
    pub fn error(&self, message: &str, fields: &[(&'static str, Value)]) {
        self.say(Level::Error, message, fields);
    }

    fn say(&self, level: Level, message: &str, fields: &[(&'static str, Value)]) {
        let mut record = Record::default();
        record.push("ts", rfc3339(SystemTime::now()));
        record.push("level", level.name());
        record.0.extend(fields.iter().cloned());
        record.push("message", message);
        self.record(&record);
    }

    /// Lines that found no room or could not be written, since start.
    #[must_use]
    pub fn lost(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
    }

    /// Waits until all lines handed over so far are written, at most this long. Returns whether they are.
    #[must_use]
    pub fn flush(&self, at_most: Duration) -> bool {
        let deadline = Instant::now() + at_most;
        let (done, written) = sync_channel(1);
        let mut request = Message::Flush(done);
        loop {
            match self.queue.try_send(request) {
                Ok(()) => break,
                Err(TrySendError::Full(back)) if Instant::now() < deadline => request = back,
                Err(_) => return false,
            }
            thread::sleep(FLUSH_RETRY);
        }
        written.recv_timeout(deadline.saturating_duration_since(Instant::now())).is_ok()
    }
}

/// Lines gathered and not yet written.
struct Batch<'a, W> {
    out: W,
    bytes: Vec<u8>,
    lines: u64,
    lost: &'a AtomicU64,
}

impl<W: Write> Batch<'_, W> {
    fn take(&mut self, message: Message) {
        match message {
            Message::Line(line) => {
                self.bytes.extend_from_slice(line.as_bytes());
                self.lines += 1;
                if self.bytes.len() >= BATCH_BYTES {
                    self.write();
                }
            }
            Message::Flush(done) => {
                self.write();
                // Whoever asked may have stopped waiting.
                _ = done.try_send(());
            }
        }
    }

    /// A reader that went away (EPIPE) or a full disk costs these lines, not the daemon.
    fn write(&mut self) {
        if self.lines > 0 && self.out.write_all(&self.bytes).and_then(|()| self.out.flush()).is_err() {
            self.lost.fetch_add(self.lines, Ordering::Relaxed);
        }
        self.bytes.clear();
        self.lines = 0;
    }
}

/// Writes until the last handle is gone: in batches while lines wait, at once when none does.
fn write_all(out: impl Write, messages: &Receiver<Message>, lost: &AtomicU64) {
    let mut batch = Batch { out, bytes: Vec::with_capacity(BATCH_BYTES), lines: 0, lost };
    while let Ok(message) = messages.recv() {
        batch.take(message);
        while let Ok(message) = messages.try_recv() {
            batch.take(message);
        }
        batch.write();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    const LONG: Duration = Duration::from_secs(10);

    #[derive(Clone, Default)]
    struct Shared(Arc<Mutex<Vec<u8>>>);
    impl Write for Shared {
        fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(buf);
            Ok(buf.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    struct Broken;
    impl Write for Broken {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(io::ErrorKind::BrokenPipe.into())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// Blocks in its first write until told to go on.
    struct Stuck(Receiver<()>, SyncSender<()>);
    impl Write for Stuck {
        fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
            _ = self.1.try_send(());
            _ = self.0.recv();
            Ok(buf.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn lines_arrive_in_order() {
        let out = Shared::default();
        let log = Logger::to(LogFormat::Text, out.clone(), 10_000).unwrap();
        for i in 0..5_000_u64 {
            log.info("hello", &[("i", i.into())]);
        }
        assert!(log.flush(LONG));
        let text = String::from_utf8(out.0.lock().unwrap().clone()).unwrap();
        let numbers: Vec<u64> = text
            .lines()
            .map(|l| l.split("i=").nth(1).unwrap().split(' ').next().unwrap().parse().unwrap())
            .collect();
        assert!(numbers.iter().copied().eq(0..5_000), "{} lines", numbers.len());
        assert_eq!(log.lost(), 0);
        assert!(text.starts_with("ts=") && text.contains(" level=info i=0 message=hello\n"));
    }

    #[test]
    fn a_reader_that_is_gone_is_counted_and_survived() {
        let log = Logger::to(LogFormat::Json, Broken, 100).unwrap();
        log.warn("one", &[]);
        log.error("two", &[]);
        assert!(log.flush(LONG));
        assert_eq!(log.lost(), 2);
    }

    #[test]
    fn a_stuck_reader_never_holds_up_the_caller_and_every_line_is_accounted_for() {
        let ((go, wait), (entered, is_in)) = (sync_channel(0), sync_channel(1));
        let log = Logger::to(LogFormat::Text, Stuck(wait, entered), 4).unwrap();
        log.info("held", &[]);
        is_in.recv_timeout(LONG).unwrap();
        for _ in 0..10 {
            log.info("x", &[]);
        }
        assert_eq!(log.lost(), 6, "four wait, six found no room");
        assert!(!log.flush(Duration::from_millis(20)), "says that it could not");
        drop(go);
        assert!(log.flush(LONG));
        assert_eq!(log.lost(), 6);
    }
}
