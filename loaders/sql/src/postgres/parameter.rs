//! Binds the values of keys as the types that PostgreSQL inferred, in its binary format.
//!
//! Values are always bound, never part of the SQL text.

use crate::template::{self, PlaceholderKind};
use sqlx::encode::IsNull;
use sqlx::error::BoxDynError;
use sqlx::postgres::types::Oid;
use sqlx::postgres::{PgArgumentBuffer, PgTypeInfo, PgTypeKind};
use sqlx::{Encode, Postgres, Type, TypeInfo};

/// What PostgreSQL takes for one `$n`.
#[derive(Clone, Debug)]
pub(crate) struct Parameter {
    info: PgTypeInfo,
    scalar: Scalar,
    /// For an array, the number of its element type, which the binary format repeats.
    element: Option<Oid>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Scalar {
    Int2,
    Int4,
    Int8,
    Numeric,
    Text,
    Uuid,
}

impl Parameter {
    /// A scalar parameter that takes values of the placeholder, or what the server wants instead.
    pub(crate) fn scalar(info: &PgTypeInfo, kind: PlaceholderKind) -> Result<Self, String> {
        let scalar = Scalar::of(info, kind)?;
        Ok(Self { info: info.clone(), scalar, element: None })
    }

    /// An array parameter that takes values of the placeholder, or what the server wants instead.
    pub(crate) fn array(info: &PgTypeInfo, kind: PlaceholderKind) -> Result<Self, String> {
        let PgTypeKind::Array(element) = info.kind() else {
            return Err(format!("{} where a batch query binds an array; write = ANY($n), or unnest($n)", info.name()));
        };
        let scalar = Scalar::of(element, kind)?;
        let oid = element.oid().ok_or_else(|| format!("an array of {}, whose number is not known", element.name()))?;
        Ok(Self { info: info.clone(), scalar, element: Some(oid) })
    }

    /// Whether the type can hold this value. If not, no row can have it.
    pub(crate) fn holds(&self, text: &[u8]) -> bool {
        match self.scalar {
            Scalar::Int2 => template::int_of(text).is_some_and(|int| i16::try_from(int).is_ok()),
            Scalar::Int4 => template::int_of(text).is_some_and(|int| i32::try_from(int).is_ok()),
            _ => true,
        }
    }

    /// The bound value. Every text must be one that the type holds.
    pub(crate) fn bind<'v>(&self, texts: impl ExactSizeIterator<Item = &'v [u8]>) -> Bound {
        let mut bytes = Vec::new();
        match self.element {
            None => texts.for_each(|text| self.scalar.encode(text, &mut bytes)),
            Some(element) => {
                let length = i32::try_from(texts.len()).expect("a batch is far shorter than 2^31");
                // One dimension, no NULLs, the element type, the length, counted from 1.
                for int in [1, 0, element.0.cast_signed(), length, 1] {
                    bytes.extend(int.to_be_bytes());
                }
                for text in texts {
                    let start = bytes.len();
                    bytes.extend([0; 4]);
                    self.scalar.encode(text, &mut bytes);
                    let size = i32::try_from(bytes.len() - start - 4).expect("a key is far shorter than 2^31");
                    bytes[start..start + 4].copy_from_slice(&size.to_be_bytes());
                }
            }
        }
        Bound { info: self.info.clone(), bytes }
    }

    /// The name of the type, for people.
    pub(crate) fn type_name(&self) -> &str {
        self.info.name()
    }
}

impl Scalar {
    fn of(info: &PgTypeInfo, kind: PlaceholderKind) -> Result<Self, String> {
        if let PgTypeKind::Domain(base) = info.kind() {
            return Self::of(base, kind);
        }
        if let PgTypeKind::Enum(_) = info.kind() {
            return Err(format!("the enum {}; compare its text instead, as in column::text = $n", info.name()));
        }
        let scalar = match info.oid() {
            Some(Oid(20)) => Self::Int8,
            Some(Oid(21)) => Self::Int2,
            Some(Oid(23)) => Self::Int4,
            Some(Oid(1700)) => Self::Numeric,
            Some(Oid(19 | 25 | 1042 | 1043)) => Self::Text,
            Some(Oid(2950)) => Self::Uuid,
            _ if info.name().eq_ignore_ascii_case("citext") => Self::Text,
            _ => return Err(format!("{}, which no placeholder can be; cast the column to text", info.name())),
        };
        let takes = match scalar {
            Self::Int2 | Self::Int4 | Self::Int8 | Self::Numeric => PlaceholderKind::Int,
            Self::Text => PlaceholderKind::Text,
            Self::Uuid => PlaceholderKind::Uuid,
        };
        if takes == kind { Ok(scalar) } else { Err(format!("{}, which a {takes} placeholder can be", info.name())) }
    }

    fn encode(self, text: &[u8], out: &mut Vec<u8>) {
        let int = || template::int_of(text).expect("the key's placeholder is an integer that the type holds");
        match self {
            Self::Int2 => out.extend((int() as i16).to_be_bytes()),
            Self::Int4 => out.extend((int() as i32).to_be_bytes()),
            Self::Int8 => out.extend(int().to_be_bytes()),
            Self::Numeric => encode_numeric(int(), out),
            Self::Text => out.extend_from_slice(text),
            Self::Uuid => out.extend(template::uuid_of(text).expect("the key's placeholder is a UUID")),
        }
    }
}

/// See `codec::numeric` for the layout.
fn encode_numeric(int: i64, out: &mut Vec<u8>) {
    let mut rest = int.unsigned_abs();
    let mut groups = Vec::new();
    while rest > 0 {
        groups.push((rest % 10_000) as u16);
        rest /= 10_000;
    }
    let count = groups.len() as u16;
    out.extend(count.to_be_bytes());
    out.extend(count.saturating_sub(1).to_be_bytes());
    out.extend(if int < 0 { 0x4000u16 } else { 0 }.to_be_bytes());
    out.extend(0u16.to_be_bytes());
    for group in groups.iter().rev() {
        out.extend(group.to_be_bytes());
    }
}

/// A value in the server's binary format, with its type.
pub(crate) struct Bound {
    info: PgTypeInfo,
    bytes: Vec<u8>,
}

impl Bound {
    /// A value whose bytes are in the server's binary format of the type.
    pub(super) fn new(info: PgTypeInfo, bytes: Vec<u8>) -> Self {
        Self { info, bytes }
    }
}

impl Type<Postgres> for Bound {
    fn type_info() -> PgTypeInfo {
        // Never asked: every value says its own type.
        <str as Type<Postgres>>::type_info()
    }
}

impl Encode<'_, Postgres> for Bound {
    fn encode_by_ref(&self, buf: &mut PgArgumentBuffer) -> Result<IsNull, BoxDynError> {
        buf.extend_from_slice(&self.bytes);
        Ok(IsNull::No)
    }

    fn produces(&self) -> Option<PgTypeInfo> {
        Some(self.info.clone())
    }

    fn size_hint(&self) -> usize {
        self.bytes.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::postgres::codec::Codec;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn numerics_read_back(int in any::<i64>()) {
            let (mut raw, mut text) = (Vec::new(), Vec::new());
            encode_numeric(int, &mut raw);
            Codec::Numeric.key(&raw, &mut text).expect("a good value");
            prop_assert_eq!(text, int.to_string().into_bytes());
        }
    }
}
