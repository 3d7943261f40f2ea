//! Twins: the kernel skips a tracing program (fentry, fexit) while another task, or a softirq, is in the middle of
//! it on the same processor. So each that counts is attached twice. Whichever runs first does the work and leaves
//! a sign, the other takes the sign away; where it finds none, the first was skipped, and it does the work.

/// A probe whose programs have twins; the value is its word in the map `TURNS`, where what the second counted
/// for a first that was skipped is added up. Word 0 is the number, 1 or 2, of the program that runs first; 0: not
/// seen yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Twin {
    /// `nf_conntrack_free`
    Free = 1,
    /// `early_drop`
    EarlyDrop,
    /// `nf_ct_delete`
    Delete,
    /// `nf_ct_resolve_clash`
    Clash,
    /// `__nf_conntrack_confirm`
    Confirm,
    /// `__nf_conntrack_alloc`
    Alloc,
}

/// Words of the map `TURNS`.
pub const TURNS: u32 = 8;

/// Word of `TURNS`: entries that found no place and so are in their table's own account.
pub const TURN_UNPLACED: u32 = 7;
