//! The `conntrack-pressure` command.

use std::io::Write as _;
use std::process::ExitCode;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::Context as _;
use clap::Parser as _;
use conntrack_user::attribute::api::handle::{ApiHandle, ServiceHandle};
use conntrack_user::attribute::api::settings::Settings;
use conntrack_user::attribute::api::watch::Timing;
use conntrack_user::cli::{self, Cli};
use conntrack_user::command::top::feed::{self, Feed};
use conntrack_user::command::top::screen;
use conntrack_user::command::{check, doctor, doctor_text};
use conntrack_user::config::{Action, Config, Run, System, Top};
use conntrack_user::daemon::{Daemon, Source};
use conntrack_user::export::exporter::Exporter;
use conntrack_user::export::http;
use conntrack_user::export::log::Logger;
use conntrack_user::export::record::LogFormat;
use conntrack_user::export::snapshot_json;
use conntrack_user::probe::attach::Probes;

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            let Some(line) = cli::one_line(&error) else { error.exit() };
            eprintln!("conntrack-pressure: {line}");
            return ExitCode::from(2);
        }
    };
    match Config::new(cli).and_then(act) {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            eprintln!("conntrack-pressure: {error:#}");
            ExitCode::from(2)
        }
    }
}

fn act(config: Config) -> anyhow::Result<u8> {
    let system = config.system;
    let kubernetes = config.kubernetes;
    // `top` of a running daemon needs nothing of the system itself.
    if !matches!(config.action, Action::Top(_)) {
        may_run(&system, &kubernetes)?;
    }
    match config.action {
        Action::Run(run) => serve(system, &kubernetes, &run),
        Action::Doctor { json } => {
            let found = doctor::examine(&system, &kubernetes);
            print!("{}", if json { doctor_text::json(&found)? } else { doctor_text::text(&found) });
            Ok(0)
        }
        Action::Check(thresholds) => {
            let verdict = check::verdict(&look(system, None)?.snapshot, thresholds);
            println!("{}", verdict.line);
            Ok(verdict.code)
        }
        Action::Top(top) => watch(system, &kubernetes, &top),
        Action::Snapshot => {
            let view = look(system, Some(&kubernetes))?;
            print!("{}", snapshot_json::indented(&view)?);
            Ok(0)
        }
    }
}

/// Can this process watch by itself?
fn may_run(system: &System, kubernetes: &Settings) -> anyhow::Result<()> {
    system.check_paths()?;
    kubernetes.check()?;
    anyhow::ensure!(
        rustix::process::geteuid().is_root(),
        "root is needed to read every namespace and to load probes; run it with sudo"
    );
    Ok(())
}

/// `top`: of a running daemon, or else by stages of its own.
fn watch(system: System, kubernetes: &Settings, top: &Top) -> anyhow::Result<u8> {
    let print = |feed: Box<dyn Feed>| {
        if top.once {
            return Ok(std::io::stdout().write_all(screen::once(feed)?.as_bytes())?);
        }
        screen::live(feed)
    };
    if !top.once {
        screen::is_terminal()?;
    }
    let daemon = feed::Daemon::at(&top.address);
    if daemon.is_there() {
        print(Box::new(daemon))?;
        return Ok(0);
    }
    may_run(&system, kubernetes).with_context(|| format!("no daemon answers at {}", top.address))?;
    // The screen is the terminal's: log lines have no place on it.
    let log = Logger::to(LogFormat::Text, std::io::sink(), 64).context("cannot start the log writer")?;
    let stages = Stages::start(system, &log, ApiHandle::ask_once(kubernetes), None)?;
    let printed = print(Box::new(feed::Here(Source(stages.daemon.clone()))));
    stages.stop()?;
    printed.map(|()| 0)
}

/// One reading, without probes; with the API asked once, if there are settings for it.
fn look(
    system: System,
    kubernetes: Option<&Settings>,
) -> anyhow::Result<std::sync::Arc<conntrack_user::export::view::View>> {
    let log = Logger::to(LogFormat::Text, std::io::stderr(), 64).context("cannot start the log writer")?;
    let (daemon, _) = Daemon::new(system, log, None);
    if let Some(settings) = kubernetes {
        daemon.set_api(ApiHandle::ask_once(settings));
    }
    Ok(daemon.read())
}

/// The daemon's threads.
struct Stages {
    daemon: Arc<Daemon>,
    threads: Vec<JoinHandle<()>>,
}

impl Stages {
    /// Loads the probes and starts reading and draining.
    fn start(
        system: System,
        log: &Logger,
        pods: ApiHandle,
        services: Option<ServiceHandle>,
    ) -> anyhow::Result<Self> {
        let (daemon, events) = match Probes::load(&system) {
            Ok(loaded) => Daemon::new(system, log.clone(), Some(loaded)),
            Err(error) => {
                // The kernel's own figures are worth having without them.
                let reason = format!("{error:#}");
                log.warn(
                    "no probe can be loaded: the kernel's statistics only",
                    &[("reason", reason.as_str().into())],
                );
                (Daemon::without_probes(system, log.clone(), &reason), None)
            }
        };
        daemon.set_api(pods);
        if let Some(services) = services {
            daemon.set_services(services);
        }
        let rounds = daemon.clone();
        let mut threads =
            vec![std::thread::Builder::new().name("rounds".into()).spawn(move || rounds.rounds())?];
        if let Some(events) = events {
            let drain = daemon.clone();
            threads
                .push(std::thread::Builder::new().name("drain".into()).spawn(move || drain.drain(events))?);
        }
        Ok(Self { daemon, threads })
    }

    /// Detaches everything and waits for the threads.
    fn stop(self) -> anyhow::Result<()> {
        self.daemon.stop();
        for thread in self.threads {
            anyhow::ensure!(thread.join().is_ok(), "a thread panicked; what it printed says why");
        }
        Ok(())
    }
}

fn serve(system: System, kubernetes: &Settings, run: &Run) -> anyhow::Result<u8> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let listener = runtime.block_on(http::bind(&run.listen_address))?;
    let log = Logger::stdout(run.log_format).context("cannot start the log writer")?;
    let (pods, services) = {
        let _guard = runtime.enter();
        let (pods, services) = (kubernetes.plan(), kubernetes.plan());
        (
            pods.map_or_else(ApiHandle::disabled, |plan| ApiHandle::watch(plan, Timing::default())),
            services
                .map_or_else(ServiceHandle::disabled, |plan| ServiceHandle::watch(plan, Timing::default())),
        )
    };
    let stages = Stages::start(system, &log, pods, Some(services))?;
    let address = http::address(&listener)?;
    log.info("serving", &[("address", address.to_string().into())]);
    let exporter = Exporter::new(run.max_pods, true);
    runtime.block_on(async {
        let (say, stop) = tokio::sync::watch::channel(false);
        let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
        let server = tokio::spawn(http::serve(listener, Source(stages.daemon.clone()), exporter, stop));
        tokio::select! {
            _ = terminate.recv() => {}
            _ = tokio::signal::ctrl_c() => {}
        }
        say.send_replace(true);
        server.await?;
        anyhow::Ok(())
    })?;
    // A name that takes long to resolve must not hold up the end.
    runtime.shutdown_timeout(Duration::from_secs(1));
    stages.stop()?;
    log.info("stopped, everything detached", &[]);
    if !log.flush(Duration::from_secs(2)) {
        eprintln!("conntrack-pressure: the last log lines could not be written");
    }
    Ok(0)
}
