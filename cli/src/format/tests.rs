use std::sync::Arc;

use arrow_array::builder::{Int64Builder, ListBuilder, MapBuilder, StringBuilder};
use arrow_array::types::Int32Type;
use arrow_array::{
    Array, ArrayRef, BinaryArray, BooleanArray, Date32Array, Decimal128Array, Float32Array,
    Float64Array, Int64Array, ListArray, StringArray, StructArray, TimestampMicrosecondArray,
};
use arrow_schema::{DataType, Field};

use super::*;

/// A column of each type, each with a null in its last row.
fn every_type() -> RecordBatch {
    let number: ArrayRef = Arc::new(Int64Array::from(vec![Some(-7), Some(i64::MAX), None]));
    let text: ArrayRef = Arc::new(StringArray::from(vec![Some(""), Some("a, \"b\"\n"), None]));
    let parts = vec![
        (
            Arc::new(Field::new("n", DataType::Int64, true)),
            Arc::clone(&number),
        ),
        (
            Arc::new(Field::new("t", DataType::Utf8, true)),
            Arc::clone(&text),
        ),
    ];
    let list = ListArray::from_iter_primitive::<Int32Type, _, _>(vec![
        Some(vec![Some(1), None]),
        Some(vec![]),
        None,
    ]);
    let mut map = MapBuilder::new(None, Int64Builder::new(), StringBuilder::new());
    map.keys().append_value(5);
    map.values().append_value("five");
    for valid in [true, true, false] {
        map.append(valid).unwrap();
    }
    let mut texts = ListBuilder::new(StringBuilder::new());
    texts.append_value([Some("x,y"), None]);
    texts.append_value([Some("")]);
    texts.append_null();
    let decimal = Decimal128Array::from(vec![Some(1250), Some(-5), None]);
    let micros = vec![Some(1_769_860_800_500_000), Some(i64::MAX), None];
    let columns: Vec<(&str, ArrayRef)> = vec![
        ("n", number),
        ("t", text),
        (
            "b",
            Arc::new(BooleanArray::from(vec![Some(true), Some(false), None])),
        ),
        (
            "f",
            Arc::new(Float64Array::from(vec![Some(f64::NAN), Some(1.5), None])),
        ),
        (
            "f32",
            Arc::new(Float32Array::from(vec![
                Some(f32::INFINITY),
                Some(f32::NEG_INFINITY),
                None,
            ])),
        ),
        (
            "bytes",
            Arc::new(BinaryArray::from_opt_vec(vec![
                Some(b"\x00\xff"),
                Some(b""),
                None,
            ])),
        ),
        (
            "day",
            Arc::new(Date32Array::from(vec![Some(20_484), Some(i32::MAX), None])),
        ),
        (
            "at",
            Arc::new(TimestampMicrosecondArray::from(micros).with_timezone("UTC")),
        ),
        (
            "money",
            Arc::new(decimal.with_precision_and_scale(10, 2).unwrap()),
        ),
        ("row", Arc::new(StructArray::from(parts))),
        ("list", Arc::new(list)),
        ("map", Arc::new(map.finish())),
        ("texts", Arc::new(texts.finish())),
    ];
    RecordBatch::try_from_iter_with_nullable(columns.into_iter().map(|(n, c)| (n, c, true)))
        .unwrap()
}

fn written(write: impl FnOnce(&mut Vec<u8>) -> Result<(), Error>) -> String {
    let mut out = Vec::new();
    write(&mut out).unwrap();
    String::from_utf8(out).unwrap()
}

#[test]
fn ndjson_has_a_form_for_every_value() {
    let lines = written(|out| ndjson(out, &every_type()));
    let lines: Vec<_> = lines.lines().collect();
    assert_eq!(
        lines[0],
        concat!(
            r#"{"n":-7,"t":"","b":true,"f":"NaN","f32":"Infinity","bytes":"00ff","day":"2026-01-31","#,
            r#""at":"2026-01-31T12:00:00.500Z","money":12.50,"row":{"n":-7,"t":""},"list":[1,null],"#,
            r#""map":{"5":"five"},"texts":["x,y",null]}"#
        )
    );
    assert_eq!(
        lines[1],
        concat!(
            r#"{"n":9223372036854775807,"t":"a, \"b\"\n","b":false,"f":1.5,"f32":"-Infinity","#,
            r#""bytes":"","day":2147483647,"at":9223372036854775807,"money":-0.05,"#,
            r#""row":{"n":9223372036854775807,"t":"a, \"b\"\n"},"list":[],"map":{},"texts":[""]}"#
        )
    );
    let nulls: serde_json::Map<String, serde_json::Value> = serde_json::from_str(lines[2]).unwrap();
    let struct_of_nulls = |name: &str| name == "row";
    assert!(
        nulls
            .iter()
            .all(|(name, value)| value.is_null() || struct_of_nulls(name)),
        "{}",
        lines[2]
    );
    assert_eq!(lines.len(), 3);
}

#[test]
fn csv_tells_null_from_empty_text_and_has_nested_values_as_json() {
    let lines = written(|out| csv(out, &every_type(), true));
    assert_eq!(
        lines,
        concat!(
            "n,t,b,f,f32,bytes,day,at,money,row,list,map,texts\n",
            r#"-7,"",true,NaN,Infinity,00ff,2026-01-31,2026-01-31T12:00:00.500Z,12.50,"#,
            r#""{""n"":-7,""t"":""""}","[1,null]","{""5"":""five""}","[""x,y"",null]""#,
            "\n",
            "9223372036854775807,\"a, \"\"b\"\"\n\",false,1.5,-Infinity,\"\",2147483647,9223372036854775807,-0.05,",
            r#""{""n"":9223372036854775807,""t"":""a, \""b\""\n""}",[],{},"["""" ]""#,
            "\n",
            ",,,,,,,,,\"{\"\"n\"\":null,\"\"t\"\":null}\",,,\n",
        )
        .replace("[\"\"\"\" ]", "[\"\"\"\"]")
    );
}

#[test]
fn a_table_tells_null_from_empty_text_and_keeps_rows_on_lines() {
    let texts = StringArray::from(vec![
        Some(""),
        None,
        Some("NULL"),
        Some("a\nb\u{1b}[31m"),
        Some("plain"),
    ]);
    let batch = RecordBatch::try_from_iter_with_nullable([
        ("text", Arc::new(texts) as ArrayRef, true),
        (
            "n",
            Arc::new(Int64Array::from(vec![
                Some(1),
                None,
                Some(3),
                Some(4),
                Some(5),
            ])) as ArrayRef,
            true,
        ),
    ])
    .unwrap();
    let mut table = Table::new(&batch);
    table.fit(&batch).unwrap();
    let text = written(|out| {
        table.header(out, &batch)?;
        table.rows(out, &batch)
    });
    let cells: Vec<Vec<&str>> = text
        .lines()
        .map(|line| line.split_whitespace().collect())
        .collect();
    assert_eq!(
        cells[2..],
        [
            vec!["\"\"", "1"],
            vec!["NULL", "NULL"],
            vec!["\"NULL\"", "3"],
            vec!["a\\nb\\u{1b}[31m", "4"],
            vec!["plain", "5"],
        ]
    );
}

#[test]
fn a_batch_without_columns_or_rows_is_written() {
    let empty = RecordBatch::new_empty(every_type().schema());
    assert_eq!(written(|out| ndjson(out, &empty)), "");
    assert_eq!(written(|out| csv(out, &empty, true)).lines().count(), 1);
    assert!(empty.column(0).is_empty());
}
