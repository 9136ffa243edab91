//! Rows of dates, times, decimals, and of columns that are given: into a shard, out of it, and compared with it.

use std::collections::BTreeMap;
use std::sync::Arc;

use chrono::{DateTime, NaiveDate, NaiveDateTime, TimeDelta, Utc};
use differential_dataflow::input::InputSession;
use mvsink::mvsink_persist::arrow_array::{ArrayRef, Int64Array};
use mvsink::mvsink_persist::arrow_schema::{DataType, Field, Fields};
use mvsink::mvsink_persist::columnar::{Columnar, Failure, required};
use mvsink::{
    Codec, Context, Data, Frontier, Handle, Status, Target, no_errors, persist_sink,
    persist_sink_with, persist_source_with,
};
use object_store::memory::InMemory;
use rust_decimal::Decimal;
use serde::{Deserialize, Serialize};
use timely::Config;
use timely::dataflow::operators::Inspect;

use crate::support::{Driver, runtime, until};

const URL: &str = "memory://shared";

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
struct Order {
    id: u64,
    day: NaiveDate,
    at: DateTime<Utc>,
    local: Option<NaiveDateTime>,
    price: Decimal,
    grade: char,
    key: [u8; 4],
    wide: u128,
    history: Vec<(NaiveDate, Option<Decimal>)>,
}

fn order(id: u64) -> Order {
    let at = DateTime::from_timestamp_micros(1_700_000_000_000_000 + 1_234_567 * id as i64);
    let at = at.expect("a time");
    Order {
        id,
        day: at.date_naive(),
        at,
        local: (!id.is_multiple_of(3)).then(|| at.naive_utc()),
        price: Decimal::new(id as i64 * 105, 2),
        grade: char::from(b'a' + (id % 26) as u8),
        key: (id as u32).to_be_bytes(),
        wide: u128::from(id) << 64,
        history: (0..id % 3)
            .map(|n| (at.date_naive(), (n > 0).then(|| Decimal::new(5, 1))))
            .collect(),
    }
}

type Sunk<'a, D> = dyn Fn(&mut timely::worker::Worker, &Context) -> (InputSession<u64, D, i64>, Handle<u64>)
    + Send
    + Sync
    + 'a;

/// Writes rows at a time until they are durable, and stops. Returns how many rows were read back for that.
fn write<D: Data>(
    cx: &Context,
    workers: usize,
    sink: Arc<Sunk<'static, D>>,
    rows: Vec<D>,
    end: u64,
) -> u64 {
    let cx = cx.clone();
    let settled = cx.clone();
    let guards = timely::execute(Config::process(workers), move |worker| {
        let (mut input, handle) = sink(worker, &cx);
        if worker.index() == 0 {
            rows.iter().for_each(|row| input.update(row.clone(), 1));
        }
        input.advance_to(end);
        input.flush();
        until(worker, || {
            handle.frontier() >= Frontier::At(end)
                || matches!(handle.status(), Status::Failed { .. })
        });
        assert!(
            !matches!(handle.status(), Status::Failed { .. }),
            "{}",
            handle.status()
        );
        let read_back = handle.counters().rows_read_back;
        drop(handle);
        for index in worker.installed_dataflows() {
            worker.drop_dataflow(index);
        }
        read_back
    });
    let read_back = guards.unwrap().join().into_iter().map(Result::unwrap).max();
    settled.client().handle().block_on(settled.settled());
    read_back.unwrap_or(0)
}

fn sunk<D: Data>(
    codec: impl Fn() -> Codec<D, String> + Send + Sync + 'static,
) -> Arc<Sunk<'static, D>> {
    Arc::new(move |worker, cx| {
        worker.dataflow(|scope| {
            let mut input = InputSession::new();
            let rows = input.to_collection(scope);
            let errors = no_errors::<u64, String, i64>(scope);
            let handle = persist_sink_with(cx, "orders", URL, codec(), rows, errors, 0).unwrap();
            (input, handle)
        })
    })
}

