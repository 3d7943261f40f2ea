//! Guests: what they boot with, and running a command in one.

pub(crate) mod base;
pub(crate) mod cpio;
pub(crate) mod extra;
pub(crate) mod libraries;
pub(crate) mod modules;
pub(crate) mod vm;
