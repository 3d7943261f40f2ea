//! A small network inside the guest: client, NAT router and server, each in its own network namespace, and
//! the kernel's own word for what happened in it.
//!
//! ```text
//! client 10.0.1.2, fd00:1::2 ── 10.0.1.1, fd00:1::1 router 10.0.2.1, fd00:2::1 ── 10.0.2.2, fd00:2::2 server
//! ```

pub(crate) mod attempt;
pub(crate) mod books;
pub(crate) mod command;
pub(crate) mod connect;
pub(crate) mod container;
pub(crate) mod entries;
pub(crate) mod holdings;
pub(crate) mod kernel;
pub(crate) mod netns;
pub(crate) mod nft;
pub(crate) mod node;
pub(crate) mod packet;
pub(crate) mod pod;
pub(crate) mod process;
pub(crate) mod queue;
pub(crate) mod router;
pub(crate) mod sequence;
pub(crate) mod socket_option;
pub(crate) mod terminal;
pub(crate) mod traffic;
pub(crate) mod workload;
