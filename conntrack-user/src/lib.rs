//! conntrack-pressure: who fills the conntrack table, who is hurt, and what to do.
//!
//! Data flows one way: [`drain`] reads what the probes and the kernel count, [`aggregate`] makes figures for
//! each table, [`attribute`] finds the owners, [`export`] prints.

pub mod aggregate;
pub mod attribute;
pub mod drain;
pub mod export;
pub mod kernel;
