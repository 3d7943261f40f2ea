//! Stage four: whose it is.

pub mod observed;
pub mod owner;
