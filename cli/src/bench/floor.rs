//! The floor: what any sink has to pay for the same rows. A plain loop on one thread, with no dataflow, turns them into
//! Arrow, encodes them as one Parquet file, and commits that.

use mvsink::Context;
use mvsink::mvsink_persist::{
    Append, Appended, Codec, CommitId, EncodedFile, FileEncoder, FileMeta, Frontier, Open, Shard,
};

use super::rows::Row;
use crate::error::Error;

/// Rows turned into Arrow at once: as many as the sink does.
const CHUNK_ROWS: usize = 8192;

/// A shard of its own, and how far it is.
pub struct Floor<'a> {
    cx: &'a Context,
    codec: Codec<Row, String>,
    shard: Shard,
    nonce: u128,
    upper: i64,
}

impl<'a> Floor<'a> {
    /// A new shard at `url`.
    ///
    /// # Errors
    ///
    /// If it cannot be created.
    pub fn new(cx: &'a Context, url: &str) -> Result<Self, Error> {
        let codec = Codec::new()?;
        let open = cx.client().open_or_create(url, Open::new(codec.schema()));
        let shard = cx.client().handle().block_on(open)?;
        Ok(Floor {
            cx,
            codec,
            shard,
            nonce: cx.client().random_u128(),
            upper: 0,
        })
    }

    /// One file of these updates.
    ///
    /// # Errors
    ///
    /// If they do not fit the schema.
    pub fn encode(&self, updates: impl Iterator<Item = (Row, i64)>) -> Result<EncodedFile, Error> {
        let mut file = FileEncoder::new(self.codec.schema())?;
        let mut updates = updates.peekable();
        while updates.peek().is_some() {
            let chunk: Vec<_> = updates.by_ref().take(CHUNK_ROWS).collect();
            let timed = chunk.iter().map(|(row, diff)| (row, self.upper, *diff));
            file.write(&self.codec.encode(timed)?)?;
        }
        Ok(file.finish()?)
    }

    /// Puts the file and commits it.
    ///
    /// # Errors
    ///
    /// If the store fails, or somebody else writes there.
    pub fn commit(&mut self, file: EncodedFile) -> Result<(), Error> {
        self.append(Some(file))
    }

    /// Commits that time has passed, and brought nothing.
    ///
    /// # Errors
    ///
    /// If the store fails, or somebody else writes there.
    pub fn commit_nothing(&mut self) -> Result<(), Error> {
        self.append(None)
    }

    fn append(&mut self, file: Option<EncodedFile>) -> Result<(), Error> {
        let upper = self.upper + 1;
        let appended = self.cx.client().handle().block_on(async {
            let mut files = Vec::new();
            if let Some(file) = file {
                let meta = FileMeta::from(&file);
                files.push(self.shard.put_file(file.bytes, meta, &|_| ()).await?);
            }
            let append = Append {
                id: CommitId {
                    nonce: self.nonce,
                    seq: self.upper.unsigned_abs(),
                },
                lower: Frontier::At(self.upper),
                upper: Frontier::At(upper),
                files,
                since: None,
            };
            self.shard.append(append, &|_| ()).await
        })?;
        match appended {
            Appended::Committed { .. } => {
                self.upper = upper;
                Ok(())
            }
            Appended::Lost { .. } => Err(Error::Rival {
                url: self.shard.url().to_owned(),
            }),
        }
    }
}
