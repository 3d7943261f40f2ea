//! Stage one: the probes, from a table of data to what is attached.

pub mod attach;
pub mod bpf;
#[cfg(feature = "debug-log")]
mod debug_log;
pub mod fentry;
pub mod info;
pub mod load;
pub mod table;
pub mod without;
