//! Stage five: metrics, log events, HTTP.

pub mod book;
pub mod coalesce;
pub mod coverage;
pub mod descriptors;
pub mod docs;
pub mod episode_event;
pub mod exporter;
pub mod http;
pub mod kernels_doc;
pub mod labels;
pub mod landing;
pub mod log;
pub mod log_event;
pub mod log_fields;
pub mod log_sentence;
pub mod node_metrics;
pub mod record;
pub mod snapshot_json;
pub mod table_metrics;
pub mod timestamp;
pub mod view;

#[cfg(test)]
mod exporter_tests;
#[cfg(test)]
pub(crate) mod fixture;
#[cfg(test)]
mod forget_tests;
#[cfg(test)]
pub(crate) mod golden;
#[cfg(test)]
mod http_tests;
#[cfg(test)]
mod log_event_tests;