/// What a source gives of the shard at a time.
fn read<D: Data>(
    cx: &Context,
    codec: impl Fn() -> Codec<D, String> + Send + Sync + 'static,
    at: u64,
) -> BTreeMap<D, i64> {
    let context = cx.clone();
    let rows = Rows::default();
    let sender = Arc::clone(&rows);
    let guards = timely::execute(Config::thread(), move |worker| {
        let sender = sender.clone();
        let handle = worker.dataflow::<u64, _, _>(|scope| {
            let source =
                persist_source_with::<D, String, _, i64>(&context, scope, "read", URL, codec(), at)
                    .unwrap();
            source.ok.inner.inspect(move |(row, time, diff)| {
                if *time <= at {
                    sender.lock().unwrap().push((row.clone(), *diff));
                }
            });
            source.handle
        });
        until(worker, || {
            handle.frontier() > Frontier::At(at) || matches!(handle.status(), Status::Failed { .. })
        });
        assert!(
            !matches!(handle.status(), Status::Failed { .. }),
            "{}",
            handle.status()
        );
        // What the source has said is in the dataflow by now, or within a few steps.
        for _ in 0..10 {
            worker.step();
        }
        drop(handle);
        for index in worker.installed_dataflows() {
            worker.drop_dataflow(index);
        }
    });
    guards.unwrap().join().into_iter().for_each(Result::unwrap);
    let mut contents = BTreeMap::new();
    for (row, diff) in rows.lock().unwrap().drain(..) {
        *contents.entry(row).or_insert(0) += diff;
    }
    contents.retain(|_, count| *count != 0);
    contents
}

type Rows<D> = Arc<std::sync::Mutex<Vec<(D, i64)>>>;

fn once<D: Data>(rows: &[D]) -> BTreeMap<D, i64> {
    rows.iter().map(|row| (row.clone(), 1)).collect()
}

fn told() -> Codec<Order, String> {
    Codec::new().unwrap()
}

fn rows_come_back_and_a_restart_reads_none(driver: Driver) {
    let runtime = runtime();
    let cx = driver.context(&runtime);
    let rows: Vec<_> = (0..60).map(order).collect();
    write(&cx, 2, sunk(told), rows.clone(), 1);
    assert_eq!(read(&cx, told, 0), once(&rows));
    // Equal rows that are written otherwise, too.
    let mut again = rows.clone();
    again[4].price = Decimal::new(4_2000, 4);
    assert_eq!(again, rows);
    let read_back = write(&cx, 2, sunk(told), again, 2);
    assert_eq!(read_back, 0, "compared by fingerprints alone");
    let mut changed = rows[1..].to_vec();
    changed.push(order(100));
    write(&cx, 3, sunk(told), changed.clone(), 3);
    assert_eq!(read(&cx, told, 2), once(&changed));
}

#[test]
fn rows_of_dates_and_decimals_come_back_and_a_restart_reads_none() {
    rows_come_back_and_a_restart_reads_none(Driver::Sync);
}

#[test]
fn rows_of_dates_and_decimals_come_back_and_a_restart_reads_none_async() {
    rows_come_back_and_a_restart_reads_none(Driver::Async);
}

#[test]
fn the_sink_fails_by_name_on_a_value_that_a_column_would_change() {
    let runtime = runtime();
    let cx = Driver::Sync.context(&runtime);
    let mut odd = order(7);
    odd.at += TimeDelta::nanoseconds(1);
    let status = timely::execute_directly(move |worker| {
        let (mut input, handle) = worker.dataflow::<u64, _, _>(|scope| {
            let mut input = InputSession::new();
            let rows = input.to_collection(scope);
            let errors = no_errors::<u64, String, i64>(scope);
            (
                input,
                persist_sink(&cx, "orders", URL, rows, errors, 0).unwrap(),
            )
        });
        input.update(odd.clone(), 1);
        input.advance_to(1);
        input.flush();
        until(worker, || matches!(handle.status(), Status::Failed { .. }));
        for index in worker.installed_dataflows() {
            worker.drop_dataflow(index);
        }
        handle.status().to_string()
    });
    assert!(
        status.contains("column `at`") && status.contains("microseconds"),
        "{status}"
    );
}

/// A number of microseconds, which is to be a timestamp.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
struct Tick {
    id: i64,
    at: i64,
}

fn tick(id: i64) -> Tick {
    Tick {
        id,
        at: id * 500_000,
    }
}

