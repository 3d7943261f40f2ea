//! Stage three: figures for each table from what was drained.

pub mod accounts;
pub mod audit;
pub mod books;
pub mod calm;
pub mod dump_owners;
pub mod dump_tier;
pub mod forecast;
pub mod gaps;
pub mod seed;
pub mod snapshot;
pub mod token_room;
pub mod watch;
