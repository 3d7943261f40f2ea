//! Every run of a guest test by `matrix` from these very sources, kept so that a matrix that was interrupted, or
//! asked for in parts, goes on where it was. A run that failed is kept too: the report shows it beside a later one.

use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use crate::report::Row;

/// One run.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(crate) struct Attempt {
    /// How it ended.
    pub(crate) row: Row,
    /// Release and origin of the kernel that was booted; None: none was.
    pub(crate) booted: Option<String>,
}

/// The runs from one state of the sources; one JSON object a line in target/matrix/HASH.jsonl.
#[derive(Debug)]
pub(crate) struct Attempts {
    path: PathBuf,
    all: Vec<Attempt>,
}

impl Attempts {
    /// Those that there are.
    ///
    /// # Errors
    /// When the file is there and cannot be read, or is not ours.
    pub(crate) fn of(target: &Path, source_hash: &str) -> Result<Self> {
        let path = target.join("matrix").join(format!("{source_hash}.jsonl"));
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
            Err(error) => return Err(error).with_context(|| format!("cannot read {}", path.display())),
        };
        let parsed: serde_json::Result<_> = text.lines().map(serde_json::from_str).collect();
        let all = parsed.with_context(|| format!("{} is damaged: remove it", path.display()))?;
        Ok(Self { path, all })
    }

    /// All of them, in the order they were made.
    pub(crate) fn all(&self) -> &[Attempt] {
        &self.all
    }

    /// Whether one of this test on this kernel passed.
    pub(crate) fn passed(&self, suite: &str, kernel: &str) -> bool {
        self.of_test(suite, kernel).any(|attempt| attempt.row.result.is_ok())
    }

    /// Whether there is one of this test on this kernel.
    pub(crate) fn made(&self, suite: &str, kernel: &str) -> bool {
        self.of_test(suite, kernel).next().is_some()
    }

    fn of_test(&self, suite: &str, kernel: &str) -> impl Iterator<Item = &Attempt> {
        self.all.iter().filter(move |attempt| attempt.row.suite == suite && attempt.row.kernel == kernel)
    }

    /// Keeps one more.
    ///
    /// # Errors
    /// When it cannot be written.
    pub(crate) fn keep(&mut self, attempt: Attempt) -> Result<()> {
        let line = serde_json::to_string(&attempt)? + "\n";
        let write = || {
            fs::create_dir_all(self.path.parent().unwrap_or(Path::new(".")))?;
            OpenOptions::new().create(true).append(true).open(&self.path)?.write_all(line.as_bytes())
        };
        write().with_context(|| format!("cannot write {}", self.path.display()))?;
        self.all.push(attempt);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attempt(result: std::result::Result<(), String>) -> Attempt {
        let row = Row {
            suite: "churn".to_owned(),
            kernel: "6.1".to_owned(),
            result,
            figures: vec!["1 of 2".to_owned()],
            seconds: 1.5,
        };
        Attempt { row, booted: Some("6.1.9".to_owned()) }
    }

    #[test]
    fn what_was_kept_is_there_again_for_the_same_sources_only() {
        let folder = std::env::temp_dir().join(format!("conntrack-attempts-{}", std::process::id()));
        let mut attempts = Attempts::of(&folder, "abc").unwrap();
        assert!(!attempts.made("churn", "6.1"));
        attempts.keep(attempt(Err("70 of 2081\noff".to_owned()))).unwrap();
        assert!(attempts.made("churn", "6.1") && !attempts.passed("churn", "6.1"));
        attempts.keep(attempt(Ok(()))).unwrap();

        let again = Attempts::of(&folder, "abc").unwrap();
        assert_eq!(again.all().len(), 2);
        assert!(again.passed("churn", "6.1") && !again.passed("churn", "6.12") && !again.passed("gc", "6.1"));
        assert_eq!(again.all()[0].row.result, Err("70 of 2081\noff".to_owned()));
        assert!(Attempts::of(&folder, "abd").unwrap().all().is_empty());
        fs::remove_dir_all(folder).unwrap();
    }
}
