//! Errors as JSON text: one text for equal values.

use serde::Serialize;
use serde_json::Value;

/// The JSON text of a value, without spaces, the members of objects in the order of their names: a hash map has
/// none of its own.
///
/// # Errors
///
/// If the value has no form in JSON.
pub(crate) fn to_text<E: Serialize + ?Sized>(error: &E) -> Result<String, serde_json::Error> {
    match serde_json::to_value(error) {
        Ok(value) => {
            let mut text = String::new();
            write(&value, &mut text);
            Ok(text)
        }
        // Integers beyond 64 bits have a text and no `Value`.
        Err(_) => serde_json::to_string(error),
    }
}

fn write(value: &Value, text: &mut String) {
    match value {
        Value::Array(items) => {
            text.push('[');
            for (index, item) in items.iter().enumerate() {
                if index > 0 {
                    text.push(',');
                }
                write(item, text);
            }
            text.push(']');
        }
        Value::Object(members) => {
            // By itself it is ordered only as long as nobody in the program asks serde_json for another order.
            let mut members: Vec<_> = members.iter().collect();
            members.sort_unstable_by_key(|(name, _)| *name);
            text.push('{');
            for (index, (name, item)) in members.into_iter().enumerate() {
                if index > 0 {
                    text.push(',');
                }
                *text += &Value::from(name.as_str()).to_string();
                text.push(':');
                write(item, text);
            }
            text.push('}');
        }
        scalar => *text += &scalar.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    #[test]
    fn members_are_in_the_order_of_their_names() {
        let entries: HashMap<_, _> = (0..40)
            .map(|i| (format!("k\"{i:02}"), (i, None::<u8>)))
            .collect();
        let expected: Vec<_> = (0..40)
            .map(|i| format!("\"k\\\"{i:02}\":[{i},null]"))
            .collect();
        assert_eq!(
            to_text(&entries).unwrap(),
            format!("{{{}}}", expected.join(","))
        );
    }

    #[test]
    fn the_text_is_that_of_serde_json() {
        let value = (1u8, -0.5, "ü\n", u64::MAX, [true, false], ());
        assert_eq!(
            to_text(&value).unwrap(),
            serde_json::to_string(&value).unwrap()
        );
        assert_eq!(to_text(&u128::MAX).unwrap(), u128::MAX.to_string());
        assert!(to_text(&HashMap::from([((1, 2), 3)])).is_err());
    }
}
