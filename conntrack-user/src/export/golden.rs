//! Comparing text with a file of the repository; `UPDATE_DOCS=1` rewrites the file.

use std::path::Path;

/// Panics unless the file, named from the repository's root, holds exactly `text`.
pub(crate) fn assert_file(path: &str, text: &str) {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path);
    if std::env::var_os("UPDATE_DOCS").is_some_and(|v| v == "1") {
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        std::fs::write(&file, text).unwrap();
    }
    let have = std::fs::read_to_string(&file).unwrap_or_default();
    let differs = have.lines().zip(text.lines()).position(|(a, b)| a != b);
    assert!(
        have == text,
        "{path} is out of date (first difference at line {}): run UPDATE_DOCS=1 cargo test -p conntrack-user --lib export",
        differs.unwrap_or(have.lines().count().min(text.lines().count())) + 1
    );
}
