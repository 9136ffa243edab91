//! The short way from rows to columns, for numbers, booleans and strings, and records and options of these.
//!
//! Nearly all rows are such, and the general way costs them a call and a few checks for each value. This one takes only
//! what fits exactly: fields in the order of the columns, each of its column's kind, and none where a column can be null.
//! Whatever else a row says, it gives up, and the general way does what is right, or says what is wrong.

use std::fmt;
use std::sync::Arc;

use arrow_array::ArrayRef;
use arrow_array::builder::{BooleanBuilder, PrimitiveBuilder, StringBuilder};
use arrow_array::types::{
    ArrowPrimitiveType, Float32Type, Float64Type, Int8Type, Int16Type, Int32Type, Int64Type,
};
use arrow_schema::{DataType, FieldRef};
use serde::Serialize;
use serde::ser::{Impossible, SerializeStruct, SerializeTuple, SerializeTupleStruct, Serializer};

/// True if columns of these types can be made here.
pub(super) fn is_flat(fields: &[FieldRef]) -> bool {
    let made = |field: &FieldRef| Column::new(field.data_type(), 0).is_some();
    fields.iter().all(made)
}

/// The columns of these records; `None` if they are not as flat as their columns.
pub(super) fn columns<D: Serialize>(fields: &[FieldRef], rows: &[&D]) -> Option<Vec<ArrayRef>> {
    let columns = fields
        .iter()
        .map(|field| Column::new(field.data_type(), rows.len()));
    let mut columns: Vec<Column> = columns.collect::<Option<_>>()?;
    for row in rows {
        let record = Record {
            fields,
            columns: &mut columns,
        };
        row.serialize(record).ok()?;
    }
    Some(columns.iter_mut().map(Column::finish).collect())
}

/// The column of these rows, each of which is one value; `None` if one is not as flat as the column.
pub(super) fn column<D: Serialize>(field: &FieldRef, rows: &[&D]) -> Option<ArrayRef> {
    let mut column = Column::new(field.data_type(), rows.len())?;
    for row in rows {
        row.serialize(Value::of(field, &mut column)).ok()?;
    }
    Some(column.finish())
}

/// A row is not flat, whatever it is.
#[derive(Debug)]
struct NotFlat;

impl fmt::Display for NotFlat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a row is not flat")
    }
}

impl std::error::Error for NotFlat {}

impl serde::ser::Error for NotFlat {
    fn custom<T: fmt::Display>(_: T) -> Self {
        NotFlat
    }
}

/// One that is being made.
enum Column {
    Boolean(BooleanBuilder),
    Int8(PrimitiveBuilder<Int8Type>),
    Int16(PrimitiveBuilder<Int16Type>),
    Int32(PrimitiveBuilder<Int32Type>),
    Int64(PrimitiveBuilder<Int64Type>),
    Float32(PrimitiveBuilder<Float32Type>),
    Float64(PrimitiveBuilder<Float64Type>),
    Utf8(StringBuilder),
}

impl Column {
    fn new(data_type: &DataType, rows: usize) -> Option<Self> {
        Some(match data_type {
            DataType::Boolean => Column::Boolean(BooleanBuilder::with_capacity(rows)),
            DataType::Int8 => Column::Int8(PrimitiveBuilder::with_capacity(rows)),
            DataType::Int16 => Column::Int16(PrimitiveBuilder::with_capacity(rows)),
            DataType::Int32 => Column::Int32(PrimitiveBuilder::with_capacity(rows)),
            DataType::Int64 => Column::Int64(PrimitiveBuilder::with_capacity(rows)),
            DataType::Float32 => Column::Float32(PrimitiveBuilder::with_capacity(rows)),
            DataType::Float64 => Column::Float64(PrimitiveBuilder::with_capacity(rows)),
            DataType::Utf8 => Column::Utf8(StringBuilder::with_capacity(rows, 0)),
            _ => return None,
        })
    }

