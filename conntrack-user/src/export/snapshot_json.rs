//! All that is known, as JSON: what `/snapshot` answers and `snapshot` prints.

use std::time::Duration;

use serde::Serialize;

use super::view::{OwnerCounts, View};
use crate::aggregate::snapshot::Snapshot;

/// The document.
#[derive(Serialize)]
struct Document<'a> {
    /// Version of the program that made it.
    version: &'static str,
    /// Time since it was read; None: just now.
    age_seconds: Option<f64>,
    #[serde(flatten)]
    snapshot: &'a Snapshot,
    /// What each owner suffered since start; those who suffered nothing are not there.
    owner_losses: Vec<&'a OwnerCounts>,
}

fn document(view: &View, age: Option<Duration>) -> Document<'_> {
    Document {
        version: env!("CARGO_PKG_VERSION"),
        age_seconds: age.map(|age| age.as_secs_f64()),
        snapshot: &view.snapshot,
        owner_losses: view.owners.iter().filter(|owner| owner.drops > 0 || owner.evictions > 0).collect(),
    }
}

/// On one line, with a final newline. `age`: how long ago it was read.
///
/// # Errors
/// If it cannot be serialized.
pub fn line(view: &View, age: Option<Duration>) -> anyhow::Result<String> {
    Ok(serde_json::to_string(&document(view, age))? + "\n")
}

/// Indented, with a final newline.
///
/// # Errors
/// If it cannot be serialized.
pub fn indented(view: &View) -> anyhow::Result<String> {
    Ok(serde_json::to_string_pretty(&document(view, None))? + "\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::export::fixture;

    #[test]
    fn unknown_is_null_and_owners_are_named_alike() {
        let mut view = fixture::view();
        view.snapshot.tables[0].entries = None;
        let text = indented(&view).unwrap();
        let json: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert!(json["tables"][0]["entries"].is_null() && json["age_seconds"].is_null());
        assert_eq!(json["tables"][1]["owner"]["owner"], "pod");
        assert_eq!(json["before_start"]["drop"], 17);
        let loss = &json["owner_losses"][0];
        assert_eq!((loss["owner"].as_str(), loss["pod"].as_str()), (Some("pod"), Some("web-0")));
        assert_eq!((loss["table"].as_str(), loss["drops"].as_u64()), (Some("host"), Some(25)));
        let line = line(&view, Some(Duration::from_millis(500))).unwrap();
        assert_eq!(line.matches('\n').count(), 1);
        let mut same: serde_json::Value = serde_json::from_str(&line).unwrap();
        assert_eq!(same["age_seconds"], 0.5);
        same["age_seconds"] = serde_json::Value::Null;
        assert_eq!(same, json);
    }
}
