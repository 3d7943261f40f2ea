//! Stage two: what the kernel and the probes have to say.

pub mod counters;
pub mod ct_entry;
pub mod ctnetlink;
pub mod directory;
pub mod events;
pub mod kernel_stats;
pub mod mapping;
pub mod netlink;
pub mod netns;
pub mod netns_enter;
pub mod nft_invalid;
pub mod nftables;
pub mod nlattr;
pub mod pending;
pub mod places;
pub mod pool;
pub mod presence;
pub mod rt_watch;
pub mod rtnetlink;
pub mod sources;
pub mod surroundings;
pub mod tcp_sysctls;
pub mod turns;
pub mod whole_dump;
pub mod words;