    fn finish(&mut self) -> ArrayRef {
        match self {
            Column::Boolean(column) => Arc::new(column.finish()),
            Column::Int8(column) => Arc::new(column.finish()),
            Column::Int16(column) => Arc::new(column.finish()),
            Column::Int32(column) => Arc::new(column.finish()),
            Column::Int64(column) => Arc::new(column.finish()),
            Column::Float32(column) => Arc::new(column.finish()),
            Column::Float64(column) => Arc::new(column.finish()),
            Column::Utf8(column) => Arc::new(column.finish()),
        }
    }

    fn append_null(&mut self) {
        match self {
            Column::Boolean(column) => column.append_null(),
            Column::Int8(column) => column.append_null(),
            Column::Int16(column) => column.append_null(),
            Column::Int32(column) => column.append_null(),
            Column::Int64(column) => column.append_null(),
            Column::Float32(column) => column.append_null(),
            Column::Float64(column) => column.append_null(),
            Column::Utf8(column) => column.append_null(),
        }
    }

    #[inline]
    fn integer<I>(&mut self, value: I) -> Result<(), NotFlat>
    where
        I: TryInto<i8> + TryInto<i16> + TryInto<i32> + TryInto<i64>,
    {
        match self {
            Column::Int64(column) => append(column, value.try_into()),
            Column::Int32(column) => append(column, value.try_into()),
            Column::Int16(column) => append(column, value.try_into()),
            Column::Int8(column) => append(column, value.try_into()),
            _ => Err(NotFlat),
        }
    }
}

#[inline]
fn append<T: ArrowPrimitiveType, X>(
    column: &mut PrimitiveBuilder<T>,
    value: Result<T::Native, X>,
) -> Result<(), NotFlat> {
    column.append_value(value.map_err(|_| NotFlat)?);
    Ok(())
}

/// What takes a row.
struct Record<'a> {
    fields: &'a [FieldRef],
    columns: &'a mut [Column],
}

/// What takes the fields of a row, one after the other.
struct Fields<'a> {
    record: Record<'a>,
    next: usize,
}

impl<'a> Record<'a> {
    fn fields(self, len: usize) -> Result<Fields<'a>, NotFlat> {
        if len != self.columns.len() {
            return Err(NotFlat);
        }
        Ok(Fields {
            record: self,
            next: 0,
        })
    }
}

impl Fields<'_> {
    #[inline]
    fn value<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), NotFlat> {
        let column = self.record.columns.get_mut(self.next).ok_or(NotFlat)?;
        let field = self.record.fields.get(self.next).ok_or(NotFlat)?;
        self.next += 1;
        value.serialize(Value::of(field, column))
    }

    fn end(self) -> Result<(), NotFlat> {
        match self.next == self.record.columns.len() {
            true => Ok(()),
            false => Err(NotFlat),
        }
    }
}

impl SerializeTuple for Fields<'_> {
    type Ok = ();
    type Error = NotFlat;

    #[inline]
    fn serialize_element<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), NotFlat> {
        self.value(value)
    }

    fn end(self) -> Result<(), NotFlat> {
        Fields::end(self)
    }
}

impl SerializeTupleStruct for Fields<'_> {
    type Ok = ();
    type Error = NotFlat;

    #[inline]
    fn serialize_field<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), NotFlat> {
        self.value(value)
    }

    fn end(self) -> Result<(), NotFlat> {
        Fields::end(self)
    }
}

impl SerializeStruct for Fields<'_> {
    type Ok = ();
    type Error = NotFlat;

    #[inline]
    fn serialize_field<T: Serialize + ?Sized>(
        &mut self,
        name: &'static str,
        value: &T,
    ) -> Result<(), NotFlat> {
        match self.record.fields.get(self.next) {
            Some(field) if field.name() == name => self.value(value),
            _ => Err(NotFlat),
        }
    }

    fn end(self) -> Result<(), NotFlat> {
        Fields::end(self)
    }
}

/// What takes a value.
struct Value<'a> {
    column: &'a mut Column,
    /// Whether it can be none: what is in some can not, since that would read back as none.
    can_be_null: bool,
}

