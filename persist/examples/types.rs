//! Writes a table of dates, times, decimals, bytes and other types, for other readers to look at.
//!
//! `cargo run -p mvsink-persist --example types -- DIRECTORY`

use std::net::IpAddr;

use chrono::{DateTime, NaiveDate, NaiveDateTime, Utc};
use mvsink_persist::{
    Append, Appended, Client, ClientOptions, Codec, CommitId, FileEncoder, FileMeta, Frontier, Open,
};
use rust_decimal::Decimal;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// A row with one column of each type.
#[derive(Serialize, Deserialize)]
struct Order {
    id: u64,
    day: NaiveDate,
    at: DateTime<Utc>,
    local: NaiveDateTime,
    shipped: Option<DateTime<Utc>>,
    price: Decimal,
    discount: Option<Decimal>,
    wide: i128,
    grade: char,
    key: [u8; 4],
    blob: serde_bytes::ByteBuf,
    number: Uuid,
    address: IpAddr,
    days: Vec<NaiveDate>,
}

fn rows() -> Result<Vec<Order>, Box<dyn std::error::Error>> {
    let order = |id, day: &str, at: &str, price: &str, discount: Option<&str>| {
        let at: DateTime<Utc> = at.parse()?;
        Ok::<_, Box<dyn std::error::Error>>(Order {
            id,
            day: day.parse()?,
            at,
            local: at.naive_utc(),
            shipped: None,
            price: price.parse()?,
            discount: discount.map(str::parse).transpose()?,
            wide: -(10_i128.pow(38) - 1),
            grade: 'é',
            key: [0, 1, 254, 255],
            blob: serde_bytes::ByteBuf::from(vec![7; 3]),
            number: Uuid::from_u128(0x0011_2233_4455_6677_8899_aabb_ccdd_eeff),
            address: "2001:db8::1".parse()?,
            days: vec![day.parse()?],
        })
    };
    let first = order(1, "2026-02-28", "2026-02-28T23:59:59.123456Z", "1.50", None)?;
    let second = order(
        2,
        "0001-01-01",
        "1969-12-31T23:59:59.5Z",
        "-0.000000000000000001",
        Some("12.25"),
    )?;
    let shipped = Some("2026-03-01T00:00:00Z".parse()?);
    Ok(vec![first, Order { shipped, ..second }])
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let directory = std::env::args().nth(1).ok_or("usage: types DIRECTORY")?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let client = Client::new(runtime.handle().clone(), ClientOptions::default());
        let codec = Codec::<Order, String>::new()?;
        let open = Open::new(codec.schema());
        let shard = client.open_or_create(&directory, open).await?;
        let rows = rows()?;
        let mut file = FileEncoder::new(codec.schema())?;
        file.write(&codec.encode(rows.iter().map(|row| (row, 0, 1)))?)?;
        let file = file.finish()?;
        let meta = FileMeta::from(&file);
        let report = |error: &_| eprintln!("trying again: {error}");
        let file = shard.put_file(file.bytes, meta, &report).await?;
        let append = Append {
            id: CommitId {
                nonce: client.random_u128(),
                seq: 0,
            },
            lower: Frontier::At(0),
            upper: Frontier::At(1),
            files: vec![file],
            since: None,
        };
        match shard.append(append, &report).await? {
            Appended::Committed { version } => println!("version {version}"),
            Appended::Lost { upper } => println!("it is there already: the upper is {upper}"),
        }
        Ok(())
    })
}
