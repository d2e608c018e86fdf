//! DIALECTS.md says what the tables say.

use std::path::Path;

#[test]
fn the_page_is_what_the_tables_say() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../DIALECTS.md");
    let said = anyport::dialects_markdown();
    if std::env::var_os("UPDATE_DIALECTS").is_some_and(|value| value == "1") {
        std::fs::write(&path, &said).expect("the repository can be written");
    }
    let written = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(written == said, "DIALECTS.md is stale; run `just dialects`, or the tests with UPDATE_DIALECTS=1");
}
