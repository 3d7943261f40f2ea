//! Boots a kernel, runs one command in it, and tells how it ended.

use std::fs::{self, File};
use std::io::{self, BufWriter, Read, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use super::cpio::Archive;
use super::extra::{self, Extra};
use super::{base, libraries};
use crate::kernel::obtain::{self, Obtained};
use crate::{cache, proc};

/// A command to run in a guest.
#[derive(Clone, Debug)]
pub(crate) struct VmRequest {
    /// A series, `newest`, a package version, or a folder with an unpacked kernel.
    pub(crate) kernel: String,
    /// The command and its arguments.
    pub(crate) command: Vec<String>,
    /// Files to put into /usr/local/bin, with the shared libraries they need.
    pub(crate) add: Vec<PathBuf>,
    /// What it gets beside the base.
    pub(crate) extras: Vec<&'static Extra>,
    /// Memory, as qemu spells it.
    pub(crate) memory: String,
    /// Processors.
    pub(crate) cpus: u32,
    /// Count instructions instead of time: one processor, reproducible cost.
    pub(crate) icount: bool,
    /// After this, the guest is killed.
    pub(crate) timeout: Duration,
    /// Copy the command's output to this process's standard output as it comes.
    pub(crate) stream: bool,
}

impl VmRequest {
    /// A request with 1 GiB, two processors and ten minutes.
    pub(crate) fn new(kernel: &str, command: &[&str]) -> Self {
        Self {
            kernel: kernel.to_owned(),
            command: command.iter().map(|&word| word.to_owned()).collect(),
            add: Vec::new(),
            extras: Vec::new(),
            memory: "1G".to_owned(),
            cpus: 2,
            icount: false,
            timeout: Duration::from_secs(600),
            stream: true,
        }
    }
}

/// How a guest ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// The command ended with this status.
    Exited(u8),
    /// The kernel stopped before the command ended.
    Panicked,
    /// The time was up.
    TimedOut,
}

impl End {
    /// The exit status `xtask vm` ends with: the command's own, 70 for a panic, 124 for a timeout.
    pub(crate) fn code(self) -> u8 {
        match self {
            Self::Exited(status) => status,
            Self::Panicked => 70,
            Self::TimedOut => 124,
        }
    }
}

/// What a guest did.
#[derive(Clone, Debug)]
pub(crate) struct Outcome {
    /// How it ended.
    pub(crate) end: End,
    /// All the command wrote, to standard output and error.
    pub(crate) output: Vec<u8>,
    /// What the kernel wrote to its console.
    pub(crate) console: String,
    /// The kernel's release and where it came from.
    pub(crate) kernel: String,
    /// From qemu's start to its end.
    pub(crate) took: Duration,
}

impl Outcome {
    /// The last lines of the console.
    pub(crate) fn console_tail(&self, lines: usize) -> String {
        let all = self.console.lines().collect::<Vec<_>>();
        all[all.len().saturating_sub(lines)..].join("\n")
    }
}

/// Boots and runs. `programs` are put into /usr/local/bin beside the request's own files.
///
/// # Errors
/// [`obtain::NotObtainable`] when the kernel cannot be had; else when the guest cannot be built or qemu fails.
/// A command that fails, a panic and a timeout are outcomes, not errors.
pub(crate) fn run(request: &VmRequest, programs: &[PathBuf]) -> Result<Outcome> {
    let kernel = obtain::obtain(&request.kernel)?;
    let mut layers = vec![base::archive(&kernel)?];
    for extra in &request.extras {
        layers.push(extra::layer(extra)?);
    }
    let work = WorkFolder::new()?;
    let nonce = nonce()?;
    let initrd = work.0.join("initrd.cpio");
    let mut files = programs.to_vec();
    files.extend(request.add.iter().cloned());
    write_initrd(&layers, &initrd, &files, &request.command, &nonce)?;

    let started = Instant::now();
    let mut qemu = start(request, &kernel, &initrd, &work.0)?;
    let output = qemu.stdout.take().context("qemu has no output")?;
    let stream = request.stream;
    let reader = thread::spawn(move || copy_output(output, stream));
    let in_time = wait(&mut qemu, request.timeout)?;
    let output = reader.join().map_err(|_| anyhow!("the reader of the guest's output failed"))?;
    let status = qemu.wait()?;
    let took = started.elapsed();
    let console = read_lossy(&work.0.join("console"));
    let end = match (parse_end(&read_lossy(&work.0.join("status")), &nonce), in_time) {
        (Some(code), _) => End::Exited(code),
        (None, false) => End::TimedOut,
        (None, true) if !status.success() => {
            bail!("qemu failed: {status}: {}", read_lossy(&work.0.join("qemu")).trim())
        }
        (None, true) => End::Panicked,
    };
    let kernel = format!("{} ({})", kernel.release, kernel.origin);
    Ok(Outcome { end, output, console, kernel, took })
}