impl<'a> Value<'a> {
    #[inline]
    fn of(field: &FieldRef, column: &'a mut Column) -> Self {
        Value {
            column,
            can_be_null: field.is_nullable(),
        }
    }
}

/// What neither a flat row nor a flat value is.
macro_rules! not_flat {
    ($($name:ident($($argument:ty),*) -> $output:ty;)*) => {
        $(fn $name(self, $(_: $argument),*) -> Result<$output, NotFlat> {
            Err(NotFlat)
        })*
    };
}

/// The same for both, where methods have parameters of type.
macro_rules! neither {
    () => {
        type Ok = ();
        type Error = NotFlat;
        type SerializeSeq = Impossible<(), NotFlat>;
        type SerializeMap = Impossible<(), NotFlat>;
        type SerializeTupleVariant = Impossible<(), NotFlat>;
        type SerializeStructVariant = Impossible<(), NotFlat>;

        not_flat! {
            serialize_bytes(&[u8]) -> ();
            serialize_char(char) -> ();
            serialize_unit() -> ();
            serialize_unit_struct(&'static str) -> ();
            serialize_unit_variant(&'static str, u32, &'static str) -> ();
            serialize_seq(Option<usize>) -> Self::SerializeSeq;
            serialize_map(Option<usize>) -> Self::SerializeMap;
            serialize_tuple_variant(&'static str, u32, &'static str, usize) -> Self::SerializeTupleVariant;
            serialize_struct_variant(&'static str, u32, &'static str, usize) -> Self::SerializeStructVariant;
        }

        fn serialize_newtype_variant<T: Serialize + ?Sized>(
            self,
            _: &'static str,
            _: u32,
            _: &'static str,
            _: &T,
        ) -> Result<(), NotFlat> {
            Err(NotFlat)
        }

        fn serialize_newtype_struct<T: Serialize + ?Sized>(
            self,
            _: &'static str,
            value: &T,
        ) -> Result<(), NotFlat> {
            value.serialize(self)
        }
    };
}

impl<'a> Serializer for Record<'a> {
    type SerializeTuple = Fields<'a>;
    type SerializeTupleStruct = Fields<'a>;
    type SerializeStruct = Fields<'a>;

    neither!();

    not_flat! {
        serialize_bool(bool) -> ();
        serialize_i8(i8) -> ();
        serialize_i16(i16) -> ();
        serialize_i32(i32) -> ();
        serialize_i64(i64) -> ();
        serialize_u8(u8) -> ();
        serialize_u16(u16) -> ();
        serialize_u32(u32) -> ();
        serialize_u64(u64) -> ();
        serialize_f32(f32) -> ();
        serialize_f64(f64) -> ();
        serialize_str(&str) -> ();
        serialize_none() -> ();
    }

    fn serialize_some<T: Serialize + ?Sized>(self, _: &T) -> Result<(), NotFlat> {
        Err(NotFlat)
    }

    fn serialize_tuple(self, len: usize) -> Result<Fields<'a>, NotFlat> {
        self.fields(len)
    }

    fn serialize_tuple_struct(self, _: &'static str, len: usize) -> Result<Fields<'a>, NotFlat> {
        self.fields(len)
    }

    fn serialize_struct(self, _: &'static str, len: usize) -> Result<Fields<'a>, NotFlat> {
        self.fields(len)
    }
}

macro_rules! integers {
    ($($name:ident($integer:ty);)*) => {
        $(#[inline]
        fn $name(self, value: $integer) -> Result<(), NotFlat> {
            self.column.integer(value)
        })*
    };
}

impl Serializer for Value<'_> {
    type SerializeTuple = Impossible<(), NotFlat>;
    type SerializeTupleStruct = Impossible<(), NotFlat>;
    type SerializeStruct = Impossible<(), NotFlat>;

    neither!();

    not_flat! {
        serialize_tuple(usize) -> Self::SerializeTuple;
        serialize_tuple_struct(&'static str, usize) -> Self::SerializeTupleStruct;
        serialize_struct(&'static str, usize) -> Self::SerializeStruct;
    }

    integers! {
        serialize_i8(i8);
        serialize_i16(i16);
        serialize_i32(i32);
        serialize_i64(i64);
        serialize_u8(u8);
        serialize_u16(u16);
        serialize_u32(u32);
        serialize_u64(u64);
    }

    fn serialize_none(self) -> Result<(), NotFlat> {
        if !self.can_be_null {
            return Err(NotFlat);
        }
        self.column.append_null();
        Ok(())
    }

    #[inline]
    fn serialize_some<T: Serialize + ?Sized>(self, value: &T) -> Result<(), NotFlat> {
        if !self.can_be_null {
            return Err(NotFlat);
        }
        value.serialize(Value {
            can_be_null: false,
            ..self
        })
    }

    fn serialize_bool(self, value: bool) -> Result<(), NotFlat> {
        match self.column {
            Column::Boolean(column) => {
                column.append_value(value);
                Ok(())
            }
            _ => Err(NotFlat),
        }
    }

    fn serialize_f32(self, value: f32) -> Result<(), NotFlat> {
        match self.column {
            Column::Float32(column) => append(column, Ok::<_, NotFlat>(value)),
            _ => Err(NotFlat),
        }
    }

    fn serialize_f64(self, value: f64) -> Result<(), NotFlat> {
        match self.column {
            Column::Float64(column) => append(column, Ok::<_, NotFlat>(value)),
            _ => Err(NotFlat),
        }
    }

    #[inline]
    fn serialize_str(self, value: &str) -> Result<(), NotFlat> {
        match self.column {
            // More would not be addressed by 32 bits.
            Column::Utf8(column)
                if column.values_slice().len() + value.len() <= i32::MAX as usize =>
            {
                column.append_value(value);
                Ok(())
            }
            _ => Err(NotFlat),
        }
    }
}

#[cfg(test)]
mod tests {
    use arrow_array::cast::AsArray;
    use arrow_array::{Array, Int16Array};
    use arrow_schema::Field;

    use super::*;

    fn fields(types: &[(DataType, bool)]) -> Vec<FieldRef> {
        let field =
            |(data_type, null): &(DataType, bool)| Field::new("c", data_type.clone(), *null);
        types.iter().map(|of| Arc::new(field(of))).collect()
    }

    #[test]
    fn options_are_values_or_nulls() {
        let fields = fields(&[(DataType::Int16, true), (DataType::Utf8, true)]);
        assert!(is_flat(&fields));
        let rows = [(Some(1u8), None), (None, Some("a")), (Some(3), Some(""))];
        let made = columns(&fields, &rows.each_ref()).expect("flat rows");
        let numbers: &Int16Array = made[0].as_primitive();
        assert_eq!(numbers, &Int16Array::from(vec![Some(1), None, Some(3)]));
        let texts: Vec<_> = made[1].as_string::<i32>().iter().collect();
        assert_eq!(texts, [None, Some("a"), Some("")]);
        let values = column(&fields[0], &[&Some(5i64), &None]).expect("flat values");
        assert_eq!((values.len(), values.null_count()), (2, 1));
    }

    #[test]
    fn what_does_not_fit_exactly_is_left_to_others() {
        let of = |null| fields(&[(DataType::Int16, null)]);
        // An option in an option, none where nothing can be null, a number too large, another kind, another shape.
        assert!(columns(&of(true), &[&(Some(None::<u8>),)]).is_none());
        assert!(columns(&of(false), &[&(None::<u8>,)]).is_none());
        assert!(columns(&of(true), &[&(Some(40_000),)]).is_none());
        assert!(columns(&of(true), &[&(Some("a"),)]).is_none());
        assert!(columns(&of(true), &[&Some((1u8,))]).is_none());
        assert!(columns(&of(true), &[&(1u8, 2u8)]).is_none());
        assert!(column(&of(true)[0], &[&Some(Some(1u8))]).is_none());
        assert!(!is_flat(&fields(&[(DataType::Date32, false)])));
    }
}
