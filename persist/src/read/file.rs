//! One data file, read a row group at a time.
//!
//! ```text
//!   FileReader ── next_group (I/O) ──> Group ── next (computes: a batch) ──> …
//!        '------- reads ahead one group
//! ```
//!
//! A small file is read whole with one request. Of a larger one the footer is read, and then what the columns
//! asked for have in the row groups that may matter: others are neither fetched nor decoded. In memory are the
//! group that is being decoded, compressed, and at most the next.
//!
//! Fetching is asynchronous, and decoding a plain iterator that belongs on the pool for computations. What is
//! truncated or damaged is [`Error::Corrupt`] and names the file.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;

use arrow_array::RecordBatch;
use bytes::Bytes;
use object_store::path::Path;
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{
    ArrowReaderMetadata, ArrowReaderOptions, ParquetRecordBatchReaderBuilder,
};
use parquet::errors::ParquetError;
use parquet::file::metadata::{FooterTail, ParquetMetaDataReader, RowGroupMetaData};
use parquet::file::reader::ChunkReader;
use parquet::file::statistics::Statistics;

use crate::damage;
use crate::data_file::{DataFile, MAX_TIME_TAG, MIN_TIME_TAG};
use crate::error::Error;
use crate::file::{FileDecoder, column_twice, corrupt, guard, unreadable, unsupported};
use crate::pages;
use crate::read::filter::BoundFilter;
use crate::read::window::Window;
use crate::schema::TIME_COLUMN;
use crate::storage::Storage;
use crate::task::Task;

/// Files up to this size are read whole, with one request.
pub(crate) const WHOLE_BYTES_MAX: u64 = 1 << 20;
/// What is read for a footer at first; most are smaller.
const FOOTER_BYTES: u64 = 64 << 10;
/// The end of every Parquet file: the length of the metadata and a magic number.
const TAIL_BYTES: u64 = 8;

/// What is wanted of a file.
#[derive(Clone)]
pub(crate) struct Request {
    /// The columns to read, of which a file may lack some.
    pub(crate) columns: Arc<[String]>,
    /// The rows to read; others may come too.
    pub(crate) filter: BoundFilter,
    /// Rows with earlier times need not come.
    pub(crate) min_time: Option<i64>,
    /// Rows with later times need not come.
    pub(crate) max_time: Option<i64>,
    /// The rows of a batch, at most; wide rows make it fewer,
    pub(crate) batch_rows: usize,
    /// so that a batch has about these bytes.
    pub(crate) batch_bytes: u64,
}

/// The tags that hold the bounds of the times, as the writer of the file knew them.
fn tagged_times(file: &DataFile) -> (Option<i64>, Option<i64>) {
    // Statistics, which other programs write, say nothing of nulls.
    let tagged = |tag| file.tags.contains_key(tag);
    (
        file.min_time.filter(|_| tagged(MIN_TIME_TAG)),
        file.max_time.filter(|_| tagged(MAX_TIME_TAG)),
    )
}

impl Request {
    /// False only if no row of the file is wanted; nothing needs to be read to tell.
    pub(crate) fn may_match(&self, file: &DataFile) -> bool {
        let (min, max) = tagged_times(file);
        let late = min.zip(self.max_time).is_some_and(|(min, to)| min > to);
        let early = max.zip(self.min_time).is_some_and(|(max, from)| max < from);
        !late && !early
    }

    fn group_may_match(&self, metadata: &ArrowReaderMetadata, group: usize) -> bool {
        let Some(group_metadata) = metadata.metadata().row_groups().get(group) else {
            return true;
        };
        self.times_may_match(group_metadata).unwrap_or(true)
            && self.filter.may_match(metadata, group)
    }

    fn times_may_match(&self, group: &RowGroupMetaData) -> Option<bool> {
        let mut columns = group.columns().iter();
        let times = columns.find(|column| column.column_path().parts() == [TIME_COLUMN])?;
        let Statistics::Int64(times) = times.statistics()? else {
            return None;
        };
        if times.null_count_opt() != Some(0) {
            return None;
        }
        let late = self
            .max_time
            .is_some_and(|to| times.min_opt().is_some_and(|min| *min > to));
        let early = self
            .min_time
            .is_some_and(|from| times.max_opt().is_some_and(|max| *max < from));
        Some(!late && !early)
    }
}

/// A row group that is to be read.
struct Planned {
    index: usize,
    rows: u64,
    ranges: Vec<Range<u64>>,
    batch_rows: usize,
}

