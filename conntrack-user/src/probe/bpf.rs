//! The calls of bpf(2) that aya has no way to: tracing programs on functions of a module.

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd, RawFd};

use aya_obj::generated::{
    bpf_attach_type, bpf_attr, bpf_attr__bindgen_ty_4, bpf_btf_info, bpf_cmd, bpf_insn, bpf_prog_type,
};

/// Bytes of the verifier's log that is asked for when a program was refused.
const LOG_BYTES: usize = 1 << 20;

/// A tracing program, ready for the verifier.
#[derive(Clone, Copy, Debug)]
pub struct Tracing<'a> {
    /// Its name, for listings; the kernel keeps 15 bytes.
    pub name: &'a str,
    /// Whether it runs at the return of its function (fexit), else at the entry (fentry).
    pub at_return: bool,
    /// Its instructions, relocated.
    pub instructions: &'a [bpf_insn],
    /// Its license.
    pub license: &'a CStr,
    /// The function's id in BTF.
    pub function: u32,
    /// The BTF object of the function's module; None: vmlinux.
    pub module: Option<BorrowedFd<'a>>,
}

/// The verifier's last lines, where the reason is.
fn last_lines(log: &str) -> String {
    let lines: Vec<_> = log.lines().map(str::trim).filter(|l| !l.is_empty()).collect();
    let reason = lines.iter().rev().filter(|l| !l.starts_with("processed ")).take(2).copied();
    let reason: Vec<_> = reason.collect();
    if reason.is_empty() {
        return String::new();
    }
    format!(": {}", reason.into_iter().rev().collect::<Vec<_>>().join(" | "))
}

/// Loads a tracing program.
///
/// # Errors
/// What the kernel and its verifier said, in one line.
pub fn load(program: &Tracing<'_>) -> Result<OwnedFd, String> {
    match load_with(program, &mut []) {
        Ok(fd) => Ok(fd),
        Err(first) if first.raw_os_error() == Some(libc::EPERM) => Err(first.to_string()),
        Err(first) => {
            let mut log = vec![0; LOG_BYTES];
            // A log that does not fit is an error of its own; the first answer is the true one.
            load_with(program, &mut log).map_err(|_| {
                let end = log.iter().position(|byte| *byte == 0).unwrap_or(log.len());
                format!("{first}{}", last_lines(&String::from_utf8_lossy(&log[..end])))
            })
        }
    }
}

fn load_with(program: &Tracing<'_>, log: &mut [u8]) -> io::Result<OwnedFd> {
    let mut attr = zeroed();
    let mut load = bpf_attr__bindgen_ty_4 {
        prog_type: bpf_prog_type::BPF_PROG_TYPE_TRACING as u32,
        insn_cnt: u32::try_from(program.instructions.len()).map_err(io::Error::other)?,
        insns: program.instructions.as_ptr() as u64,
        license: program.license.as_ptr() as u64,
        attach_btf_id: program.function,
        expected_attach_type: if program.at_return {
            bpf_attach_type::BPF_TRACE_FEXIT as u32
        } else {
            bpf_attach_type::BPF_TRACE_FENTRY as u32
        },
        // SAFETY: a plain C structure, valid when zero.
        ..unsafe { attr.__bindgen_anon_3 }
    };
    load.__bindgen_anon_1.attach_btf_obj_fd = program.module.map_or(0, |fd| fd.as_raw_fd().cast_unsigned());
    for (place, byte) in load.prog_name.iter_mut().take(15).zip(program.name.bytes()) {
        *place = byte.cast_signed();
    }
    if !log.is_empty() {
        load.log_level = 1;
        load.log_size = u32::try_from(log.len()).map_err(io::Error::other)?;
        load.log_buf = log.as_mut_ptr() as u64;
    }
    attr.__bindgen_anon_3 = load;
    // SAFETY: instructions, license and log live until the call returns.
    unsafe { call_for_fd(bpf_cmd::BPF_PROG_LOAD, &mut attr) }
}

/// Whether programs can exchange a word if it is what they expect. A program that does so is loaded and dropped.
#[must_use]
pub fn has_exchange() -> bool {
    let insn = |code, dst, src, off, imm| bpf_insn {
        code,
        _bitfield_align_1: [],
        _bitfield_1: bpf_insn::new_bitfield_1(dst, src),
        off,
        imm,
    };
    // r0 = 0; *(u64 *)(r10 - 8) = r0; r0 = cmpxchg(r10 - 8, r0, r0); exit
    let instructions = [
        insn(0xb7, 0, 0, 0, 0),
        insn(0x7b, 10, 0, -8, 0),
        insn(0xdb, 10, 0, -8, 0xf1),
        insn(0xb7, 0, 0, 0, 0),
        insn(0x95, 0, 0, 0, 0),
    ];
    let mut attr = zeroed();
    attr.__bindgen_anon_3 = bpf_attr__bindgen_ty_4 {
        prog_type: bpf_prog_type::BPF_PROG_TYPE_SOCKET_FILTER as u32,
        insn_cnt: instructions.len() as u32,
        insns: instructions.as_ptr() as u64,
        license: c"GPL".as_ptr() as u64,
        // SAFETY: a plain C structure, valid when zero.
        ..unsafe { attr.__bindgen_anon_3 }
    };
    // SAFETY: instructions and license live until the call returns.
    unsafe { call_for_fd(bpf_cmd::BPF_PROG_LOAD, &mut attr) }.is_ok()
}

