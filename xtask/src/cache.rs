//! The one folder that keeps downloads between runs.

use std::env;
use std::fs::{self, File};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// The cache folder: `$CONNTRACK_PRESSURE_CACHE`, else `conntrack-pressure` under the user's cache folder.
///
/// # Errors
/// When neither `$CONNTRACK_PRESSURE_CACHE`, `$XDG_CACHE_HOME` nor `$HOME` is set.
pub(crate) fn root() -> Result<PathBuf> {
    let set = |name: &str| env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    if let Some(folder) = set("CONNTRACK_PRESSURE_CACHE") {
        return Ok(folder);
    }
    let base = set("XDG_CACHE_HOME").or_else(|| Some(set("HOME")?.join(".cache")));
    let base = base.context("no place for downloads: set HOME or CONNTRACK_PRESSURE_CACHE")?;
    Ok(base.join("conntrack-pressure"))
}

/// A folder of the cache, made if it is missing.
///
/// # Errors
/// When it cannot be made.
pub(crate) fn folder(name: &str) -> Result<PathBuf> {
    let folder = root()?.join(name);
    fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    Ok(folder)
}

/// Holds `folder` for this process until the file is dropped: two runs do not fill one place at once.
///
/// # Errors
/// When the lock file cannot be made or locked.
pub(crate) fn lock(folder: &Path) -> Result<File> {
    let path = folder.join(".lock");
    let file = File::create(&path).with_context(|| format!("cannot make {}", path.display()))?;
    file.lock().with_context(|| format!("cannot lock {}", path.display()))?;
    Ok(file)
}

/// Whether `path` was written less than `seconds` ago.
pub(crate) fn is_younger(path: &Path, seconds: u64) -> bool {
    let written = fs::metadata(path).and_then(|metadata| metadata.modified());
    written.ok().and_then(|at| at.elapsed().ok()).is_some_and(|age| age.as_secs() < seconds)
}
