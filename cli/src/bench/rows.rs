//! The rows that are measured with: (u64 key, 40-byte string, u64, u64), all different.

use std::fmt::Write;

/// A row, as a dataflow has it.
pub type Row = (u64, String, u64, u64);

const TEXT: usize = 40;

/// Rows by number, in two allocations: what is measured of the sink's memory is then the sink's, and a row that is
/// taken from here costs what a dataflow's own would, an allocation and 64 bytes.
#[derive(Debug)]
pub struct Rows {
    keys: Vec<u64>,
    /// So many characters of each.
    text: String,
}

impl Rows {
    /// The first rows, the same in each run. They look random (the finalizer of splitmix64).
    pub fn new(count: usize) -> Self {
        let keys: Vec<u64> = (0..count as u64).map(key).collect();
        let mut text = String::with_capacity(count * TEXT);
        for key in &keys {
            // To a string there is no error.
            let _ = write!(text, "{key:020}{:020}", key.rotate_left(17) >> 1);
        }
        Rows { keys, text }
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.keys.len()
    }

    /// True if there is none.
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// The row of a number below [`Rows::len`].
    pub fn get(&self, number: usize) -> Row {
        let text = &self.text[number * TEXT..][..TEXT];
        let number_of_row = number as u64;
        (
            self.keys[number],
            text.to_owned(),
            number_of_row % 1000,
            number_of_row,
        )
    }
}

fn key(number: u64) -> u64 {
    let mut x = number.wrapping_mul(0x9E37_79B9_7F4A_7C15);
    x = (x ^ (x >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    // A bigint holds no more.
    (x ^ (x >> 31)) >> 1
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn rows_are_as_described_and_all_differ() {
        let rows = Rows::new(1000);
        assert_eq!(rows.len(), 1000);
        let all: BTreeSet<Row> = (0..1000).map(|number| rows.get(number)).collect();
        assert_eq!(all.len(), 1000);
        for (key, text, third, number) in all {
            assert_eq!(text.len(), 40);
            assert!(text.starts_with(&format!("{key:020}")));
            assert!(i64::try_from(key).is_ok());
            assert_eq!(third, number % 1000);
        }
    }
}
