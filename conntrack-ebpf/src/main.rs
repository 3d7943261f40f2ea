//! The probes of conntrack-pressure.
//!
//! Every hook is written once, as a handler over plain values; the programs around it only fetch those values
//! by the mechanism the kernel allows (fentry and fexit, kprobe and kretprobe, raw tracepoint).

#![no_std]
#![no_main]
#![feature(asm_experimental_arch)]

mod account;
mod directory;
mod emit;
mod kernel;
mod maps;
mod place;
mod probes;
mod stash;
mod table;
mod token;
mod turn;

#[cfg(not(test))]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

// The helpers that read kernel memory are for GPL programs only.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 4] = *b"GPL\0";
