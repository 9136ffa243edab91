//! Conditions on rows, as on the command line: `price > 100 AND city = 'Oslo' AND note IS NULL`.
//!
//! ```text
//!   condition  =  test { AND test }
//!   test       =  column ( = | == | != | <> | < | <= | > | >= ) literal  |  column IS [ NOT ] NULL
//!   column     =  a name, in double quotes if it is no plain word
//!   literal    =  a number, true, false, or anything else in single quotes:
//!                 'it''s', '2026-01-31', '2026-01-31T12:00:00Z', '2026-01-31 12:00:00.5+01:00' (without a zone: UTC)
//! ```

use mvsink::mvsink_persist::{Comparison, Filter, Literal, Predicate};

/// A word of a condition.
#[derive(Clone, Debug, PartialEq)]
enum Token {
    /// A name, a keyword or a number.
    Word(String),
    /// In double quotes.
    Name(String),
    /// In single quotes.
    Text(String),
    Compare(Comparison),
}

/// Reads a condition.
///
/// # Errors
///
/// In words, if it is none.
pub fn parse(text: &str) -> Result<Filter, String> {
    let tokens = tokens(text)?;
    let mut tokens = tokens.into_iter().peekable();
    let mut filter = Filter::all();
    loop {
        let column = match tokens.next() {
            Some(Token::Word(name) | Token::Name(name)) => name,
            Some(Token::Text(text)) => {
                return Err(format!("'{text}' is a value where a column is expected"));
            }
            Some(Token::Compare(_)) | None => return Err("a column is expected".to_owned()),
        };
        let predicate = match tokens.next() {
            Some(Token::Compare(comparison)) => Predicate::Compare {
                literal: literal(tokens.next(), &column)?,
                column,
                comparison,
            },
            Some(word) if is(&word, "is") => {
                let negated = tokens.next_if(|word| is(word, "not")).is_some();
                match tokens.next() {
                    Some(word) if is(&word, "null") && negated => Predicate::IsNotNull { column },
                    Some(word) if is(&word, "null") => Predicate::IsNull { column },
                    _ => return Err(format!("{column} can only be tested with IS [NOT] NULL")),
                }
            }
            _ => return Err(format!("a comparison is expected after {column}")),
        };
        filter = filter.and(predicate);
        match tokens.next() {
            None => return Ok(filter),
            Some(word) if is(&word, "and") => {}
            Some(_) => return Err("only AND can follow a test".to_owned()),
        }
    }
}

fn is(token: &Token, keyword: &str) -> bool {
    matches!(token, Token::Word(word) if word.eq_ignore_ascii_case(keyword))
}

fn literal(token: Option<Token>, column: &str) -> Result<Literal, String> {
    match token {
        Some(Token::Text(text)) => Ok(Literal::Text(text)),
        Some(Token::Word(word)) => {
            if let Ok(number) = word.parse() {
                return Ok(Literal::Int(number));
            }
            match word.to_ascii_lowercase().as_str() {
                "true" => Ok(Literal::Bool(true)),
                "false" => Ok(Literal::Bool(false)),
                "null" => Err(format!("{column} is compared with null: use IS NULL")),
                // As it is written, so that decimals stay exact.
                _ if word.parse::<f64>().is_ok() => Ok(Literal::Text(word)),
                _ => Err(format!(
                    "{column} is compared with {word}: write text, dates and times in single quotes: '{word}'"
                )),
            }
        }
        _ => Err(format!("a value to compare {column} with is expected")),
    }
}

fn tokens(text: &str) -> Result<Vec<Token>, String> {
    let mut tokens = Vec::new();
    let mut rest = text.trim_start();
    while let Some(first) = rest.chars().next() {
        let (token, length) = match first {
            '\'' => {
                let (text, length) = quoted(rest, '\'')?;
                (Token::Text(text), length)
            }
            '"' => {
                let (name, length) = quoted(rest, '"')?;
                (Token::Name(name), length)
            }
            '=' | '!' | '<' | '>' => comparison(rest)?,
            _ => {
                let ends = |c: char| c.is_whitespace() || "'\"=!<>".contains(c);
                let length = rest.find(ends).unwrap_or(rest.len());
                (Token::Word(rest[..length].to_owned()), length)
            }
        };
        tokens.push(token);
        rest = rest[length..].trim_start();
    }
    Ok(tokens)
}

fn comparison(rest: &str) -> Result<(Token, usize), String> {
    const ALL: [(&str, Comparison); 8] = [
        ("==", Comparison::Equal),
        ("!=", Comparison::NotEqual),
        ("<>", Comparison::NotEqual),
        ("<=", Comparison::LessOrEqual),
        (">=", Comparison::GreaterOrEqual),
        ("=", Comparison::Equal),
        ("<", Comparison::Less),
        (">", Comparison::Greater),
    ];
    let found = ALL.into_iter().find(|(text, _)| rest.starts_with(text));
    let (text, comparison) = found.ok_or("! is no comparison: != is")?;
    Ok((Token::Compare(comparison), text.len()))
}

/// The text of the quoted string that `rest` begins with, and how many bytes of `rest` it takes, quotes included. A quote
/// within the string is written twice.
fn quoted(rest: &str, quote: char) -> Result<(String, usize), String> {
    let mut text = String::new();
    let mut at = 1;
    loop {
        let end = rest[at..].find(quote);
        let end = at + end.ok_or_else(|| format!("a quote ({quote}) is not closed"))?;
        text.push_str(&rest[at..end]);
        at = end + 1;
        if !rest[at..].starts_with(quote) {
            return Ok((text, at));
        }
        text.push(quote);
        at += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn compare(column: &str, comparison: Comparison, literal: Literal) -> Predicate {
        Predicate::Compare {
            column: column.into(),
            comparison,
            literal,
        }
    }

    #[test]
    fn conditions_are_read() {
        let both = Filter::all()
            .and(compare("price", Comparison::Greater, Literal::Int(-100)))
            .and(compare(
                "odd name",
                Comparison::NotEqual,
                Literal::Text("it's".into()),
            ));
        assert_eq!(parse("price>-100 and \"odd name\" <> 'it''s'"), Ok(both));
        let nulls = Filter::all()
            .and(Predicate::IsNull { column: "a".into() })
            .and(Predicate::IsNotNull { column: "b".into() });
        assert_eq!(parse("a IS NULL AND b is not null"), Ok(nulls));
        let one = |literal| Filter::all().and(compare("x", Comparison::LessOrEqual, literal));
        assert_eq!(parse("x <= 1.50"), Ok(one(Literal::Text("1.50".into()))));
        assert_eq!(parse("x<=TRUE"), Ok(one(Literal::Bool(true))));
        let equal = Filter::all().and(compare(
            "é",
            Comparison::Equal,
            Literal::Text(String::new()),
        ));
        assert_eq!(parse("é==''"), Ok(equal));
    }

    #[test]
    fn other_words_are_refused() {
        for text in [
            "",
            "price",
            "price >",
            "> 3",
            "price > 3 and",
            "price > 3 or price < 1",
            "price ! 3",
            "name = Oslo",
            "name = 'Oslo",
            "\"name = 3",
            "'name' = 3",
            "name = null",
            "name is 3",
            "name is not",
            "price > 3 price < 5",
        ] {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}
