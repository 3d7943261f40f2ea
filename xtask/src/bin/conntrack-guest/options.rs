//! What follows a command: `--mechanism M`, `--size N`, `--seed N` and `--syn-retries N`.

use std::sync::OnceLock;

use anyhow::{Context as _, bail};

use crate::daemon;

static SIZE: OnceLock<u64> = OnceLock::new();
static SEED: OnceLock<u64> = OnceLock::new();
static SYN_RETRIES: OnceLock<Option<i32>> = OnceLock::new();

/// Takes them.
///
/// # Errors
/// When there is anything else.
pub(crate) fn take(args: &[String]) -> anyhow::Result<()> {
    for pair in args.chunks(2) {
        match pair {
            [flag, mechanism] if flag == "--mechanism" => daemon::force(mechanism.clone()),
            [flag, size] if flag == "--size" => {
                let size = size.parse().with_context(|| format!("--size {size}"))?;
                SIZE.get_or_init(|| size);
            }
            [flag, seed] if flag == "--seed" => {
                let seed = seed.parse().with_context(|| format!("--seed {seed}"))?;
                SEED.get_or_init(|| seed);
            }
            [flag, retries] if flag == "--syn-retries" => {
                let retries = match retries.as_str() {
                    "default" => None,
                    number => Some(number.parse().with_context(|| format!("--syn-retries {number}"))?),
                };
                SYN_RETRIES.get_or_init(|| retries);
            }
            _ => bail!("not understood: {pair:?}"),
        }
    }
    Ok(())
}

/// How large the test is to be: what was asked for, else this.
pub(crate) fn size_or(usual: u64) -> u64 {
    SIZE.get().copied().unwrap_or(usual)
}

/// What is drawn is drawn from this: what was asked for, else 1.
pub(crate) fn seed() -> u64 {
    SEED.get().copied().unwrap_or(1)
}

/// How often the kernel sends a SYN again that it is to give up: what was asked for, else once. None: as often as its
/// default has it, which takes 127 s.
pub(crate) fn syn_retries() -> Option<i32> {
    SYN_RETRIES.get().copied().unwrap_or(Some(1))
}