fn moment() -> DataType {
    use mvsink::mvsink_persist::arrow_schema::TimeUnit;
    DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()))
}

impl Columnar for Tick {
    fn fields() -> Fields {
        vec![
            Field::new("id", DataType::Int64, false),
            Field::new("at", moment(), false),
        ]
        .into()
    }

    fn to_columns(rows: &[&Self]) -> Result<Vec<ArrayRef>, Failure> {
        use mvsink::mvsink_persist::arrow_array::TimestampMicrosecondArray;
        let ids = Int64Array::from_iter_values(rows.iter().map(|row| row.id));
        let at = TimestampMicrosecondArray::from_iter_values(rows.iter().map(|row| row.at));
        Ok(vec![Arc::new(ids), Arc::new(at.with_timezone("UTC"))])
    }

    fn from_columns(columns: &[ArrayRef], push: &mut dyn FnMut(Self)) -> Result<(), Failure> {
        use mvsink::mvsink_persist::arrow_array::TimestampMicrosecondArray;
        let ids: &Int64Array = required(columns, 0)?;
        let at: &TimestampMicrosecondArray = required(columns, 1)?;
        let rows = ids.values().iter().zip(at.values());
        rows.for_each(|(id, at)| push(Tick { id: *id, at: *at }));
        Ok(())
    }
}

/// One codec writes, another takes over and writes on, and none needs to read what the other wrote.
#[test]
fn codecs_of_the_same_columns_share_a_shard() {
    let runtime = runtime();
    let cx = Driver::Sync.context(&runtime);
    let by_hand = || Codec::<Tick, String>::columnar().unwrap();
    let given = || Codec::<Tick, String>::with_fields(Tick::fields()).unwrap();
    let single = || {
        Codec::<Tick, String>::new()
            .unwrap()
            .with_column("at", moment())
            .unwrap()
    };
    let rows: Vec<_> = (0..40).map(tick).collect();
    write(&cx, 3, sunk(by_hand), rows[..20].to_vec(), 1);
    assert_eq!(write(&cx, 2, sunk(given), rows[..20].to_vec(), 2), 0);
    assert_eq!(write(&cx, 2, sunk(single), rows[..20].to_vec(), 3), 0);
    write(&cx, 3, sunk(by_hand), rows[5..].to_vec(), 4);
    assert_eq!(read(&cx, by_hand, 2), once(&rows[..20]));
    assert_eq!(read(&cx, given, 3), once(&rows[5..]));
    assert_eq!(read(&cx, single, 3), once(&rows[5..]));
}

