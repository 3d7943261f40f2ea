//! Kernels to boot: which there are, and getting one.

pub(crate) mod choice;
pub(crate) mod deb_version;
pub(crate) mod obtain;
