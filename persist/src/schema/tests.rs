//! Tests of schemas: their JSON form, and the first difference.

use super::*;

fn rich() -> Schema {
    let inner = DataType::Struct(Fields::from(vec![
        Field::new("x", DataType::Float32, true),
        Field::new("y", list_of(DataType::Int8, true), true),
    ]));
    Schema::new(vec![
        Field::new("a", DataType::Boolean, true),
        Field::new("b", DataType::Int16, true),
        Field::new("c", DataType::Int32, true),
        Field::new("d", DataType::Int64, true),
        Field::new("e", DataType::Float64, true),
        Field::new("f", DataType::Utf8, true),
        Field::new("g", DataType::Binary, true),
        Field::new("h", DataType::Date32, true),
        Field::new("i", utc_timestamp(), true),
        Field::new("j", DataType::Decimal128(12, 3), true),
        Field::new("k", inner, true),
        Field::new(
            "l",
            map_of(DataType::Utf8, list_of(DataType::Int64, true), true),
            true,
        ),
    ])
}

#[test]
fn delta_schemas_round_trip() {
    let text = to_delta(&rich()).unwrap();
    assert_eq!(from_delta(&text).unwrap(), rich());
}

#[test]
fn the_form_is_that_of_the_specification_and_all_may_be_null() {
    let schema = Schema::new(vec![Field::new("a", DataType::Int64, false)]);
    let value: Value = serde_json::from_str(&to_delta(&schema).unwrap()).unwrap();
    let expected = json!({
        "type": "struct",
        "fields": [{"name": "a", "type": "long", "nullable": true, "metadata": {}}],
    });
    assert_eq!(value, expected);
}

#[test]
fn unknown_types_are_named_with_their_column() {
    let text = r#"{"type":"struct","fields":[{"name":"a","type":{"type":"array","elementType":"variant","containsNull":true},"nullable":true,"metadata":{}}]}"#;
    let why = from_delta(text).unwrap_err();
    assert!(
        why.contains("a.element") && why.contains("variant"),
        "{why}"
    );
    assert!(from_delta("[").unwrap_err().contains("not JSON"));
    assert!(from_delta(r#""long""#).unwrap_err().contains("struct"));
    assert!(
        from_delta(r#"{"type":"struct"}"#)
            .unwrap_err()
            .contains("fields")
    );
    for bad in ["decimal(0,0)", "decimal(99,1)", "decimal(3)", "decimal"] {
        assert!(primitive_from_delta(bad, "p").unwrap_err().contains(bad));
    }
}

#[test]
fn types_that_delta_lacks_are_refused() {
    let schema = Schema::new(vec![Field::new("a", DataType::UInt64, true)]);
    assert!(to_delta(&schema).unwrap_err().starts_with("a:"));
    let refused = [
        DataType::Null,
        DataType::Timestamp(TimeUnit::Microsecond, None),
        DataType::Struct(Fields::empty()),
        DataType::Time64(TimeUnit::Microsecond),
    ];
    for data_type in refused {
        assert!(storable(&Field::new("a", data_type, true), Nullability::All).is_err());
    }
}

#[test]
fn constraints_are_named_with_their_column() {
    for key in [
        "delta.invariants",
        "delta.identity.start",
        "delta.columnMapping.id",
    ] {
        let text = to_delta(&rich()).unwrap();
        let inner = r#""metadata":{},"name":"x""#;
        let text = text.replace(inner, &format!(r#""metadata":{{"{key}":1}},"name":"x""#));
        assert_eq!(
            from_delta(&text),
            Err(format!("the column k.x has {key}")),
            "{text}"
        );
    }
    let text = to_delta(&rich()).unwrap();
    let comment = text.replace(r#""metadata":{}"#, r#""metadata":{"comment":"no harm"}"#);
    assert_eq!(from_delta(&comment).unwrap(), rich());
}

fn wanted() -> Vec<Field> {
    let at = Fields::from(vec![Field::new("day", DataType::Date32, true)]);
    let pairs = map_of(DataType::Utf8, list_of(DataType::Int32, true), true);
    vec![
        Field::new("a", DataType::Int64, true),
        Field::new("b", list_of(DataType::Utf8, true), true),
        Field::new("at", DataType::Struct(at), true),
        Field::new("map", pairs, true),
    ]
}

/// The difference from a table that is as wanted but for one column, or with one more.
fn difference(column: Field) -> Result<(), String> {
    let mut table = wanted();
    match table.iter_mut().find(|field| field.name() == column.name()) {
        Some(field) => *field = column,
        None => table.push(column),
    }
    check_schema(&Schema::new(table), &Schema::new(wanted()))
}

#[test]
fn the_first_difference_is_told() {
    let expect = |column, why: &str| assert_eq!(difference(column), Err(why.to_owned()));
    expect(
        Field::new("a", DataType::Utf8, true),
        "the column a is string in the table where long is expected",
    );
    expect(
        Field::new("a", DataType::Int64, false),
        "the column a must not be null in the table",
    );
    let at = |name, data_type| {
        let fields = Fields::from(vec![Field::new(name, data_type, true)]);
        Field::new("at", DataType::Struct(fields), true)
    };
    expect(
        at("day", DataType::Int64),
        "the column at.day is long in the table where date is expected",
    );
    expect(
        at("night", DataType::Date32),
        "the table has no column at.day",
    );
    expect(
        Field::new("at", DataType::Date32, true),
        r#"the column at is date in the table where {"fields":[{"metadata":{},"name":"day","nullable":true,"type":"date"}],"type":"struct"} is expected"#,
    );
    let map = map_of(DataType::Utf8, list_of(DataType::Int64, true), true);
    expect(
        Field::new("map", map, true),
        "the column map.value.element is long in the table where integer is expected",
    );
    expect(
        Field::new("more", DataType::Int64, false),
        "the column more must not be null in the table",
    );
    expect(
        Field::new("mv_more", DataType::Int64, true),
        "the table has a column mv_more that is not expected",
    );
    let table = Schema::new(wanted().split_off(1));
    assert_eq!(
        check_schema(&table, &Schema::new(wanted())),
        Err("the table has no column a".into())
    );
}

#[test]
fn what_does_not_change_a_value_is_no_difference() {
    let item = Field::new("item", DataType::Utf8, false);
    let renamed = Field::new("b", DataType::List(Arc::new(item)), true);
    assert_eq!(difference(renamed), Ok(()));
    assert_eq!(difference(Field::new("more", DataType::Int8, true)), Ok(()));
    let mut reordered = wanted();
    reordered.reverse();
    assert_eq!(
        check_schema(&Schema::new(reordered), &Schema::new(wanted())),
        Ok(())
    );
}
