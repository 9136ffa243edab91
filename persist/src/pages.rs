//! Bounds what a Parquet file makes its reader allocate, before it is read.
//!
//! Each page has a header (Thrift's compact protocol, structure `PageHeader` of the Parquet format) that says how many
//! bytes it has, compressed and not. The reader believes the second number and allocates that much: up to 2 GiB for a
//! page of ten bytes if the file is damaged. No codec can be that good, so
//!
//! ```text
//!   uncompressed ≤ compressed × (best ratio of the codec) + slack
//! ```
//!
//! holds for every page of a whole file, and with it memory is proportional to the file.

use parquet::basic::Compression;
use parquet::file::metadata::{ColumnChunkMetaData, ParquetMetaData};

/// What an empty page may claim.
const SLACK_BYTES: u64 = 1024;
/// Structures in structures that a header may have; it has two.
const DEPTH_MAX: u32 = 8;

/// Why the pages of the file cannot be as they say; may panic where the reader would.
pub(crate) fn check(bytes: &[u8], metadata: &ParquetMetaData) -> Result<(), String> {
    for group in metadata.row_groups() {
        for column in group.columns() {
            let (start, length) = column.byte_range();
            let end = start
                .checked_add(length)
                .filter(|end| *end <= bytes.len() as u64);
            let range =
                end.and_then(|end| Some(usize::try_from(start).ok()?..usize::try_from(end).ok()?));
            let chunk = range.and_then(|range| bytes.get(range)).ok_or_else(|| {
                format!(
                    "the pages of column {} lie outside of the file",
                    column.column_path()
                )
            })?;
            check_chunk(chunk, column)?;
        }
    }
    Ok(())
}

/// Which codec of the file is none that this version reads.
pub(crate) fn check_codecs(metadata: &ParquetMetaData) -> Result<(), String> {
    let groups = metadata.row_groups().iter();
    let mut columns = groups.flat_map(|group| group.columns());
    match columns.find(|column| column.compression() == Compression::LZO) {
        Some(column) => Err(format!(
            "the column {} is compressed with LZO, which is not supported",
            column.column_path()
        )),
        None => Ok(()),
    }
}

/// The same for the bytes of one column chunk.
pub(crate) fn check_chunk(chunk: &[u8], column: &ColumnChunkMetaData) -> Result<(), String> {
    check_pages(chunk, column.compression())
        .map_err(|why| format!("the pages of column {}: {why}", column.column_path()))
}

/// The best that a codec can do, as a ratio: the longest that its shortest command can produce.
fn best_ratio(codec: Compression) -> u64 {
    match codec {
        Compression::UNCOMPRESSED => 1,
        // A copy of 64 bytes takes 3.
        Compression::SNAPPY => 22,
        // A length grows by 255 with each byte.
        Compression::LZ4 | Compression::LZ4_RAW => 256,
        // A block of 128 KiB takes 4 bytes.
        Compression::ZSTD(_) => 32 * 1024 + 1,
        // A copy of 16 MiB, the most that a meta-block has, takes a few bytes.
        Compression::BROTLI(_) => 1 << 22,
        // A match of 258 bytes takes 2 bits.
        _ => 1040,
    }
}

fn check_pages(mut rest: &[u8], codec: Compression) -> Result<(), String> {
    let ratio = best_ratio(codec);
    while !rest.is_empty() {
        let mut header = Compact { rest };
        let sizes = header.page_header().ok_or("a header cannot be read")?;
        rest = header.rest;
        let (Ok(compressed), Ok(uncompressed)) = (
            usize::try_from(sizes.compressed),
            u64::try_from(sizes.uncompressed),
        ) else {
            return Err("a size is negative".into());
        };
        if uncompressed > compressed as u64 * ratio + SLACK_BYTES {
            return Err(format!("{compressed} bytes cannot hold {uncompressed}"));
        }
        rest = rest.get(compressed..).ok_or("one is cut off")?;
    }
    Ok(())
}

struct PageSizes {
    uncompressed: i64,
    compressed: i64,
}

/// A reader of Thrift's compact protocol, as far as it takes to find two fields.
struct Compact<'a> {
    rest: &'a [u8],
}

impl Compact<'_> {
    fn page_header(&mut self) -> Option<PageSizes> {
        let (mut uncompressed, mut compressed) = (None, None);
        let mut last = 0_i64;
        while let Some((id, kind)) = self.field(last)? {
            last = id;
            match (id, kind) {
                (2, 5) => uncompressed = Some(self.integer()?),
                (3, 5) => compressed = Some(self.integer()?),
                _ => self.skip(kind, DEPTH_MAX)?,
            }
        }
        Some(PageSizes {
            uncompressed: uncompressed?,
            compressed: compressed?,
        })
    }

    /// The next field's number and type; `Some(None)` at the end of the structure.
    #[allow(clippy::option_option, reason = "damaged, at the end, and found")]
    fn field(&mut self, last: i64) -> Option<Option<(i64, u8)>> {
        let head = self.byte()?;
        if head == 0 {
            return Some(None);
        }
        let id = match head >> 4 {
            0 => self.integer()?,
            step => last.checked_add(i64::from(step))?,
        };
        Some(Some((id, head & 0xf)))
    }

    fn byte(&mut self) -> Option<u8> {
        let (byte, rest) = self.rest.split_first()?;
        self.rest = rest;
        Some(*byte)
    }

    fn advance(&mut self, bytes: u64) -> Option<()> {
        self.rest = self.rest.get(usize::try_from(bytes).ok()?..)?;
        Some(())
    }

    fn unsigned(&mut self) -> Option<u64> {
        let mut value = 0_u64;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Some(value);
            }
        }
        None
    }

    fn integer(&mut self) -> Option<i64> {
        let zigzag = self.unsigned()?;
        let half = i64::try_from(zigzag >> 1).ok()?;
        Some(if zigzag & 1 == 0 { half } else { -half - 1 })
    }

    fn skip(&mut self, kind: u8, depth: u32) -> Option<()> {
        let depth = depth.checked_sub(1)?;
        match kind {
            // Booleans are in the type.
            1 | 2 => Some(()),
            3 => self.advance(1),
            4..=6 => self.unsigned().map(drop),
            7 => self.advance(8),
            8 => {
                let length = self.unsigned()?;
                self.advance(length)
            }
            9 | 10 => {
                let head = self.byte()?;
                let length = match head >> 4 {
                    15 => self.unsigned()?,
                    length => u64::from(length),
                };
                self.skip_elements(length, &[head & 0xf], depth)
            }
            11 => match self.unsigned()? {
                0 => Some(()),
                length => {
                    let kinds = self.byte()?;
                    self.skip_elements(length, &[kinds >> 4, kinds & 0xf], depth)
                }
            },
            12 => {
                let mut last = 0;
                while let Some((id, kind)) = self.field(last)? {
                    last = id;
                    self.skip(kind, depth)?;
                }
                Some(())
            }
            _ => None,
        }
    }

    fn skip_elements(&mut self, length: u64, kinds: &[u8], depth: u32) -> Option<()> {
        for _ in 0..length {
            for kind in kinds {
                match kind {
                    // In a list a boolean is a byte; so that every element takes one, and this ends.
                    1 | 2 => self.advance(1)?,
                    kind => self.skip(*kind, depth)?,
                }
            }
        }
        Some(())
    }
}
