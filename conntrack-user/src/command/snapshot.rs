//! `snapshot`: all that is known, as JSON.

use crate::aggregate::snapshot::Snapshot;

/// Indented JSON with a final newline.
///
/// # Errors
/// If the snapshot cannot be serialized.
pub fn json(snapshot: &Snapshot) -> anyhow::Result<String> {
    Ok(serde_json::to_string_pretty(snapshot)? + "\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::export::fixture;

    #[test]
    fn unknown_is_null_and_tables_have_owners() {
        let mut snapshot = fixture::snapshot();
        snapshot.tables[0].entries = None;
        let json: serde_json::Value = serde_json::from_str(&json(&snapshot).unwrap()).unwrap();
        assert!(json["tables"][0]["entries"].is_null());
        assert_eq!(json["tables"][1]["owner"]["owner"], "pod");
        assert_eq!(json["before_start"]["drop"], 17);
    }
}
