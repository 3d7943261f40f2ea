//! The directory: who owns an address, a device or a socket's cgroup in a table. The daemon writes it into an
//! array that it maps, the probes read it: no map call on either side, since those make the kernel skip kprobe
//! programs.
//!
//! Open addressing: an entry is within [`CHAIN`] places of where its key hashes to. Keys are never taken out,
//! only their value set to 0 and, later, another key of a chain that goes through the place put there.

/// Places of the directory; a power of two.
pub const DIRECTORY_PLACES: u32 = 16_384;

/// Places looked at for a key. At the quarter that the daemon fills at most, fewer than 1 in 10⁴ keys find none.
pub const CHAIN: u32 = 8;

/// What a key is about and in whose table: `kind << 32 | inode of the namespace`, and two words more.
pub type DirectoryKey = [u64; 3];

/// One place.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DirectoryEntry {
    /// Whose; the first word is 0 where no key has ever been.
    pub key: DirectoryKey,
    /// 0: nothing known. Else `account + 1` in the low half and `OWNER_*` flags in the high one.
    pub value: u64,
}

/// [`DirectoryEntry::value`], of a table: entries here have owners of their own. Without it all are the table's.
pub const OWNER_SEARCH: u64 = 1 << 32;
/// [`DirectoryEntry::value`], of an address: it is the node's own, so a socket tells more and a device nothing.
pub const OWNER_SELF: u64 = 1 << 33;
/// [`DirectoryEntry::value`], of an address: of a pod or container, which no socket overrules.
pub const OWNER_TENANT: u64 = 1 << 34;

const KIND_TABLE: u64 = 1 << 32;
const KIND_ADDRESS_V4: u64 = 2 << 32;
const KIND_ADDRESS_V6: u64 = 3 << 32;
const KIND_DEVICE: u64 = 4 << 32;
const KIND_CGROUP: u64 = 5 << 32;

/// `AF_INET6`.
const AF_INET6: u32 = 10;

/// The key of a table.
#[inline(always)]
#[must_use]
pub const fn table_key(netns: u32) -> DirectoryKey {
    [KIND_TABLE | netns as u64, 0, 0]
}

/// The key of an address, as in [`crate::Tuple::saddr`]. Loopback and link-local addresses, which each
/// namespace or link has for itself, are one key a kind: 127.0.0.0/8, 169.254.0.0/16, fe80::/10.
#[inline(always)]
#[must_use]
pub const fn address_key(netns: u32, l3num: u32, address: [u64; 2]) -> DirectoryKey {
    let [first, second] = [address[0] as u8, (address[0] >> 8) as u8];
    if l3num == AF_INET6 {
        let link_local = first == 0xfe && second & 0xc0 == 0x80;
        let key = KIND_ADDRESS_V6 | netns as u64;
        if link_local { [key, 0x80fe, 0] } else { [key, address[0], address[1]] }
    } else {
        let class = match (first, second) {
            (127, _) => 127,
            (169, 254) => 169 | 254 << 8,
            _ => address[0] as u32 as u64,
        };
        [KIND_ADDRESS_V4 | netns as u64, class, 0]
    }
}

/// The key of a device by which packets come in.
#[inline(always)]
#[must_use]
pub const fn device_key(netns: u32, ifindex: u32) -> DirectoryKey {
    [KIND_DEVICE | netns as u64, ifindex as u64, 0]
}

/// The key of a cgroup v2 id.
#[inline(always)]
#[must_use]
pub const fn cgroup_key(netns: u32, cgroup_id: u64) -> DirectoryKey {
    [KIND_CGROUP | netns as u64, cgroup_id, 0]
}

/// Where a key's chain begins, of any number of places; take it modulo that.
#[inline(always)]
#[must_use]
pub const fn hash(key: DirectoryKey) -> u32 {
    let mixed = key[0].wrapping_mul(0x9e37_79b9_7f4a_7c15)
        ^ key[1].wrapping_mul(0xc2b2_ae3d_27d4_eb4f)
        ^ key[2].wrapping_mul(0x1656_67b1_9e37_79f9);
    let mixed = mixed ^ mixed >> 29;
    (mixed.wrapping_mul(0xbf58_476d_1ce4_e5b9) >> 32) as u32
}

const _: () = assert!(size_of::<DirectoryEntry>() == 32);
const _: () = assert!(DIRECTORY_PLACES.is_power_of_two());
