//! Stage five: metrics, log events, HTTP.
