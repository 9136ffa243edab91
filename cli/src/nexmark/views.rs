//! The demo's seven views, as differential dataflows.
//!
//! Each function maps the collections of source rows to the collection of the view's rows. Time is event
//! time in milliseconds, and a source row's time is its `date_time`. The contract of each view is the SQL in
//! its documentation, evaluated over the rows with time `≤ t`, at every `t`; `//` is integer division.
//!
//! Two views change at times of their own. `q4` learns of a sale when the auction closes, so its input is
//! delayed to `expires`. `q5` drops a window some time after its end; that retraction is known as soon as the
//! row is, and is produced with it, at its future time, so that whoever keeps the view sees it early.

use differential_dataflow::VecCollection;
use differential_dataflow::collection::AsCollection;
use differential_dataflow::operators::{CountTotal, ThresholdTotal};
use timely::dataflow::operators::vec::Map;

use super::model::{Auction, Bid, Person, Q1, Q2, Q3, Q4, Q5, Q8};

/// A collection of rows over event time.
pub type Rows<'scope, D> = VecCollection<'scope, u64, D, i64>;

/// The names of the views, in order: each is the name of its shard.
pub const VIEWS: [&str; 7] = ["q0", "q1", "q2", "q3", "q4", "q5", "q8"];

/// The sources of each view, by their numbers.
pub const READS: [&[usize]; VIEWS.len()] = [&[0], &[0], &[0], &[1, 2], &[1, 0], &[0], &[1, 2]];

/// The category that `q3` selects.
const LOCAL_CATEGORY: i64 = 10;
/// The states that `q3` selects, as the generator writes them.
const LOCAL_STATES: [&str; 3] = ["or", "id", "ca"];
/// Width of `q8`'s tumbling windows.
const SELLER_WINDOW_MS: i64 = 10_000;
/// Distance between the starts of `q5`'s windows.
const HOT_SLIDE_MS: i64 = 2_000;
/// How many of `q5`'s windows hold each bid.
const HOT_OVERLAP: i64 = 5;
/// A window of `q5` leaves the view this long after its start: 10 s of width and 30 s of grace.
const HOT_DROP_MS: i64 = 40_000;

/// Pass-through: all of `bid`.
pub fn q0<'s>(bid: Rows<'s, Bid>) -> Rows<'s, Bid> {
    bid
}

/// Currency: `SELECT auction, bidder, price*908//1000 AS price, date_time, extra FROM bid`.
pub fn q1<'s>(bid: Rows<'s, Bid>) -> Rows<'s, Q1> {
    bid.map(|bid| Q1 {
        auction: bid.auction,
        bidder: bid.bidder,
        // Wide, so that a price that other hands wrote cannot overflow.
        price: (i128::from(bid.price) * 908 / 1000) as i64,
        date_time: bid.date_time,
        extra: bid.extra,
    })
}

/// Selection: `SELECT auction, price FROM bid WHERE auction % 123 = 0`.
pub fn q2<'s>(bid: Rows<'s, Bid>) -> Rows<'s, Q2> {
    bid.flat_map(|bid| {
        (bid.auction % 123 == 0).then_some(Q2 {
            auction: bid.auction,
            price: bid.price,
        })
    })
}

/// Local items: `SELECT p.name, p.city, p.state, a.id FROM auction a JOIN person p ON p.id = a.seller WHERE
/// a.category = 10 AND p.state IN ('or','id','ca')`.
pub fn q3<'s>(auction: Rows<'s, Auction>, person: Rows<'s, Person>) -> Rows<'s, Q3> {
    let items = auction.flat_map(|a| (a.category == LOCAL_CATEGORY).then_some((a.seller, a.id)));
    let people = person.flat_map(|p| {
        LOCAL_STATES
            .contains(&p.state.as_str())
            .then_some((p.id, (p.name, p.city, p.state)))
    });
    items.join_map(people, |_seller, &id, (name, city, state)| Q3 {
        name: name.clone(),
        city: city.clone(),
        state: state.clone(),
        id,
    })
}

/// Average closing price of the auctions closed by `t`: `SELECT category, CAST(sum(final)//count(*) AS BIGINT)
/// AS price FROM (SELECT a.id, a.category, max(b.price) AS final FROM auction a JOIN bid b ON b.auction = a.id
/// WHERE b.date_time >= a.date_time AND b.date_time < a.expires AND a.expires <= t GROUP BY a.id, a.category)
/// GROUP BY category`.
pub fn q4<'s>(auction: Rows<'s, Auction>, bid: Rows<'s, Bid>) -> Rows<'s, Q4> {
    let auctions = auction
        .map(|a| (a.id, (a.date_time, a.expires, a.category)))
        .arrange_by_key_named("Q4Auctions");
    let bids = bid
        .map(|b| (b.auction, (b.date_time, b.price)))
        .arrange_by_key_named("Q4Bids");
    auctions
        .join_core(bids, |&id, &(opens, expires, category), &(at, price)| {
            (opens <= at && at < expires).then_some((expires, ((id, category), price)))
        })
        .inner
        // Nothing is known of an auction before it closes, and all of it is known then: delayed to that time,
        // the reduction sees each auction once instead of once a bid.
        .map(|((expires, sale), time, diff)| (sale, time.max(event_time(expires)), diff))
        .as_collection()
        .reduce_named("Q4Final", |_auction, prices, output| {
            if let Some(&(&price, _)) = prices.iter().rev().find(|(_, diff)| *diff > 0) {
                output.push((price, 1));
            }
        })
        // Sum and count ride in the difference, where they are maintained by addition.
        .explode(|((_id, category), price)| Some((category, (price, 1i64))))
        .count_total_core()
        .flat_map(|(category, (sum, count))| {
            let price = sum.checked_div(count)?;
            Some(Q4 { category, price })
        })
}

