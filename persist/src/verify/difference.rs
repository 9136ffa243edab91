//! The ways in which a file may differ from what it must be.

use std::fmt;

/// How a file differs from what it must be.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Difference {
    /// It is not there.
    Missing,
    /// It does not lie among the data files of the table, and is not read.
    Outside,
    /// It cannot be read, or its rows are none of the table.
    Unreadable {
        /// Why.
        why: String,
    },
    /// It has rows that no sink can read, whatever its types.
    Unfit {
        /// How many.
        rows: u64,
        /// What is wrong with the first of them.
        why: String,
    },
    /// It has another size, in bytes.
    Size {
        /// As in the log.
        expected: u64,
        /// As it is.
        found: u64,
    },
    /// It has another number of rows.
    Rows {
        /// As in the log.
        expected: u64,
        /// As it is.
        found: u64,
    },
    /// It has times outside of its bounds.
    Times {
        /// The least and greatest time in the log.
        expected: (i64, i64),
        /// The least and greatest time in it.
        found: (i64, i64),
    },
    /// Its rows have other fingerprints.
    Sums {
        /// The buckets whose sums differ, in order.
        buckets: Vec<u8>,
    },
    /// Its rows are as they were written, and what our tags say of them is wrong.
    Tags {
        /// What, in words.
        why: String,
    },
    /// It is said to be in the order of its fingerprints, and is not.
    Order,
    /// Its rows are those that were written, by the columns that it has; the columns of the table are others.
    Schema {
        /// The first difference, in words.
        why: String,
    },
    /// The log names it by a path that others cannot follow.
    Path {
        /// The path that they can.
        plain: String,
    },
    /// It has values that its statistics in the log, by which other readers leave out files, rule out.
    Statistics {
        /// The first of them, in words.
        why: String,
    },
    /// It cannot be had, or needs what this version does not understand: it may be as it should.
    Refused {
        /// Why.
        why: String,
    },
    /// Entries of the log are missing before it.
    EntriesMissing {
        /// The first.
        first: u64,
        /// The last.
        last: u64,
    },
    /// A directory is in its place.
    Folder,
    /// Something that is neither a file nor a directory is in its place.
    NoFile {
        /// What, in words.
        found: &'static str,
    },
    /// It is a checkpoint that holds other things than the entries lead to.
    Contradicts {
        /// The first of them, in words.
        why: String,
    },
    /// It is a checkpoint that the log's entries end before: those up to its version are missing, and readers go on from it all
    /// the same. Entries that follow it say nothing of that.
    Ahead {
        /// The last entry before it.
        end: u64,
    },
    /// It is the pointer to the newest checkpoint, and leads to none. The log is read without it; other readers may refuse
    /// the table.
    Pointer {
        /// The version that it leads to, if it can be read.
        to: Option<u64>,
    },
    /// It is the fence of a repair that was cut off before the table went back.
    CutOff {
        /// The version that the table was to go back to.
        to: u64,
    },
    /// It says of frontiers what no writer can have said.
    Frontier {
        /// What, in words.
        why: String,
    },
    /// It has rows without a time or without a multiplicity.
    Nulls {
        /// The rows without a time.
        times: u64,
        /// The rows without a multiplicity.
        diffs: u64,
    },
    /// It changed while a repair was under way, which left it alone.
    Changed,
    /// Rows, of which some are in this file, are there more often than 64 bits can say.
    Multiplicity {
        /// How many different ones.
        rows: usize,
    },
}

