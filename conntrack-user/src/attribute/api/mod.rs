//! The pods of this node and the Services of the cluster as the Kubernetes API has them: of each a list, then a watch,
//! for as long as the daemon runs.
//!
//! | module | what it holds |
//! |---|---|
//! | `settings` | whether to ask an API server, which, and for which node |
//! | `kind` | what the watch has to know of pods and of Services |
//! | `wire`, `wire_service` | the API's JSON, of which only what is kept is read |
//! | `directory` | the pods, with those that are gone for a while yet: what is handed on |
//! | `services` | the Services, by what they are addressed at |
//! | `client` | one connection: a page of a list, a stream of changes; everything bounded in size and time |
//! | `lines` | a stream cut into lines |
//! | `failure`, `state`, `backoff` | what went wrong, what that makes of the state, how long to wait |
//! | `watch` | the loop over all that |
//! | `handle` | what the rest of the program holds |
//!
//! Nothing here blocks the daemon's rounds: they take the last directory and go on.

mod backoff;
mod client;
pub mod directory;
pub mod failure;
pub mod handle;
pub mod kind;
mod lines;
pub mod services;
pub mod settings;
pub mod state;
pub mod watch;
pub mod wire;
pub mod wire_service;
