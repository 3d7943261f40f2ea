//! Stage four: whose it is.

pub mod api;
#[cfg(test)]
mod cgroup_grammar;
pub mod cgroup_path;
#[cfg(test)]
mod cgroup_properties;
pub mod cgroup_tree;
pub mod decode;
pub mod discover;
pub mod discovery;
pub mod entry_owners;
pub mod episodes;
pub mod index;
pub mod ledger;
pub mod local_addresses;
pub mod netns_owner;
pub mod observed;
pub mod owner;
pub mod pod_uid;
pub mod pods;
pub mod proc_cgroup;
pub mod survey;
pub mod telling;
pub mod verdict;