impl Difference {
    /// A word for the kind of damage, which scripts may depend on.
    pub fn kind(&self) -> &'static str {
        match self {
            Difference::Missing => "missing",
            Difference::Outside => "outside",
            Difference::Unreadable { .. } => "unreadable",
            Difference::Unfit { .. } => "unfit",
            Difference::Size { .. } => "size",
            Difference::Rows { .. } => "rows",
            Difference::Times { .. } => "times",
            Difference::Sums { .. } => "sums",
            Difference::Tags { .. } => "tags",
            Difference::Order => "order",
            Difference::Schema { .. } => "schema",
            Difference::Path { .. } => "path",
            Difference::Statistics { .. } => "statistics",
            Difference::CutOff { .. } => "cut off",
            Difference::Refused { .. } => "refused",
            Difference::EntriesMissing { .. } => "entries missing",
            Difference::Folder => "folder",
            Difference::NoFile { .. } => "no file",
            Difference::Contradicts { .. } => "contradicts",
            Difference::Ahead { .. } => "ahead",
            Difference::Pointer { .. } => "pointer",
            Difference::Frontier { .. } => "frontier",
            Difference::Nulls { .. } => "nulls",
            Difference::Changed => "changed",
            Difference::Multiplicity { .. } => "multiplicity",
        }
    }
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Difference::Missing => write!(f, "it is missing"),
            Difference::Outside => {
                write!(f, "it does not lie among the data files of the table")
            }
            Difference::Unreadable { why } => write!(f, "it cannot be read: {why}"),
            Difference::Unfit { rows, why } => {
                write!(f, "no sink can read {rows} of its rows: {why}")
            }
            Difference::Size { expected: 0, found } => write!(
                f,
                "it has {found} bytes where the log says none, and other readers go by that"
            ),
            Difference::Size { expected, found } => {
                write!(f, "it has {found} bytes where the log says {expected}")
            }
            Difference::Rows { expected, found } => {
                write!(f, "it has {found} rows where the log says {expected}")
            }
            Difference::Times { expected, found } => write!(
                f,
                "it has times {} to {} where the log says {} to {}",
                found.0, found.1, expected.0, expected.1
            ),
            Difference::Sums { buckets } => write!(
                f,
                "its rows are not those that were written: fingerprints differ in {} of 256 buckets",
                buckets.len()
            ),
            Difference::Tags { why } => write!(
                f,
                "its rows are as they were written, and its `mvsink.` tags in the log are wrong: {why}"
            ),
            Difference::Order => write!(f, "it is not in the order that the log says"),
            Difference::Schema { why } => write!(
                f,
                "its rows are as they were written, and the schema of the table is another one: {why}"
            ),
            Difference::Path { plain } => write!(
                f,
                "other readers cannot find it by that path, which is to be {plain}"
            ),
            Difference::Statistics { why } => {
                write!(f, "its statistics in the log are wrong: {why}")
            }
            Difference::CutOff { to } => write!(
                f,
                "a repair that was to go back to version {to} was cut off here"
            ),
            Difference::Refused { why } => write!(f, "it is refused: {why}"),
            Difference::EntriesMissing { first, last } if first == last => {
                write!(f, "entry {first} is missing from the log")
            }
            Difference::EntriesMissing { first, last } => {
                write!(f, "entries {first} to {last} are missing from the log")
            }
            Difference::Folder => write!(f, "a directory is in its place"),
            Difference::NoFile { found } => write!(f, "{found} is in its place"),
            Difference::Ahead { end } => write!(
                f,
                "the log's entries up to it end with entry {end}, and readers go on from it all the same"
            ),
            Difference::Contradicts { why } => write!(f, "it contradicts the log's entries: {why}"),
            Difference::Pointer { to: Some(version) } => write!(
                f,
                "it leads to version {version}, which has no checkpoint that can be read"
            ),
            Difference::Pointer { to: None } => {
                write!(f, "it leads to no checkpoint: it cannot be read")
            }
            Difference::Frontier { why } => write!(f, "no writer can have put it: {why}"),
            Difference::Nulls { times, diffs } => {
                let of = [(times, "mv_time"), (diffs, "mv_diff")];
                let of = of.iter().filter(|(rows, _)| **rows > 0);
                let of: Vec<_> = of
                    .map(|(rows, name)| format!("{rows} of its rows have no {name}"))
                    .collect();
                write!(f, "{}", of.join(", and "))
            }
            Difference::Changed => write!(f, "it changed while the repair was under way"),
            Difference::Multiplicity { rows } => {
                write!(
                    f,
                    "{rows} different rows are there more often than 64 bits can say"
                )
            }
        }
    }
}
