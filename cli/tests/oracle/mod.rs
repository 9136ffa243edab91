//! The views from scratch: each is its definition in SQL, read aloud as loops over the rows with time `≤ t`.

use std::collections::{BTreeMap, BTreeSet};

use mvsink_cli::nexmark::model::{Bid, Q1, Q2, Q3, Q4, Q5, Q8};

use crate::Sources;

/// A row of any view.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Row {
    Q0(Bid),
    Q1(Q1),
    Q2(Q2),
    Q3(Q3),
    Q4(Q4),
    Q5(Q5),
    Q8(Q8),
}

impl Row {
    /// The name of the view.
    pub fn view(&self) -> &'static str {
        match self {
            Row::Q0(_) => "q0",
            Row::Q1(_) => "q1",
            Row::Q2(_) => "q2",
            Row::Q3(_) => "q3",
            Row::Q4(_) => "q4",
            Row::Q5(_) => "q5",
            Row::Q8(_) => "q8",
        }
    }
}

/// The contents of every view at time `t`, as a multiset.
pub fn views(sources: &Sources, t: i64) -> BTreeMap<Row, i64> {
    let bids: Vec<_> = sources.bid.iter().filter(|b| b.date_time <= t).collect();
    let auctions: Vec<_> = sources
        .auction
        .iter()
        .filter(|a| a.date_time <= t)
        .collect();
    let people: Vec<_> = sources.person.iter().filter(|p| p.date_time <= t).collect();
    let mut rows = BTreeMap::new();
    let mut emit = |row: Row| *rows.entry(row).or_default() += 1;

    for bid in &bids {
        emit(Row::Q0((*bid).clone()));
        emit(Row::Q1(Q1 {
            auction: bid.auction,
            bidder: bid.bidder,
            price: bid.price * 908 / 1000,
            date_time: bid.date_time,
            extra: bid.extra.clone(),
        }));
        if bid.auction % 123 == 0 {
            emit(Row::Q2(Q2 {
                auction: bid.auction,
                price: bid.price,
            }));
        }
    }

    for auction in &auctions {
        for person in people.iter().filter(|p| p.id == auction.seller) {
            if auction.category == 10 && ["or", "id", "ca"].contains(&person.state.as_str()) {
                emit(Row::Q3(Q3 {
                    name: person.name.clone(),
                    city: person.city.clone(),
                    state: person.state.clone(),
                    id: auction.id,
                }));
            }
        }
    }

    let mut finals: BTreeMap<i64, Vec<i64>> = BTreeMap::new();
    for auction in auctions.iter().filter(|a| a.expires <= t) {
        let in_time = |b: &&&Bid| {
            b.auction == auction.id
                && auction.date_time <= b.date_time
                && b.date_time < auction.expires
        };
        if let Some(price) = bids.iter().filter(in_time).map(|b| b.price).max() {
            finals.entry(auction.category).or_default().push(price);
        }
    }
    for (category, prices) in finals {
        let price = prices.iter().sum::<i64>() / prices.len() as i64;
        emit(Row::Q4(Q4 { category, price }));
    }

    let mut counts: BTreeMap<i64, BTreeMap<i64, i64>> = BTreeMap::new();
    for bid in &bids {
        for k in 0..5 {
            let window_start = (bid.date_time / 2_000 - k) * 2_000;
            *counts
                .entry(window_start)
                .or_default()
                .entry(bid.auction)
                .or_default() += 1;
        }
    }
    for (window_start, auctions) in counts {
        let most = auctions.values().copied().max();
        for (auction, num) in auctions {
            if Some(num) == most && t < window_start + 40_000 {
                emit(Row::Q5(Q5 {
                    window_start,
                    auction,
                    num,
                }));
            }
        }
    }

    let sellers: BTreeSet<_> = auctions
        .iter()
        .map(|a| (a.seller, a.date_time / 10_000))
        .collect();
    for person in &people {
        if sellers.contains(&(person.id, person.date_time / 10_000)) {
            emit(Row::Q8(Q8 {
                id: person.id,
                name: person.name.clone(),
                window_start: person.date_time / 10_000 * 10_000,
            }));
        }
    }
    rows
}
