//! Facts about the running kernel: its release, its symbols, its types. The only readers of these; each takes
//! the place to read from, so that tests hand it fixtures.

pub mod btf;
#[cfg(test)]
mod btf_fixture;
mod btf_layout;
mod btf_names;
pub mod offsets;
pub mod release;
pub mod symbols;
