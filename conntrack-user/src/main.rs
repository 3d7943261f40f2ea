//! The `conntrack-pressure` command.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use clap::Parser as _;
use conntrack_user::attribute::api::handle::ApiHandle;
use conntrack_user::attribute::api::settings::Settings;
use conntrack_user::attribute::api::watch::Timing;
use conntrack_user::cli::{self, Cli};
use conntrack_user::command::{check, doctor, doctor_text, snapshot};
use conntrack_user::config::{Action, Config, Run, System};
use conntrack_user::daemon::{Daemon, Source};
use conntrack_user::export::exporter::Exporter;
use conntrack_user::export::http;
use conntrack_user::export::log::Logger;
use conntrack_user::export::record::LogFormat;
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
    system.check_paths()?;
    kubernetes.check()?;
    anyhow::ensure!(
        rustix::process::geteuid().is_root(),
        "root is needed to read every namespace and to load probes; run it with sudo"
    );
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
        Action::Snapshot => {
            println!("{}", snapshot::json(&look(system, Some(&kubernetes))?.snapshot)?);
            Ok(0)
        }
    }
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

fn serve(system: System, kubernetes: &Settings, run: &Run) -> anyhow::Result<u8> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let listener = runtime.block_on(http::bind(&run.listen_address))?;
    let log = Logger::stdout(run.log_format).context("cannot start the log writer")?;
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
    let pods = {
        let _guard = runtime.enter();
        kubernetes.plan().map_or_else(ApiHandle::disabled, |plan| ApiHandle::watch(plan, Timing::default()))
    };
    daemon.set_api(pods);
    let rounds = daemon.clone();
    let mut threads = vec![std::thread::Builder::new().name("rounds".into()).spawn(move || rounds.rounds())?];
    if let Some(events) = events {
        let drain = daemon.clone();
        threads.push(std::thread::Builder::new().name("drain".into()).spawn(move || drain.drain(events))?);
    }
    let address = http::address(&listener)?;
    log.info("serving", &[("address", address.to_string().into())]);
    let exporter = Exporter::new(run.max_pods, true);
    runtime.block_on(async {
        let (say, stop) = tokio::sync::watch::channel(false);
        let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
        let server = tokio::spawn(http::serve(listener, Source(daemon.clone()), exporter, stop));
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
    daemon.stop();
    for thread in threads {
        anyhow::ensure!(thread.join().is_ok(), "a thread panicked; what it printed says why");
    }
    log.info("stopped, everything detached", &[]);
    if !log.flush(Duration::from_secs(2)) {
        eprintln!("conntrack-pressure: the last log lines could not be written");
    }
    Ok(0)
}
