//! The ABI between the probes and the daemon: what travels through maps, byte for byte.
//!
//! Everything is `repr(C)` with explicit padding and plain integers; sizes are asserted at compile time
//! so that the two sides cannot drift apart.

#![no_std]

pub mod account;
pub mod counter;
pub mod directory;
pub mod event;
pub mod offsets;
pub mod place;
pub mod token;
pub mod tuple;
pub mod turn;

pub use account::{AccountCounters, MAX_ACCOUNTS};
pub use counter::{Counter, TableCounters};
pub use event::{Control, Event, EventKind, SourceKey, SourceWindow};
pub use offsets::Offsets;
pub use token::{EvictionToken, RefusalToken};
pub use tuple::{FlowKey, Tuple};

/// How many conntrack tables (network namespaces) can be counted apart. Slot 0 is the overflow bucket:
/// what happens in a namespace that found no slot is still counted, there.
pub const MAX_TABLES: u32 = 1024;

/// The slot of everything that found no slot of its own.
pub const OVERFLOW_SLOT: u32 = 0;

/// Bytes of the ring buffer of events.
pub const RING_BYTES: u32 = 4 << 20;

/// Events one source (namespace and source address) may put in the ring in one window.
pub const SOURCE_BURST: u64 = 100;

/// Windows of the limiter. The first [`SHARED_SOURCES`] are shared, one by each kind of event, by sources that
/// found none of their own.
pub const MAX_SOURCES: u32 = 8192;

/// See [`MAX_SOURCES`]. More than the largest [`EventKind`].
pub const SHARED_SOURCES: u32 = 16;

/// Length of the limiter's window, nanoseconds.
pub const SOURCE_WINDOW_NS: u64 = 1_000_000_000;

#[cfg(feature = "user")]
mod pod {
    use super::{
        AccountCounters, Control, Event, EvictionToken, FlowKey, Offsets, RefusalToken, SourceKey,
        SourceWindow, TableCounters,
    };

    macro_rules! pod {
        ($($type:ty),*) => {$(
            // SAFETY: repr(C) or transparent, plain integers with explicit padding, valid for any bytes.
            unsafe impl aya::Pod for $type {}
        )*};
    }
    pod!(
        AccountCounters,
        Control,
        Event,
        EvictionToken,
        FlowKey,
        Offsets,
        RefusalToken,
        SourceKey,
        SourceWindow,
        TableCounters
    );
}