/// As earlier versions stored [`Graded`]: a character as its number, an array of bytes as a struct.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
struct Earlier {
    id: u64,
    grade: Option<u32>,
    key: (u8, u8, u8),
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
struct Graded {
    id: u64,
    grade: Option<char>,
    key: [u8; 3],
}

fn graded(id: u64) -> Graded {
    Graded {
        id,
        grade: (!id.is_multiple_of(4)).then(|| char::from(b'a' + (id % 26) as u8)),
        key: [id as u8, 0, 255],
    }
}

fn earlier(id: u64) -> Earlier {
    let Graded { id, grade, key } = graded(id);
    Earlier {
        id,
        grade: grade.map(u32::from),
        key: key.into(),
    }
}

fn a_table_of_an_earlier_version_goes_on(driver: Driver) {
    let runtime = runtime();
    let cx = driver.context(&runtime);
    let former = || Codec::<Earlier, String>::new().unwrap();
    let now = || Codec::<Graded, String>::new().unwrap();
    assert_ne!(former().schema(), now().schema());
    let olds: Vec<_> = (0..40).map(earlier).collect();
    let rows: Vec<_> = (0..40).map(graded).collect();
    write(&cx, 2, sunk(former), olds.clone(), 1);
    assert_eq!(read(&cx, now, 0), once(&rows));
    // Nothing differs, so nothing is written.
    write(&cx, 2, sunk(now), rows.clone(), 2);
    let stored = |cx: &Context| {
        let shard = cx
            .client()
            .handle()
            .block_on(cx.client().open_existing(URL))
            .unwrap();
        shard
            .pin()
            .files()
            .filter_map(|file| file.rows)
            .sum::<u64>()
    };
    assert_eq!(stored(&cx), 40);
    write(&cx, 3, sunk(now), (10..50).map(graded).collect(), 3);
    assert_eq!(stored(&cx), 60, "ten rows come, and ten go");
    assert_eq!(read(&cx, now, 1), once(&rows));
    assert_eq!(read(&cx, former, 1), once(&olds));
    assert_eq!(
        read(&cx, now, 2),
        (10..50).map(|id| (graded(id), 1)).collect()
    );
}

#[test]
fn a_sink_goes_on_with_a_table_whose_characters_are_numbers() {
    a_table_of_an_earlier_version_goes_on(Driver::Sync);
}

#[test]
fn a_sink_goes_on_with_a_table_whose_characters_are_numbers_async() {
    a_table_of_an_earlier_version_goes_on(Driver::Async);
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
struct Older {
    id: u64,
    name: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
struct Newer {
    id: u64,
    name: Option<String>,
    score: Option<i64>,
    place: Option<(i32, i32)>,
}

fn older(id: u64) -> Older {
    let name = (!id.is_multiple_of(3)).then(|| format!("name {id}"));
    Older { id, name }
}

fn newer(id: u64) -> Newer {
    let Older { id, name } = older(id);
    Newer {
        id,
        name,
        score: (id.is_multiple_of(2)).then_some(id as i64),
        place: (id % 4 == 1).then_some((1, id as i32)),
    }
}

fn codec_of<D: Data>() -> Codec<D, String> {
    Codec::new().unwrap()
}

fn an_option_of_the_type_becomes_a_column(driver: Driver) {
    let runtime = runtime();
    let cx = driver.context(&runtime);
    let olds: Vec<_> = (0..40).map(older).collect();
    write(&cx, 2, sunk(codec_of::<Older>), olds.clone(), 1);
    // A reader of the new type has none where there is no column.
    let without = |id| Newer {
        score: None,
        place: None,
        ..newer(id)
    };
    let nones: Vec<_> = (0..40).map(without).collect();
    assert_eq!(read(&cx, codec_of::<Newer>, 0), once(&nones));
    let news: Vec<_> = (0..40).map(newer).collect();
    write(&cx, 2, sunk(codec_of::<Newer>), news.clone(), 2);
    assert_eq!(read(&cx, codec_of::<Newer>, 1), once(&news));
    // One of the old type takes no notice of columns that it does not know.
    assert_eq!(read(&cx, codec_of::<Older>, 1), once(&olds));
    // Nor does a sink: what it keeps is there.
    write(&cx, 2, sunk(codec_of::<Older>), olds.clone(), 3);
    assert_eq!(read(&cx, codec_of::<Newer>, 2), once(&news));
    // Its own rows have nulls, which the next one of the new type corrects.
    write(
        &cx,
        2,
        sunk(codec_of::<Older>),
        (0..44).map(older).collect(),
        4,
    );
    let mut mixed = news.clone();
    mixed.extend((40..44).map(without));
    assert_eq!(read(&cx, codec_of::<Newer>, 3), once(&mixed));
    let news: Vec<_> = (0..44).map(newer).collect();
    write(&cx, 2, sunk(codec_of::<Newer>), news.clone(), 5);
    assert_eq!(read(&cx, codec_of::<Newer>, 4), once(&news));
    assert_eq!(
        write(&cx, 2, sunk(codec_of::<Newer>), news, 6),
        0,
        "compared by fingerprints alone"
    );
}

#[test]
fn an_option_that_the_type_gets_becomes_a_column() {
    an_option_of_the_type_becomes_a_column(Driver::Sync);
}

#[test]
fn an_option_that_the_type_gets_becomes_a_column_async() {
    an_option_of_the_type_becomes_a_column(Driver::Async);
}

/// The old and the new program at once, in two processes: neither fails, and what the old one writes is corrected.
#[test]
fn replicas_of_the_old_and_the_new_type_end_with_the_rows_of_the_new_one() {
    let runtime = runtime();
    let contexts = Driver::Sync.contexts(&runtime, 2, Arc::new(InMemory::new()));
    timely::execute_directly(move |worker| {
        let (mut old, mut new) = (InputSession::new(), InputSession::new());
        let url = URL;
        let handles = worker.dataflow::<u64, _, _>(|scope| {
            let rows = old.to_collection(scope);
            let errors = no_errors::<u64, String, i64>(scope);
            let of_old = persist_sink(&contexts[0], "old", url, rows, errors, 0).unwrap();
            let rows = new.to_collection(scope);
            let errors = no_errors::<u64, String, i64>(scope);
            let of_new = persist_sink(&contexts[1], "new", url, rows, errors, 0).unwrap();
            [of_old, of_new]
        });
        let mut advance = |worker: &mut timely::worker::Worker, time: u64, ids: &[u64], alone| {
            for id in ids {
                old.update(older(*id), 1);
                new.update(newer(*id), 1);
            }
            new.advance_to(time);
            new.flush();
            if alone {
                until(worker, || handles[1].frontier() >= Frontier::At(time));
            }
            old.advance_to(time);
            old.flush();
            until(worker, || {
                let failed =
                    |handle: &Handle<u64>| matches!(handle.status(), Status::Failed { .. });
                assert!(
                    !handles.iter().any(failed),
                    "{} {}",
                    handles[0].status(),
                    handles[1].status()
                );
                handles
                    .iter()
                    .all(|handle| handle.frontier() >= Frontier::At(time))
            });
        };
        for time in 1..=10 {
            advance(worker, time, &[time, 100 + time], false);
        }
        let rows: BTreeMap<Newer, i64> = (1..=10)
            .flat_map(|id| [(newer(id), 1), (newer(100 + id), 1)])
            .collect();
        let mut rounds = 0;
        let mut right = 0;
        // Whoever wins a round, the old one has nothing to write, and the new one only what the old one left out.
        while right < 5 {
            rounds += 1;
            assert!(rounds < 200, "the rows are not corrected");
            // The old one may win many: every other one it comes too late for.
            advance(worker, 10 + rounds, &[], rounds % 2 == 0);
            match read(&contexts[1], codec_of::<Newer>, 9 + rounds) == rows {
                true => right += 1,
                false => assert_eq!(right, 0, "what was corrected changes again"),
            }
        }
        for index in worker.installed_dataflows() {
            worker.drop_dataflow(index);
        }
    });
}

/// A sink of the type `D` on a table of [`Older`]: why it fails.
fn failure<D: Data>(cx: &Context, target: Target) -> String {
    let cx = cx.clone();
    timely::execute_directly(move |worker| {
        let handle = worker.dataflow::<u64, _, _>(|scope| {
            let mut input = InputSession::new();
            let rows: differential_dataflow::VecCollection<'_, u64, D, i64> =
                input.to_collection(scope);
            let errors = no_errors::<u64, String, i64>(scope);
            persist_sink(&cx, "orders", target, rows, errors, 0).unwrap()
        });
        until(worker, || matches!(handle.status(), Status::Failed { .. }));
        for index in worker.installed_dataflows() {
            worker.drop_dataflow(index);
        }
        handle.status().to_string()
    })
}

#[test]
fn a_type_that_changes_otherwise_fails_the_sink_with_the_ways_out() {
    type Wanted = (u64, Option<String>);
    #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
    struct Required {
        id: u64,
        name: Option<String>,
        score: i64,
    }
    #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
    struct Renamed {
        number: Option<u64>,
        name: Option<String>,
    }
    #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
    struct Retyped {
        id: String,
        name: Option<String>,
    }
    let runtime = runtime();
    let cx = Driver::Sync.context(&runtime);
    write(&cx, 1, sunk(codec_of::<Older>), vec![older(1)], 1);
    let cases = [
        (failure::<Required>(&cx, URL.into()), "no column score"),
        (
            failure::<Renamed>(&cx, URL.into()),
            "column id where number",
        ),
        (failure::<Retyped>(&cx, URL.into()), "the column id is long"),
        (failure::<Wanted>(&cx, URL.into()), "no column c0"),
        (
            failure::<Newer>(&cx, Target::new(URL).add_columns(false)),
            "no column score",
        ),
    ];
    for (why, expected) in cases {
        assert!(
            why.contains(expected) && why.contains("a new table"),
            "{why}"
        );
    }
}
