//! The table of `docs/verification.md` tells what the books say.

use std::path::Path;

use catena_tests::runs;

#[test]
fn the_table_tells_what_is_in_the_books() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let changed = runs::update(root).unwrap();
    assert!(!changed, "docs/verification.md told something else; it was made anew");
}