/// Hot items, in windows of 10 s every 2 s, all ties, open windows included, each dropped 30 s after its end:
/// `SELECT window_start, auction, num FROM (SELECT *, max(num) OVER (PARTITION BY window_start) AS m FROM
/// (SELECT (date_time//2000-k)*2000 AS window_start, auction, count(*) AS num FROM bid, range(5) r(k) GROUP BY
/// ALL)) WHERE num = m AND t < window_start + 40000`.
///
/// A window's maximum is found in three levels of groups, so that a bid makes three small groups look again
/// instead of one large one. The first level counts as well: a count is the multiplicity of the auction in
/// its group. Groups are by hash, so that an auction shares its group with ones that are past their
/// popularity, and mostly leaves the group's maximum alone.
pub fn q5<'s>(bid: Rows<'s, Bid>) -> Rows<'s, Q5> {
    bid.map(|bid| (bid.date_time.div_euclid(HOT_SLIDE_MS), bid.auction))
        // Several bids on one auction in one millisecond become one update before they are multiplied.
        .consolidate_stream()
        .flat_map(|(slide, auction)| {
            let group = hot_group(auction);
            (0..HOT_OVERLAP).map(move |k| ((slide - k, group), auction))
        })
        .reduce_named("Q5Count", |_group, auctions, output| {
            let most = auctions.iter().map(|(_, num)| *num).max().unwrap_or(0);
            if most > 0 {
                let hottest = auctions.iter().filter(|(_, num)| *num == most);
                output.extend(hottest.map(|(auction, _)| ((most, **auction), 1)));
            }
        })
        .map(|((window, group), hot)| ((window, group / 16), hot))
        .reduce_named("Q5Middle", |_group, hot, output| keep_hottest(hot, output))
        .map(|((window, _group), hot)| (window, hot))
        .reduce_named("Q5Top", |_window, hot, output| keep_hottest(hot, output))
        .inner
        .flat_map(
            |((window, (num, auction)), time, diff): ((i64, (i64, i64)), u64, i64)| {
                let window_start = window * HOT_SLIDE_MS;
                let row = Q5 {
                    window_start,
                    auction,
                    num,
                };
                let dropped = event_time(window_start + HOT_DROP_MS);
                (time < dropped)
                    .then(|| [(row.clone(), time, diff), (row, dropped, -diff)])
                    .into_iter()
                    .flatten()
            },
        )
        .as_collection()
}

/// New users who sell, in tumbling windows of 10 s: `SELECT id, name, date_time//10000*10000 AS window_start
/// FROM person p WHERE EXISTS (SELECT 1 FROM auction a WHERE a.seller = p.id AND a.date_time//10000 =
/// p.date_time//10000)`.
pub fn q8<'s>(auction: Rows<'s, Auction>, person: Rows<'s, Person>) -> Rows<'s, Q8> {
    let window = |date_time: i64| date_time.div_euclid(SELLER_WINDOW_MS) * SELLER_WINDOW_MS;
    let sellers = auction
        .map(move |a| (a.seller, window(a.date_time)))
        .distinct_total_core::<i64>();
    person
        .map(move |p| ((p.id, window(p.date_time)), p.name))
        .semijoin(sellers)
        .map(|((id, window_start), name)| Q8 {
            id,
            name,
            window_start,
        })
}

/// The pairs `(num, auction)` with the greatest `num`; the input is in ascending order.
fn keep_hottest(hot: &[(&(i64, i64), i64)], output: &mut Vec<((i64, i64), i64)>) {
    let mut present = hot.iter().rev().filter(|(_, diff)| *diff > 0).peekable();
    if let Some(&&(&(most, _), _)) = present.peek() {
        let hottest = present.take_while(|((num, _), _)| *num == most);
        output.extend(hottest.map(|(pair, _)| (**pair, 1)));
    }
}

/// The group of an auction at `q5`'s first level, one of 256; the second level is 16 of these.
fn hot_group(auction: i64) -> u8 {
    // Fibonacci hashing: the high bits of the product are well mixed, whatever the pattern of popular ids.
    let mixed = auction.cast_unsigned().wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (mixed >> 56) as u8
}

/// An event time as a timestamp of the dataflow, which has none below zero.
fn event_time(ms: i64) -> u64 {
    u64::try_from(ms).unwrap_or(0)
}
