//! The debug switch (feature `debug-log`): what the probes say through aya-log, on standard error.

use aya::Ebpf;
use aya_log::EbpfLogger;
use log::{Log, Metadata, Record};

/// The probes' own log.
pub(super) type DebugLog = EbpfLogger<Stderr>;

/// Writes records to standard error: standard output is for log events.
pub(super) struct Stderr;

impl Log for Stderr {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }
    fn log(&self, record: &Record<'_>) {
        eprintln!("probe: {}", record.args());
    }
    fn flush(&self) {}
}

/// Takes the log's map.
///
/// # Errors
/// If the object was built without the switch.
pub(super) fn open(ebpf: &mut Ebpf) -> anyhow::Result<DebugLog> {
    Ok(EbpfLogger::init_with_logger(ebpf, Stderr)?)
}
