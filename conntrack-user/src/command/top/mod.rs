//! `top`: who fills a table and who is hurt, live.
//!
//! [`feed`] brings documents (of a running daemon, or of stages in this process), [`wire`] reads them, [`history`]
//! makes rates of several, [`rows`] says who is culprit and who victim, [`state`] is what keys change, [`draw`] paints,
//! [`app`] ties them. Only [`feed`] and [`screen`] have effects.

pub mod app;
pub mod draw;
pub mod feed;
pub mod history;
pub mod numbers;
pub mod rows;
pub mod screen;
pub mod state;
pub mod wire;

#[cfg(test)]
mod draw_tests;
#[cfg(test)]
pub(crate) mod example;
