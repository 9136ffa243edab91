//! The README says what the code does.

use mvsink::dyncfg::ConfigSet;

const README: &str = include_str!("../README.md");

#[test]
fn it_quotes_the_example_that_is_built() {
    let example = include_str!("../examples/embed.rs");
    assert!(
        README.contains(&format!("```rust\n{example}```\n")),
        "the README must quote examples/embed.rs verbatim"
    );
}

#[test]
fn it_lists_every_flag_with_its_default() {
    for (name, entry) in ConfigSet::new().entries() {
        let row = format!("| `{name}` | `{}` | {} |", entry.value, entry.description);
        assert!(README.contains(&row), "the README lacks the row\n{row}");
    }
}
