//! Stage three: figures for each table from what was drained.

pub mod snapshot;
