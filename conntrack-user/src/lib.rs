//! conntrack-pressure: who fills the conntrack table, who is hurt, and what to do.
//!
//! Data flows one way: [`drain`] reads what the probes and the kernel count, [`aggregate`] makes figures for
//! each table, [`attribute`] finds the owners, [`export`] prints. [`cli`] and [`config`] say how; [`command`]
//! holds what each subcommand decides.

pub mod aggregate;
pub mod attribute;
pub mod cli;
pub mod command;
pub mod config;
pub mod daemon;
pub mod drain;
pub mod export;
pub mod kernel;
pub mod probe;
