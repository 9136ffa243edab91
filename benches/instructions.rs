//! The hot paths, each once, for a count of their instructions: `.ci/instructions.py` runs this under callgrind, which counts
//! between a measured function's entry and its exit. By itself it shows only that they run.
//!
//!     instructions insert|drain|encode|route
//!
//! What is measured has a function of its own, whose name the script knows; everything else is preparation.

use std::hint::black_box;

use mvsink::corrections::{Corrections, Drained};
use mvsink_persist::{Codec, EncodedFile, FileEncoder, Frontier, hash_data};

type Row = (u64, String, u64, u64);
type Updates = Vec<Vec<(Row, u64, i64)>>;
type Held = Corrections<Row, u64, i64, fn(&Row) -> u64>;

/// Of each path.
const ROWS: u64 = 50_000;

/// Rows of a container, as dataflows make them.
const CONTAINER: usize = 1024;

/// Rows turned into columns at once, as the sink does.
const CHUNK: usize = 8192;

fn row(number: u64) -> Row {
    let key = number.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 1;
    let text = format!("{key:020}{:020}", key.rotate_left(17) >> 1);
    (key, text, number % 1000, number)
}

fn updates() -> Updates {
    let rows: Vec<_> = (0..ROWS).map(|number| (row(number), 0, 1)).collect();
    rows.chunks(CONTAINER).map(<[_]>::to_vec).collect()
}

fn hash(row: &Row) -> u64 {
    hash_data(row).map_or(0, |hash| hash as u64)
}

fn empty() -> Held {
    let mut held = Corrections::new(hash as fn(&Row) -> u64);
    held.advance(0);
    held
}

#[inline(never)]
fn measured_insert(held: &mut Held, updates: Updates) {
    updates
        .into_iter()
        .for_each(|container| held.insert(container));
}

#[inline(never)]
fn measured_drain(held: &mut Held) -> Drained<Row, u64, i64> {
    held.drain(Frontier::At(1))
}

#[inline(never)]
fn measured_encode(codec: &Codec<Row, String>, rows: &[(Row, u64, i64)]) -> EncodedFile {
    let mut file = FileEncoder::new(codec.schema()).expect("a schema that Delta knows");
    for chunk in rows.chunks(CHUNK) {
        let updates = chunk
            .iter()
            .map(|(row, time, diff)| (row, *time as i64, *diff));
        let columns = codec.encode(updates).expect("rows of the schema");
        file.write(&columns).expect("columns of the schema");
    }
    file.finish().expect("a file")
}

#[inline(never)]
fn measured_route(updates: &Updates) -> u64 {
    let rows = updates.iter().flatten();
    rows.fold(0, |sum, (row, ..)| sum ^ hash(row))
}

fn main() {
    let named: Vec<String> = std::env::args()
        .skip(1)
        .filter(|argument| !argument.starts_with("--"))
        .collect();
    let paths = match named.is_empty() {
        true => ["insert", "drain", "encode", "route"]
            .map(str::to_owned)
            .to_vec(),
        false => named,
    };
    for path in paths {
        let updates = updates();
        match path.as_str() {
            "insert" => measured_insert(&mut black_box(empty()), updates),
            "drain" => {
                let mut held = empty();
                measured_insert(&mut held, updates);
                black_box(measured_drain(&mut held));
            }
            "encode" => {
                let codec = Codec::new().expect("a type that Delta knows");
                black_box(measured_encode(&codec, &updates.concat()));
            }
            "route" => {
                black_box(measured_route(&updates));
            }
            other => {
                eprintln!("no path is called {other}: insert, drain, encode, route");
                std::process::exit(2);
            }
        }
        println!("{path}: {ROWS} rows");
    }
}
