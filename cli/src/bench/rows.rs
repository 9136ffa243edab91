//! The rows that are measured with: (u64 key, 40-byte string, u64, u64), all different.

/// A row, as a dataflow has it.
pub type Row = (u64, String, u64, u64);

const TEXT: usize = 40;
const LEN: usize = 8 + TEXT + 8 + 8;

/// Rows by number, in one allocation: what is measured of the sink's memory is then the sink's, and a row that is
/// taken from here costs what a dataflow's own would, an allocation and 64 bytes.
#[derive(Debug)]
pub struct Rows(Vec<u8>);

impl Rows {
    /// The first rows, the same in each run. They look random (the finalizer of splitmix64).
    pub fn new(count: usize) -> Self {
        let mut bytes = Vec::with_capacity(count * LEN);
        for number in 0..count as u64 {
            let mut x = number.wrapping_mul(0x9E37_79B9_7F4A_7C15);
            x = (x ^ (x >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
            x = (x ^ (x >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
            // A bigint holds no more.
            let key = (x ^ (x >> 31)) >> 1;
            let text = format!("{key:020}{:020}", key.rotate_left(17) >> 1);
            bytes.extend_from_slice(&key.to_le_bytes());
            bytes.extend_from_slice(text.as_bytes());
            bytes.extend_from_slice(&(number % 1000).to_le_bytes());
            bytes.extend_from_slice(&number.to_le_bytes());
        }
        Rows(bytes)
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len() / LEN
    }

    /// True if there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The row of a number below [`Rows::len`].
    pub fn get(&self, number: usize) -> Row {
        let row = &self.0[number * LEN..][..LEN];
        let (key, rest) = row.split_at(8);
        let (text, rest) = rest.split_at(TEXT);
        let (third, fourth) = rest.split_at(8);
        (
            word(key),
            String::from_utf8_lossy(text).into_owned(),
            word(third),
            word(fourth),
        )
    }
}

fn word(bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .rev()
        .fold(0, |word, byte| word << 8 | u64::from(*byte))
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
