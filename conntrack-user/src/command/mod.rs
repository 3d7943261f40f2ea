//! What each subcommand decides and prints; the effects are elsewhere.

pub mod check;
pub mod doctor;
pub mod doctor_text;
pub mod invalid_note;
pub mod remedy;
pub mod top;
