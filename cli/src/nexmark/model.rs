//! The rows of the demo's source tables and views.
//!
//! A field is a column: the names and their order are those of the tables, which other people's queries
//! depend on. Ids are `i64`; times are `i64` milliseconds since the Unix epoch; prices are cents.

use serde::{Deserialize, Serialize};

/// Declares a row type: a plain record whose fields are the table's columns, in order.
macro_rules! row {
    ($(#[$doc:meta])* $name:ident { $($(#[$field_doc:meta])* $field:ident: $type:ty,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub struct $name {
            $($(#[$field_doc])* pub $field: $type,)*
        }
    };
}

row! {
    /// A bid on an auction: a row of `bid`, and of the view `q0`.
    Bid {
        /// The auction that the bid is for.
        auction: i64,
        /// The person who bids.
        bidder: i64,
        /// The price offered, in cents.
        price: i64,
        /// The channel through which the bid came.
        channel: String,
        /// The page on which the bid was made.
        url: String,
        /// When the bid was made.
        date_time: i64,
        /// Padding, so that rows have a realistic size.
        extra: String,
    }
}

row! {
    /// An item put up for auction: a row of `auction`.
    Auction {
        /// The auction, unique.
        id: i64,
        /// The name of the item.
        item_name: String,
        /// What the seller says about the item.
        description: String,
        /// The first price, in cents.
        initial_bid: i64,
        /// The price, in cents, below which the item is not sold.
        reserve: i64,
        /// When the auction opens.
        date_time: i64,
        /// When the auction closes: bids at this time are too late.
        expires: i64,
        /// The person who sells.
        seller: i64,
        /// The category of the item.
        category: i64,
        /// Padding, so that rows have a realistic size.
        extra: String,
    }
}

row! {
    /// A person who registers with the site: a row of `person`.
    Person {
        /// The person, unique.
        id: i64,
        /// First and last name.
        name: String,
        /// E-mail address.
        email_address: String,
        /// Credit card number.
        credit_card: String,
        /// City of residence.
        city: String,
        /// State of residence, two lower-case letters.
        state: String,
        /// When the person registered.
        date_time: i64,
        /// Padding, so that rows have a realistic size.
        extra: String,
    }
}

row! {
    /// A row of `q1`: a bid with its price in another currency.
    Q1 {
        /// The auction that the bid is for.
        auction: i64,
        /// The person who bids.
        bidder: i64,
        /// The price, converted.
        price: i64,
        /// When the bid was made.
        date_time: i64,
        /// Padding, carried over from the bid.
        extra: String,
    }
}

row! {
    /// A row of `q2`: a bid on one of the selected auctions.
    Q2 {
        /// The auction that the bid is for.
        auction: i64,
        /// The price offered, in cents.
        price: i64,
    }
}

row! {
    /// A row of `q3`: a person of the chosen states who sells in the chosen category.
    Q3 {
        /// The seller's name.
        name: String,
        /// The seller's city.
        city: String,
        /// The seller's state.
        state: String,
        /// The auction.
        id: i64,
    }
}

row! {
    /// A row of `q4`: the average closing price in a category.
    Q4 {
        /// The category.
        category: i64,
        /// The average of its auctions' final prices, in cents, rounded down.
        price: i64,
    }
}

row! {
    /// A row of `q5`: an auction with the most bids in a window.
    Q5 {
        /// The first millisecond of the window.
        window_start: i64,
        /// The auction.
        auction: i64,
        /// How many bids it had in the window.
        num: i64,
    }
}

row! {
    /// A row of `q8`: a person who registered and sold in the same window.
    Q8 {
        /// The person.
        id: i64,
        /// The person's name.
        name: String,
        /// The first millisecond of the window.
        window_start: i64,
    }
}
