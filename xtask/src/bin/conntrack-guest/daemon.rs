//! The daemon under test: started, scraped, ended.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};

/// Where it serves.
pub(crate) const ADDRESS: &str = "127.0.0.1:9466";
/// For anything the daemon should do at once; guests are slow.
pub(crate) const DEADLINE: Duration = Duration::from_secs(60);

/// The mechanism every daemon started here is told to use.
static MECHANISM: OnceLock<String> = OnceLock::new();

/// Makes every daemon started from now on attach by this mechanism only.
pub(crate) fn force(mechanism: String) {
    MECHANISM.get_or_init(|| mechanism);
}

/// Not a mechanism: what `early_drop` and `gc_worker` are probed by differs from what the rest is.
const MIXED: &str = "mixed";

/// Is every daemon to do without probes on conntrack?
pub(crate) fn without_probes() -> bool {
    MECHANISM.get().is_some_and(|mechanism| mechanism == "none")
}

/// The arguments that make a daemon attach as [`force`] said.
pub(crate) fn forced() -> Vec<&'static str> {
    MECHANISM.get().map(|mechanism| arguments(mechanism)).unwrap_or_default()
}

fn arguments(mechanism: &str) -> Vec<&str> {
    if mechanism == MIXED {
        return vec!["--test.refuse-probe", "early_drop:fentry", "--test.refuse-probe", "gc_worker:fentry"];
    }
    vec!["--probe.mechanism", mechanism]
}

/// A running daemon; killed when dropped.
pub(crate) struct Daemon(Child);

impl Daemon {
    /// Starts it with its log in a file, and waits until the probe is attached.
    pub(crate) fn start(log: &str, probe: &str) -> anyhow::Result<Self> {
        Self::start_by(log, probe, MECHANISM.get().map_or("auto", String::as_str))
    }

    /// The same, by this mechanism whatever [`force`] said.
    pub(crate) fn start_by(log: &str, probe: &str, mechanism: &str) -> anyhow::Result<Self> {
        let out = std::fs::File::create(log)?;
        let child = Command::new("conntrack-pressure")
            .args(["run", "--web.listen-address", ADDRESS, "--log.format", "json"])
            .args(arguments(mechanism))
            .stdout(Stdio::from(out))
            .spawn()
            .context("cannot start conntrack-pressure")?;
        let mut daemon = Self(child);
        let page = daemon.until("the probes to be attached", |page| attached_by(page, probe).is_some())?;
        let by = attached_by(&page, probe).context("not attached")?;
        println!("figure: {probe} attached by {by} ({mechanism} asked for)");
        // Where the kernel tells the types of the module's functions, nothing less than fentry will do.
        let wanted = match mechanism {
            "auto" | MIXED if std::path::Path::new("/sys/kernel/btf/nf_conntrack").exists() => "fentry",
            "auto" | MIXED => "kprobe",
            "none" => "raw_tracepoint",
            other => other,
        };
        if by != wanted {
            bail!("{probe} is attached by {by}, not by {wanted}:\n{page}");
        }
        if mechanism == MIXED && attached_by(&page, "early_drop") != Some("kprobe") {
            bail!("early_drop is not attached by kprobe:\n{page}");
        }
        Ok(daemon)
    }

    /// Scrapes until the page satisfies, and returns it.
    pub(crate) fn until(&mut self, what: &str, mut is: impl FnMut(&str) -> bool) -> anyhow::Result<String> {
        let deadline = Instant::now() + DEADLINE;
        let mut last = String::new();
        while Instant::now() < deadline {
            if let Some(status) = self.0.try_wait()? {
                bail!("conntrack-pressure ended by itself: {status}");
            }
            if let Ok(page) = get("/metrics") {
                if is(&page) {
                    return Ok(page);
                }
                last = page;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        bail!("waited for {what}, last page:\n{last}")
    }

    /// Its process.
    pub(crate) fn pid(&self) -> u32 {
        self.0.id()
    }

    /// A page of now.
    pub(crate) fn page(&mut self) -> anyhow::Result<String> {
        self.until("a page", |_| true)
    }

    /// SIGTERM, and its exit status must be 0.
    pub(crate) fn stop(mut self) -> anyhow::Result<()> {
        let pid = rustix::process::Pid::from_child(&self.0);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM)?;
        let status = self.0.wait()?;
        anyhow::ensure!(status.success(), "conntrack-pressure ended with {status} on SIGTERM");
        Ok(())
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _: std::io::Result<()> = self.0.kill();
        let _: std::io::Result<_> = self.0.wait();
    }
}

/// By which mechanism a probe is attached; None: not at all.
pub(crate) fn attached_by<'a>(page: &'a str, probe: &str) -> Option<&'a str> {
    let start = format!("conntrack_probe_attached{{probe=\"{probe}\",mechanism=\"");
    page.lines().find_map(|line| line.strip_prefix(&start)?.strip_suffix("\"} 1"))
}

/// The value of a series, by its name and labels as printed.
pub(crate) fn value(page: &str, series: &str) -> Option<f64> {
    page.lines().find_map(|line| line.strip_prefix(series)?.trim().parse().ok())
}

/// The body of a page.
pub(crate) fn get(path: &str) -> anyhow::Result<String> {
    let mut stream = TcpStream::connect(ADDRESS)?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    answer.split_once("\r\n\r\n").map(|(_, body)| body.to_owned()).context("no HTTP answer")
}
