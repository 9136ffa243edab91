//! Parts of an object: how they are fetched, and how the Parquet reader finds them.

use std::ops::Range;
use std::sync::Arc;

use bytes::buf::Reader;
use bytes::{Buf, Bytes};
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};
use parquet::errors::ParquetError;
use parquet::file::reader::{ChunkReader, Length};

use crate::error::Error;
use crate::log::folder;
use crate::storage::Storage;

/// The parts of a file that are in memory, by their offsets. What lies outside reads as an unexpected end.
#[derive(Clone)]
pub(crate) struct Window {
    size: u64,
    parts: Arc<[(u64, Bytes)]>,
}

impl Window {
    /// `size` is that of the whole file.
    pub(crate) fn new(size: u64, parts: Vec<(u64, Bytes)>) -> Self {
        Window {
            size,
            parts: parts.into(),
        }
    }

    /// What is there from `start` to the end of its part.
    fn tail(&self, start: u64) -> Result<Bytes, ParquetError> {
        let found = self.parts.iter().find_map(|(offset, bytes)| {
            let skip = usize::try_from(start.checked_sub(*offset)?).ok()?;
            (skip < bytes.len()).then(|| bytes.slice(skip..))
        });
        found.ok_or_else(|| ParquetError::EOF(format!("nothing was read at offset {start}")))
    }
}

impl Length for Window {
    fn len(&self) -> u64 {
        self.size
    }
}

impl ChunkReader for Window {
    type T = Reader<Bytes>;

    fn get_read(&self, start: u64) -> Result<Self::T, ParquetError> {
        Ok(self.tail(start)?.reader())
    }

    fn get_bytes(&self, start: u64, length: usize) -> Result<Bytes, ParquetError> {
        if length == 0 {
            return Ok(Bytes::new());
        }
        let tail = self.tail(start)?;
        if tail.len() < length {
            return Err(ParquetError::EOF(format!(
                "{length} bytes at offset {start} end beyond what the file says it has"
            )));
        }
        Ok(tail.slice(..length))
    }
}

impl Storage {
    /// Where a data file lies, by its path in the log (which is percent-encoded, and may be absolute).
    ///
    /// # Errors
    /// [`Error::OutsideFile`] if it lies outside of the shard or in its log, or is no path.
    pub(crate) fn data_location(&self, path: &str) -> Result<Path, Error> {
        let relative = self.root.relative(path);
        let location = relative.and_then(|relative| Path::parse(relative).ok());
        let is_data = |location: &Path| !location.is_root() && !location.prefix_matches(&folder());
        location.filter(is_data).ok_or_else(|| Error::OutsideFile {
            path: format!("{}/{path}", self.url),
        })
    }

    /// Parts of an object that must be there and have `size` bytes; tried until the store answers.
    pub(crate) async fn get_parts(
        &self,
        path: &Path,
        size: u64,
        ranges: &[Range<u64>],
    ) -> Result<Vec<Bytes>, Error> {
        let corrupt = |found: u64| Error::Corrupt {
            path: self.show(path),
            why: format!("it has {found} bytes, and the log says {size}"),
        };
        let parts = self
            .retry(&Storage::warn_of_retry, || async {
                let failed = match self.store.get_ranges(path, ranges).await {
                    Ok(parts) => return Ok(parts),
                    Err(object_store::Error::NotFound { .. }) => {
                        return Err(Error::MissingFile {
                            path: self.show(path),
                        });
                    }
                    Err(error) => error,
                };
                // A range beyond the end is an error like any other to some stores, and would be tried for ever.
                if let Ok(meta) = self.store.head(path).await
                    && meta.size != size
                {
                    return Err(corrupt(meta.size));
                }
                Err(self.error("read", path, failed))
            })
            .await?;
        let short = ranges
            .iter()
            .zip(&parts)
            .find(|(range, part)| part.len() as u64 != range.end - range.start);
        match short {
            Some((range, part)) => Err(corrupt(range.start + part.len() as u64)),
            None => Ok(parts),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_read_is_there() {
        let parts = vec![
            (10, Bytes::from_static(b"abcd")),
            (20, Bytes::from_static(b"xy")),
        ];
        let window = Window::new(100, parts);
        assert_eq!(window.len(), 100);
        assert_eq!(window.get_bytes(11, 3).unwrap().as_ref(), b"bcd");
        assert_eq!(window.get_bytes(20, 2).unwrap().as_ref(), b"xy");
        assert_eq!(window.get_bytes(50, 0).unwrap().len(), 0);
        for (start, length) in [(9, 1), (13, 2), (14, 1), (22, 1)] {
            assert!(window.get_bytes(start, length).is_err(), "{start}");
        }
        assert!(window.get_read(30).is_err());
    }
}
