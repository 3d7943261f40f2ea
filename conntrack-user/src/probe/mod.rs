//! Stage one: the probes, from a table of data to what is attached.

pub mod attach;
pub mod bpf;
pub mod fentry;
pub mod info;
pub mod table;