/// Attaches a loaded tracing program to its function. The link's fd is the attachment: closing it detaches.
///
/// # Errors
/// The kernel's answer.
pub fn attach(program: impl AsFd) -> io::Result<OwnedFd> {
    let mut attr = zeroed();
    attr.raw_tracepoint.prog_fd = program.as_fd().as_raw_fd().cast_unsigned();
    // SAFETY: no name, and a live fd.
    unsafe { call_for_fd(bpf_cmd::BPF_RAW_TRACEPOINT_OPEN, &mut attr) }
}

/// The BTF object of a module. (The file in /sys/kernel/btf is a copy of its bytes: its fd is not one.)
///
/// # Errors
/// `NotFound` when the kernel has none of that name; else the kernel's answer.
pub fn module_btf(module: &str) -> io::Result<OwnedFd> {
    let mut id = 0;
    loop {
        let mut attr = zeroed();
        attr.__bindgen_anon_6.__bindgen_anon_1.start_id = id;
        match call(bpf_cmd::BPF_BTF_GET_NEXT_ID, &mut attr) {
            Ok(_) => {}
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => {
                let text = format!("the kernel has no BTF object of the module {module}");
                return Err(io::Error::new(io::ErrorKind::NotFound, text));
            }
            Err(error) => return Err(error),
        }
        // SAFETY: the kernel wrote this member.
        id = unsafe { attr.__bindgen_anon_6.next_id };
        let mut attr = zeroed();
        attr.__bindgen_anon_6.__bindgen_anon_1.btf_id = id;
        // SAFETY: no pointers.
        match unsafe { call_for_fd(bpf_cmd::BPF_BTF_GET_FD_BY_ID, &mut attr) } {
            Ok(fd) if is_module(&fd, module)? => return Ok(fd),
            Ok(_) => {}
            // Gone since its id was listed.
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => {}
            Err(error) => return Err(error),
        }
    }
}

fn is_module(btf: &OwnedFd, module: &str) -> io::Result<bool> {
    let mut name = [0_u8; 64];
    // SAFETY: a plain C structure, valid when zero.
    let mut info = unsafe { std::mem::zeroed::<bpf_btf_info>() };
    info.name = name.as_mut_ptr() as u64;
    info.name_len = name.len() as u32;
    let mut attr = zeroed();
    attr.info.bpf_fd = btf.as_raw_fd().cast_unsigned();
    attr.info.info = (&raw mut info) as u64;
    attr.info.info_len = size_of::<bpf_btf_info>() as u32;
    match call(bpf_cmd::BPF_OBJ_GET_INFO_BY_FD, &mut attr) {
        Ok(_) => {
            let found = CStr::from_bytes_until_nul(&name).map(CStr::to_bytes);
            Ok(info.kernel_btf != 0 && found == Ok(module.as_bytes()))
        }
        // A name longer than the buffer is not ours.
        Err(error) if error.raw_os_error() == Some(libc::ENOSPC) => Ok(false),
        Err(error) => Err(error),
    }
}

fn zeroed() -> bpf_attr {
    // SAFETY: a plain C union, valid when zero.
    unsafe { std::mem::zeroed() }
}

fn call(command: bpf_cmd, attr: &mut bpf_attr) -> io::Result<RawFd> {
    // SAFETY: the attribute has the size given; what it points to is the caller's to keep alive.
    let done =
        unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_mut(attr), size_of::<bpf_attr>()) };
    if done < 0 { Err(io::Error::last_os_error()) } else { RawFd::try_from(done).map_err(io::Error::other) }
}

/// # Safety
/// The command must be one that answers with a new fd, and what the attribute points to must live.
// SAFETY: what the caller owes is said above, and each caller says why it holds.
unsafe fn call_for_fd(command: bpf_cmd, attr: &mut bpf_attr) -> io::Result<OwnedFd> {
    let fd = call(command, attr)?;
    // SAFETY: new, and nobody else's.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reason_is_the_end_of_the_log() {
        let log = "0: (b7) r0 = 0\n; x\n\nR1 invalid mem access 'inv'\nprocessed 3 insns (limit 1000000)\n";
        assert_eq!(last_lines(log), ": ; x | R1 invalid mem access 'inv'");
        assert_eq!(last_lines(""), "");
    }
}