fn start(request: &VmRequest, kernel: &Obtained, initrd: &Path, work: &Path) -> Result<Child> {
    let qemu = proc::find("qemu-system-x86_64")
        .context("qemu-system-x86_64 is not installed: run `cargo xtask setup --guests`")?;
    let mut command = Command::new(qemu);
    if request.icount {
        command.args(["-accel", "tcg,thread=single", "-icount", "shift=1,sleep=off", "-smp", "1"]);
    } else {
        // One host thread for all processors: with a thread each, a processor runs the breakpoint of a text
        // patch after the kernel ended that patch, which real hardware cannot do, and the guest panics.
        command.args(["-accel", "tcg,thread=single", "-smp", &request.cpus.to_string()]);
    }
    command
        .args(["-cpu", "max", "-m", &request.memory])
        .args(["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"])
        .arg("-chardev")
        .arg(format!("file,id=console,path={}", work.join("console").display()))
        .args(["-chardev", "file,id=output,path=/dev/stdout"])
        .arg("-chardev")
        .arg(format!("file,id=status,path={}", work.join("status").display()))
        .args(["-serial", "chardev:console", "-serial", "chardev:output", "-serial", "chardev:status"])
        .arg("-kernel")
        .arg(&kernel.image)
        .arg("-initrd")
        .arg(initrd)
        .args([
            "-append",
            // no_timer_check: else the kernel panics at boot if no timer interrupt comes within 40 ms, which
            // qemu cannot promise on a busy host.
            "console=ttyS0 panic=-1 oops=panic loglevel=4 mitigations=off nokaslr random.trust_cpu=on \
             no_timer_check",
        ])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(File::create(work.join("qemu"))?);
    // SAFETY: prctl is async-signal-safe and touches no memory of this process.
    unsafe {
        command.pre_exec(|| {
            // A guest does not outlive who waits for it.
            rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL))?;
            Ok(())
        });
    }
    command.spawn().context("qemu-system-x86_64 does not start")
}

/// Waits for the end, at most `timeout`; kills what takes longer and returns false.
fn wait(qemu: &mut Child, timeout: Duration) -> Result<bool> {
    let pid = Pid::from_child(qemu);
    let ended = pidfd_open(pid, PidfdFlags::empty()).context("cannot watch qemu")?;
    let deadline = Instant::now() + timeout;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let left = Timespec::try_from(left).context("the timeout is too long")?;
        match poll(&mut [PollFd::new(&ended, PollFlags::IN)], Some(&left)) {
            Ok(0) => {
                qemu.kill()?;
                return Ok(false);
            }
            Ok(_) => return Ok(true),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error).context("cannot wait for qemu"),
        }
    }
}

/// Reads to the end, passing on what comes at once when `stream` is set.
fn copy_output(mut output: ChildStdout, stream: bool) -> Vec<u8> {
    let mut all = Vec::new();
    let mut buffer = [0; 16 * 1024];
    let mut stdout = io::stdout();
    loop {
        match output.read(&mut buffer) {
            Ok(0) => return all,
            Ok(count) => {
                all.extend_from_slice(&buffer[..count]);
                // A reader who left (`| head`) does not end the guest.
                let _ = if stream {
                    stdout.write_all(&buffer[..count]).and_then(|()| stdout.flush())
                } else {
                    Ok(())
                };
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => return all,
        }
    }
}

/// The layers, one behind the other, and behind them what this run adds.
fn write_initrd(
    layers: &[PathBuf],
    path: &Path,
    files: &[PathBuf],
    command: &[String],
    nonce: &str,
) -> Result<()> {
    let mut whole = File::create(path)?;
    for layer in layers {
        let copied = File::open(layer).and_then(|mut from| io::copy(&mut from, &mut whole));
        copied.with_context(|| format!("cannot copy {}", layer.display()))?;
    }
    let mut root = Archive::new(BufWriter::new(whole));
    let mut needed = std::collections::BTreeSet::new();
    for file in files {
        let name = file.file_name().with_context(|| format!("{} is not a file", file.display()))?;
        let content = fs::read(file).with_context(|| format!("cannot read {}", file.display()))?;
        root.file(Path::new("usr/local/bin").join(name), 0o755, &content)?;
        if content.starts_with(b"\x7fELF") {
            needed.extend(libraries::needed(file)?);
        }
    }
    for library in needed {
        root.file(libraries::place(&library), 0o755, &fs::read(&library)?)?;
    }
    let words = command.iter().map(|word| proc::quote(word)).collect::<Vec<_>>().join(" ");
    root.file("etc/guest/command", 0o755, format!("exec {words}\n").as_bytes())?;
    root.file("etc/guest/nonce", 0o600, nonce.as_bytes())?;
    root.finish()?;
    Ok(())
}

/// What the guest's init says of the command: its status, if the line is whole and of this run.
fn parse_end(status: &str, nonce: &str) -> Option<u8> {
    let rest = status.lines().find_map(|line| line.strip_prefix("ended ")?.strip_prefix(nonce))?;
    rest.trim().parse().ok()
}

fn nonce() -> Result<String> {
    let mut bytes = [0; 16];
    File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

fn read_lossy(path: &Path) -> String {
    fs::read(path).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
}

/// A folder of one run, gone with it; what a killed run left is cleared by the next.
struct WorkFolder(PathBuf);

impl WorkFolder {
    fn new() -> Result<Self> {
        let runs = cache::folder("runs")?;
        for entry in fs::read_dir(&runs)?.flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            let pid = name.split('-').next().unwrap_or_default();
            if !Path::new("/proc").join(pid).exists() {
                let _ = fs::remove_dir_all(entry.path());
            }
        }
        let path = runs.join(format!("{}-{}", std::process::id(), nonce()?));
        fs::create_dir(&path).with_context(|| format!("cannot make {}", path.display()))?;
        Ok(Self(path))
    }
}

impl Drop for WorkFolder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_whole_line_of_this_run_is_a_status() {
        assert_eq!(parse_end("ended abc 7\r\n", "abc"), Some(7));
        assert_eq!(parse_end("noise\nended abc 0\n", "abc"), Some(0));
        assert_eq!(parse_end("ended other 0\n", "abc"), None);
        assert_eq!(parse_end("ended abc \n", "abc"), None);
        assert_eq!(parse_end("", "abc"), None);
    }

    #[test]
    fn ends_have_their_own_exit_status() {
        assert_eq!(End::Exited(7).code(), 7);
        assert_eq!(End::Panicked.code(), 70);
        assert_eq!(End::TimedOut.code(), 124);
    }
}