/// Reads a file's row groups.
pub(crate) struct FileReader {
    storage: Storage,
    location: Path,
    shown: String,
    size: u64,
    metadata: ArrowReaderMetadata,
    projection: ProjectionMask,
    /// The file, if it was read whole.
    whole: Option<Bytes>,
    groups: VecDeque<Planned>,
    /// The next group, on its way.
    ahead: Option<Task<Result<Vec<Bytes>, Error>>>,
    skipped_groups: usize,
}

/// A row group in memory: an iterator of its batches, which computes.
pub(crate) struct Group {
    decoder: FileDecoder,
    bytes: u64,
}

impl Group {
    /// What it holds, compressed, that its file does not hold anyway.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }
}

impl Iterator for Group {
    type Item = Result<RecordBatch, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        self.decoder.next()
    }
}

impl FileReader {
    /// Reads the footer, or a small file whole.
    ///
    /// # Errors
    /// [`Error::Corrupt`] if it is no Parquet file of the size that the log says, [`Error::MissingFile`] if it is
    /// not there, and permanent ones of the store.
    pub(crate) async fn open(
        storage: &Storage,
        file: &DataFile,
        request: &Request,
    ) -> Result<Self, Error> {
        let location = storage.data_location(&file.path)?;
        let shown = storage.show(&location);
        let size = file.size;
        let whole = if size <= WHOLE_BYTES_MAX {
            Some(
                storage
                    .get_existing(&location, &Storage::warn_of_retry)
                    .await?,
            )
        } else {
            None
        };
        let tail = match &whole {
            Some(bytes) => bytes.clone(),
            None => {
                let tail = storage
                    .get_parts(
                        &location,
                        size,
                        std::slice::from_ref(&(size - FOOTER_BYTES..size)),
                    )
                    .await?
                    .remove(0);
                let needed = guard(&shown, || footer_bytes(&tail))?
                    .map_err(|error| unreadable(&shown, &error))?;
                if needed > size {
                    return Err(corrupt(&shown, &"its footer is larger than the file"));
                }
                if needed <= FOOTER_BYTES {
                    tail
                } else {
                    let range = size - needed..size;
                    storage
                        .get_parts(&location, size, &[range])
                        .await?
                        .remove(0)
                }
            }
        };
        let size = match &whole {
            None => size,
            Some(bytes) => match damage::differs(file, bytes.len() as u64) {
                Some(damage) => return Err(damage.into_error(shown)),
                None => bytes.len() as u64,
            },
        };
        let plan = {
            let (shown, request) = (shown.clone(), request.clone());
            let whole = whole.is_some();
            move || guard(&shown, || plan(&shown, size, &tail, whole, &request))
        };
        let (metadata, projection, groups, skipped_groups) = storage.env.cpu.run(plan).await???;
        Ok(FileReader {
            storage: storage.clone(),
            location,
            shown,
            size,
            metadata,
            projection,
            whole,
            groups,
            ahead: None,
            skipped_groups,
        })
    }

    /// True if statistics told that some rows need not be read.
    pub(crate) fn skips(&self) -> bool {
        self.skipped_groups > 0
    }

    /// What it holds until it is dropped: all of a small file.
    pub(crate) fn bytes(&self) -> usize {
        self.whole.as_ref().map_or(0, Bytes::len)
    }

    /// The file's name in messages.
    pub(crate) fn shown(&self) -> &str {
        &self.shown
    }

    /// Starts to fetch the next group, so that [`FileReader::next_group`] need not wait for it.
    pub(crate) fn read_ahead(&mut self) {
        if self.ahead.is_some() || self.whole.is_some() {
            return;
        }
        let Some(next) = self.groups.front() else {
            return;
        };
        let (storage, location, size) = (self.storage.clone(), self.location.clone(), self.size);
        let ranges = next.ranges.clone();
        let span = tracing::debug_span!("read_ahead", file = %self.shown);
        let fetch = async move { storage.get_parts(&location, size, &ranges).await };
        self.ahead = Some(Task::spawn(&self.storage.env, span, fetch));
    }

