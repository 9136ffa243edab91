//! The README, and the table of requirements, say what the code does.

use std::collections::BTreeSet;
use std::path::Path;

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

/// The functions of all Rust files below the root whose names begin with a requirement's number.
fn tests_of_requirements(directory: &Path, found: &mut BTreeSet<String>) {
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap_or_default();
        if path.is_dir() && name != "target" && name != ".git" {
            tests_of_requirements(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = std::fs::read_to_string(&path).unwrap();
            let functions = text.lines().filter_map(|line| {
                let name = line.trim_start().strip_prefix("fn r")?.split('(').next()?;
                let number = name.get(..3)?.strip_suffix('_')?;
                number.parse::<u8>().ok().map(|_| format!("r{name}"))
            });
            found.extend(functions);
        }
    }
}

#[test]
fn each_test_of_a_requirement_is_in_the_table_and_each_in_the_table_is_there() {
    let mut there = BTreeSet::new();
    tests_of_requirements(Path::new(env!("CARGO_MANIFEST_DIR")), &mut there);
    let table = include_str!("../docs/requirements.md");
    let quoted = table.split('`').skip(1).step_by(2);
    let is_test = |name: &&str| {
        there.contains(*name) || name.starts_with('r') && name[1..].starts_with(char::is_numeric)
    };
    // A name that ends in dots is one that stands in full elsewhere.
    let named = quoted.filter(is_test).filter(|name| !name.ends_with('…'));
    let named: BTreeSet<String> = named.map(str::to_owned).collect();
    let differing: Vec<_> = there.symmetric_difference(&named).collect();
    assert!(
        differing.is_empty(),
        "only in the sources, or only in the table: {differing:?}"
    );
    for number in 1..=29 {
        let prefix = format!("r{number:02}_");
        let has = |name: &String| name.contains(&prefix);
        assert!(named.iter().any(has), "R{number} has no test of its name");
    }
}
