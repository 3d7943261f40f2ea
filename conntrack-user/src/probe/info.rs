//! What the kernel says of a loaded program.

use std::os::fd::{AsFd, AsRawFd as _};

use aya_obj::generated::{bpf_attr, bpf_cmd, bpf_prog_info};

/// Runs of a program.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Runs {
    /// Runs skipped: another tracing program was running on that CPU.
    pub missed: u64,
    /// Runs; 0 unless kernel.bpf_stats_enabled.
    pub runs: u64,
    /// Nanoseconds; likewise.
    pub time_ns: u64,
}

/// Reads `struct bpf_prog_info`. None: this kernel does not tell.
#[must_use]
pub fn runs(program: impl AsFd) -> Option<Runs> {
    // SAFETY: both are plain C structures, valid when zero.
    let (mut info, mut attr) =
        unsafe { (std::mem::zeroed::<bpf_prog_info>(), std::mem::zeroed::<bpf_attr>()) };
    // The kernel fills what it knows and says nothing of the rest: a mark tells the two apart (before 5.12).
    info.recursion_misses = u64::MAX;
    attr.info.bpf_fd = program.as_fd().as_raw_fd().cast_unsigned();
    attr.info.info = (&raw mut info) as u64;
    attr.info.info_len = u32::try_from(size_of::<bpf_prog_info>()).ok()?;
    // SAFETY: the attribute names a live fd and a buffer of the length given.
    let done = unsafe {
        libc::syscall(libc::SYS_bpf, bpf_cmd::BPF_OBJ_GET_INFO_BY_FD, &raw mut attr, size_of::<bpf_attr>())
    };
    (done == 0 && info.recursion_misses != u64::MAX).then_some(Runs {
        missed: info.recursion_misses,
        runs: info.run_cnt,
        time_ns: info.run_time_ns,
    })
}