    /// The next group that may matter, in memory; `None` at the end.
    ///
    /// # Errors
    /// As [`FileReader::open`]. Not to be called again after one, nor after its future was dropped.
    pub(crate) async fn next_group(&mut self) -> Result<Option<Group>, Error> {
        let Some(planned) = self.groups.pop_front() else {
            return Ok(None);
        };
        let window = match &self.whole {
            Some(bytes) => Window::new(self.size, vec![(0, bytes.clone())]),
            None => {
                let parts = match self.ahead.take() {
                    Some(ahead) => ahead.join().await??,
                    None => {
                        self.storage
                            .get_parts(&self.location, self.size, &planned.ranges)
                            .await?
                    }
                };
                let starts = planned.ranges.iter().map(|range| range.start);
                Window::new(self.size, starts.zip(parts).collect())
            }
        };
        let bytes = match &self.whole {
            Some(_) => 0,
            None => planned
                .ranges
                .iter()
                .map(|range| range.end - range.start)
                .sum(),
        };
        let group = self.metadata.metadata().row_group(planned.index);
        let build = || {
            let columns = group.columns().iter().enumerate();
            for (_, column) in columns.filter(|(leaf, _)| self.projection.leaf_included(*leaf)) {
                let (start, length) = column.byte_range();
                let length = usize::try_from(length)?;
                let chunk = window.get_bytes(start, length)?;
                pages::check_chunk(&chunk, column).map_err(ParquetError::General)?;
            }
            ParquetRecordBatchReaderBuilder::new_with_metadata(window, self.metadata.clone())
                .with_row_groups(vec![planned.index])
                .with_projection(self.projection.clone())
                .with_batch_size(planned.batch_rows)
                .build()
        };
        let reader = guard(&self.shown, build)?.map_err(|error| unreadable(&self.shown, &error))?;
        Ok(Some(Group {
            decoder: FileDecoder::new(self.shown.clone(), reader, planned.rows),
            bytes,
        }))
    }
}

/// How many bytes at the end of the file are its footer, by the last of them.
fn footer_bytes(tail: &Bytes) -> Result<u64, ParquetError> {
    let last = tail
        .last_chunk()
        .ok_or_else(|| ParquetError::EOF("it is too short".into()))?;
    let footer = FooterTail::try_new(last)?;
    if footer.is_encrypted_footer() {
        return Err(ParquetError::NYI("it is encrypted".into()));
    }
    Ok(footer.metadata_length() as u64 + TAIL_BYTES)
}

type Plan = (
    ArrowReaderMetadata,
    ProjectionMask,
    VecDeque<Planned>,
    usize,
);

/// What to read of a file of `size` bytes that ends with `tail`.
fn plan(
    shown: &str,
    size: u64,
    tail: &Bytes,
    whole: bool,
    request: &Request,
) -> Result<Plan, Error> {
    let failed = |error: ParquetError| unreadable(shown, &error);
    let footer = usize::try_from(footer_bytes(tail).map_err(failed)?).unwrap_or(usize::MAX);
    let start = tail
        .len()
        .checked_sub(footer)
        .ok_or_else(|| corrupt(shown, &"its footer is larger than the file"))?;
    let end = tail.len() - TAIL_BYTES as usize;
    let metadata = ParquetMetaDataReader::decode_metadata(&tail[start..end]).map_err(failed)?;
    pages::check_codecs(&metadata).map_err(|why| unsupported(shown, why))?;
    let options = ArrowReaderOptions::new().with_skip_arrow_metadata(true);
    let metadata = ArrowReaderMetadata::try_new(Arc::new(metadata), options).map_err(failed)?;
    if let Some(name) = column_twice(metadata.schema().fields()) {
        return Err(corrupt(shown, &format_args!("it has two columns {name}")));
    }

    let fields = metadata.schema().fields().iter().enumerate();
    let roots = fields.filter(|(_, field)| request.columns.contains(field.name()));
    let projection =
        ProjectionMask::roots(metadata.parquet_schema(), roots.map(|(index, _)| index));
    let mut groups = VecDeque::new();
    let mut skipped = 0;
    for (index, group) in metadata.metadata().row_groups().iter().enumerate() {
        let rows = u64::try_from(group.num_rows()).map_err(|error| corrupt(shown, &error))?;
        if !request.group_may_match(&metadata, index) {
            skipped += 1;
            continue;
        }
        let mut ranges = Vec::new();
        let mut decoded_bytes = 0;
        for (leaf, column) in group.columns().iter().enumerate() {
            if !projection.leaf_included(leaf) {
                continue;
            }
            let (start, length) = column.byte_range();
            match start.checked_add(length) {
                Some(end) if end <= size => ranges.push(start..end),
                _ => return Err(corrupt(shown, &"a column lies beyond its end")),
            }
            // Text that a dictionary has once is there once a row when it is decoded.
            let plain = column.unencoded_byte_array_data_bytes().unwrap_or(0);
            let stored = column.uncompressed_size();
            decoded_bytes += u64::try_from(plain.max(stored)).unwrap_or(0);
        }
        // A request for nothing is none: the rows are counted by the footer.
        ranges.retain(|range| !whole && !range.is_empty());
        let width = (decoded_bytes / rows.max(1)).max(1);
        let batch_rows = usize::try_from(request.batch_bytes / width).unwrap_or(usize::MAX);
        groups.push_back(Planned {
            index,
            rows,
            ranges,
            batch_rows: batch_rows.clamp(1, request.batch_rows.max(1)),
        });
    }
    Ok((metadata, projection, groups, skipped))
}
