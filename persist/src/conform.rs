//! Gives an Arrow array the type that a schema wants, when both are forms of one Delta type.
//!
//! Other writers and readers call the children of lists and maps otherwise, mark other things nullable, order
//! the fields of a struct otherwise or leave some out, and use wide, viewed or dictionary-encoded strings.
//! None of that changes a value. What would (a float for an integer, text for a number, a number that does not
//! fit) is refused.

use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::types::Date32Type;
use arrow_array::{Array, ArrayRef, ListArray, MapArray, StructArray, new_null_array};
use arrow_cast::{CastOptions, cast_with_options};
use arrow_schema::DataType;

use crate::codec::text::CALENDAR_DAYS;
use crate::schema::is_string;

/// The values of `array` in the type `wanted`. Free if it has that type.
///
/// # Errors
///
/// In words, if the types are not forms of one Delta type or a value does not fit.
pub(crate) fn conform(array: &ArrayRef, wanted: &DataType) -> Result<ArrayRef, String> {
    let converted = convert(array, wanted)?;
    check_dates(&converted)?;
    Ok(converted)
}

/// Refuses dates beyond the calendar, on which those who print dates panic.
fn check_dates(array: &ArrayRef) -> Result<(), String> {
    match array.data_type() {
        DataType::Date32 => {
            let calendar = -CALENDAR_DAYS..=CALENDAR_DAYS;
            let dates = array.as_primitive::<Date32Type>().iter().flatten();
            match dates
                .into_iter()
                .find(|date| !calendar.contains(&i64::from(*date)))
            {
                Some(date) => Err(format!("the date {date} days from 1970 is out of range")),
                None => Ok(()),
            }
        }
        DataType::Struct(_) => array.as_struct().columns().iter().try_for_each(check_dates),
        DataType::List(_) => check_dates(array.as_list::<i32>().values()),
        DataType::Map(..) => {
            let map = array.as_map();
            check_dates(map.keys())?;
            check_dates(map.values())
        }
        _ => Ok(()),
    }
}

fn convert(array: &ArrayRef, wanted: &DataType) -> Result<ArrayRef, String> {
    if array.data_type() == wanted {
        return Ok(Arc::clone(array));
    }
    let failed = |error: arrow_schema::ArrowError| error.to_string();
    match (array.data_type(), wanted) {
        (DataType::Null, _) => Ok(new_null_array(wanted, array.len())),
        (DataType::Dictionary(_, value), _) => convert(&cast(array, value)?, wanted),
        (DataType::Struct(_), DataType::Struct(fields)) => {
            let array = array.as_struct();
            let mut children = Vec::with_capacity(fields.len());
            for field in fields {
                children.push(match array.column_by_name(field.name()) {
                    Some(child) => convert(child, field.data_type())
                        .map_err(|why| format!("{}: {why}", field.name()))?,
                    None => new_null_array(field.data_type(), array.len()),
                });
            }
            let nulls = array.nulls().cloned();
            let conformed =
                StructArray::try_new_with_length(fields.clone(), children, nulls, array.len());
            Ok(Arc::new(conformed.map_err(failed)?))
        }
        (DataType::LargeList(item) | DataType::ListView(item), DataType::List(_)) => {
            convert(&cast(array, &DataType::List(Arc::clone(item)))?, wanted)
        }
        (DataType::List(_), DataType::List(item)) => {
            let array = array.as_list::<i32>();
            let values = convert(array.values(), item.data_type())?;
            let nulls = array.nulls().cloned();
            let conformed =
                ListArray::try_new(Arc::clone(item), array.offsets().clone(), values, nulls);
            Ok(Arc::new(conformed.map_err(failed)?))
        }
        (DataType::Map(..), DataType::Map(entries, sorted)) => {
            let DataType::Struct(fields) = entries.data_type() else {
                return Err(format!("{wanted} has no keys and values"));
            };
            let array = array.as_map();
            // By position: the specification fixes the order and lets the names vary.
            let children = [array.keys(), array.values()]
                .iter()
                .zip(fields)
                .map(|(child, field)| convert(child, field.data_type()))
                .collect::<Result<Vec<_>, _>>()?;
            let pairs = StructArray::try_new(fields.clone(), children, None).map_err(failed)?;
            let nulls = array.nulls().cloned();
            let offsets = array.offsets().clone();
            let conformed = MapArray::try_new(Arc::clone(entries), offsets, pairs, nulls, *sorted);
            Ok(Arc::new(conformed.map_err(failed)?))
        }
        (found, _) if is_same_kind(found, wanted) => {
            let converted = cast(array, wanted)?;
            // A cast to fewer digits of a second, or to days, drops what is beyond them.
            if found.is_temporal() && cast(&converted, found)?.as_ref() != array.as_ref() {
                return Err(format!("is {found}, and a value is none of {wanted}"));
            }
            Ok(converted)
        }
        (found, _) => Err(format!("is {found}, not {wanted}")),
    }
}

fn cast(array: &ArrayRef, wanted: &DataType) -> Result<ArrayRef, String> {
    let options = CastOptions {
        safe: false,
        ..CastOptions::default()
    };
    cast_with_options(array, wanted, &options).map_err(|error| error.to_string())
}

/// Whether a cast between primitive types keeps every value that fits.
fn is_same_kind(found: &DataType, wanted: &DataType) -> bool {
    let is_binary = |data_type: &DataType| {
        matches!(
            data_type,
            DataType::Binary
                | DataType::LargeBinary
                | DataType::BinaryView
                | DataType::FixedSizeBinary(_)
        )
    };
    (found.is_integer() && wanted.is_integer())
        || (is_string(found) && is_string(wanted))
        || (is_binary(found) && is_binary(wanted))
        || (found.is_integer() && matches!(wanted, DataType::Decimal128(..)))
        || matches!(
            (found, wanted),
            (DataType::Decimal32(_, found) | DataType::Decimal64(_, found) | DataType::Decimal128(_, found),
                DataType::Decimal128(_, wanted)) if found <= wanted
        )
        || matches!(
            (found, wanted),
            (DataType::Float16 | DataType::Float32, DataType::Float64)
                | (
                    DataType::Int8
                        | DataType::Int16
                        | DataType::Int32
                        | DataType::UInt8
                        | DataType::UInt16
                        | DataType::UInt32,
                    DataType::Float64
                )
                | (
                    DataType::Int8 | DataType::Int16 | DataType::UInt8 | DataType::UInt16,
                    DataType::Float32
                )
                | (DataType::Timestamp(..), DataType::Timestamp(..))
                | (DataType::Date64, DataType::Date32)
        )
}
