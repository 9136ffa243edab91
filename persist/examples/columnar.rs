//! A type that writes its columns itself, and is faster for it than serde can be.
//!
//! ```text
//! cargo run --release -p mvsink-persist --example columnar
//! ```

use std::error::Error;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow_array::builder::StringBuilder;
use arrow_array::{ArrayRef, Int64Array, StringArray};
use arrow_schema::{DataType, Field, Fields};
use mvsink_persist::Codec;
use mvsink_persist::columnar::{self, Columnar, Failure, required};
use serde::{Deserialize, Serialize};

/// Serde is still needed: rows are hashed by it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Order {
    key: u64,
    name: String,
    customer: u64,
    cents: u64,
}

impl Columnar for Order {
    fn fields() -> Fields {
        let bigint = |name| Field::new(name, DataType::UInt64, false);
        let name = Field::new("name", DataType::Utf8, false);
        vec![bigint("key"), name, bigint("customer"), bigint("cents")].into()
    }

    fn to_columns(rows: &[&Self]) -> Result<Vec<ArrayRef>, Failure> {
        let bigint = |field: fn(&Self) -> u64| -> Result<ArrayRef, Failure> {
            let values: Result<Vec<i64>, _> =
                rows.iter().map(|row| field(row).try_into()).collect();
            Ok(Arc::new(Int64Array::from(values?)))
        };
        let bytes = rows.iter().map(|row| row.name.len()).sum();
        let mut names = StringBuilder::with_capacity(rows.len(), bytes);
        rows.iter().for_each(|row| names.append_value(&row.name));
        Ok(vec![
            bigint(|row| row.key)?,
            Arc::new(names.finish()),
            bigint(|row| row.customer)?,
            bigint(|row| row.cents)?,
        ])
    }

    fn from_columns(columns: &[ArrayRef], push: &mut dyn FnMut(Self)) -> Result<(), Failure> {
        let key = required::<Int64Array>(columns, 0)?;
        let name = required::<StringArray>(columns, 1)?;
        let customer = required::<Int64Array>(columns, 2)?;
        let cents = required::<Int64Array>(columns, 3)?;
        for row in 0..key.len() {
            push(Order {
                key: key.value(row).try_into()?,
                name: name.value(row).to_owned(),
                customer: customer.value(row).try_into()?,
                cents: cents.value(row).try_into()?,
            });
        }
        Ok(())
    }
}

fn order(i: u64) -> Order {
    Order {
        key: i.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 1,
        name: format!("{i:040}"),
        customer: i % 1000,
        cents: i,
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let rows: Vec<Order> = (0..64 * 1024).map(order).collect();
    let by_serde = Codec::<Order, String>::new()?;
    let by_hand = Codec::<Order, String>::columnar()?;

    // It is the same: columns, rows, fingerprints, and what is refused.
    let mut special = rows[..100].to_vec();
    special.push(order(i64::MAX as u64));
    columnar::check(&by_serde, &special)?;
    special[0].cents = u64::MAX;
    columnar::check(&by_serde, &special)?;

    for (name, codec) in [("serde", &by_serde), ("by hand", &by_hand)] {
        let mut best = [Duration::MAX; 2];
        for _ in 0..20 {
            let start = Instant::now();
            let batch = codec.encode(rows.iter().map(|row| (row, 7, 1)))?;
            best[0] = best[0].min(start.elapsed());
            let start = Instant::now();
            let updates = codec.decode(&batch)?;
            best[1] = best[1].min(start.elapsed());
            assert_eq!(updates.ok[17].0, rows[17]);
        }
        let rate = |time: Duration| rows.len() as f64 / time.as_secs_f64() / 1e6;
        let [encode, decode] = best.map(rate);
        println!("{name:8} {encode:6.1} M rows/s to columns, {decode:6.1} M rows/s back");
    }
    Ok(())
}
