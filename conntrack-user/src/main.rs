//! The `conntrack-pressure` command.

fn main() {}
