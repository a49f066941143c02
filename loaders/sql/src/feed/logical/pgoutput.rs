//! Messages of the output plugin `pgoutput`, protocol version 1, from their bytes.
//!
//! ```text
//! B  commit position u64 │ time of commit i64, µs since 2000 │ transaction u32
//! C  flags u8 │ commit position u64 │ end u64 │ time i64
//! R  relation u32 │ schema\0 │ name\0 │ identity u8 │ columns u16 × (flags u8: 1 = of the identity │ name\0 │ type u32 │ modifier i32)
//! I  relation u32 │ 'N' tuple
//! U  relation u32 │ {'K' or 'O' tuple} │ 'N' tuple
//! D  relation u32 │ 'K' or 'O' tuple
//! T  relations u32 │ options u8 │ relation u32 …
//! tuple: columns u16 × ('n' │ 'u' │ 't' length u32, text │ 'b' length u32, bytes)
//! ```
//!
//! Any other kind but `O`, `Y` and `M` is an error: it might be a change that we do not know. Nothing here panics, whatever the bytes.

use std::fmt;

/// More columns than a table may have (MaxHeapAttributeNumber is 1600).
const COLUMNS_MAX: u16 = 1_664;

/// One message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Message<'m> {
    /// A committed transaction begins.
    Begin {
        transaction: u32,
        /// Microseconds since 2000, by the clock of the database.
        committed_us: i64,
    },
    /// It ends.
    Commit {
        /// The position behind its commit.
        end: u64,
    },
    Relation(Relation<'m>),
    Insert {
        relation: u32,
        new: Tuple<'m>,
    },
    Update {
        relation: u32,
        /// Only if the identity changed, or is the whole row.
        old: Option<Tuple<'m>>,
        new: Tuple<'m>,
    },
    Delete {
        relation: u32,
        old: Tuple<'m>,
    },
    Truncate {
        relations: Vec<u32>,
    },
    /// Origins, types and messages of programs: no change of a row.
    Other,
}

/// What the tuples of a table look like from now on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Relation<'m> {
    pub(super) relation: u32,
    pub(super) columns: Vec<Column<'m>>,
}

/// A column of a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Column<'m> {
    /// Whether old tuples have it.
    pub(super) is_identity: bool,
    pub(super) name: &'m [u8],
}

/// A row, or the part of it that is its identity.
pub(super) type Tuple<'m> = Vec<Field<'m>>;

/// A value of a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Field<'m> {
    Null,
    /// A large value that is what it was, and was not written again.
    Unchanged,
    Text(&'m [u8]),
}

/// Bytes that are no message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum DecodeError {
    /// They end too early.
    Truncated,
    /// A kind of message that nobody asked for.
    UnknownMessage(u8),
    /// A kind of tuple or value that there is none of.
    UnknownPart(u8),
    /// More columns than a table has.
    TooManyColumns(u16),
    /// A change outside of a transaction, or one transaction within another.
    OutOfPlace(&'static str),
    /// A change of a table that was not described.
    UnknownRelation(u32),
}

impl fmt::Display for DecodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the database sent a change that cannot be read: ")?;
        match self {
            Self::Truncated => f.write_str("it ends too early"),
            Self::UnknownMessage(kind) => write!(f, "a message of the unknown kind {:?}", char::from(*kind)),
            Self::UnknownPart(kind) => write!(f, "a value of the unknown kind {:?}", char::from(*kind)),
            Self::TooManyColumns(count) => write!(f, "a row of {count} columns"),
            Self::OutOfPlace(what) => write!(f, "{what} out of place"),
            Self::UnknownRelation(relation) => write!(f, "a row of the table {relation}, which was not described"),
        }
    }
}

/// Reads one message.
///
/// # Errors
/// The bytes are none.
pub(super) fn decode(bytes: &[u8]) -> Result<Message<'_>, DecodeError> {
    let mut rest = Rest(bytes);
    Ok(match rest.u8()? {
        b'B' => {
            rest.u64()?;
            Message::Begin { committed_us: rest.u64()?.cast_signed(), transaction: rest.u32()? }
        }
        b'C' => {
            rest.u8()?;
            rest.u64()?;
            let end = rest.u64()?;
            rest.u64()?;
            Message::Commit { end }
        }
        b'R' => Message::Relation(rest.relation()?),
        b'I' => {
            let relation = rest.u32()?;
            Message::Insert { relation, new: rest.tuple_of(b"N")? }
        }
        b'U' => {
            let relation = rest.u32()?;
            let old = if rest.0.first() == Some(&b'N') { None } else { Some(rest.tuple_of(b"KO")?) };
            Message::Update { relation, old, new: rest.tuple_of(b"N")? }
        }
        b'D' => {
            let relation = rest.u32()?;
            Message::Delete { relation, old: rest.tuple_of(b"KO")? }
        }
        b'T' => {
            let count = rest.u32()?;
            rest.u8()?;
            // The count is not believed: each takes four bytes.
            let mut relations = Vec::new();
            for _ in 0..count {
                relations.push(rest.u32()?);
            }
            Message::Truncate { relations }
        }
        b'O' | b'Y' | b'M' => Message::Other,
        kind => return Err(DecodeError::UnknownMessage(kind)),
    })
}

/// What is not read yet.
pub(super) struct Rest<'m>(pub(super) &'m [u8]);

impl<'m> Rest<'m> {
    fn array<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        let (head, tail) = self.0.split_first_chunk::<N>().ok_or(DecodeError::Truncated)?;
        self.0 = tail;
        Ok(*head)
    }

    pub(super) fn u8(&mut self) -> Result<u8, DecodeError> {
        self.array().map(u8::from_be_bytes)
    }

    pub(super) fn u16(&mut self) -> Result<u16, DecodeError> {
        self.array().map(u16::from_be_bytes)
    }

    pub(super) fn u32(&mut self) -> Result<u32, DecodeError> {
        self.array().map(u32::from_be_bytes)
    }

    pub(super) fn u64(&mut self) -> Result<u64, DecodeError> {
        self.array().map(u64::from_be_bytes)
    }

    pub(super) fn bytes(&mut self, count: usize) -> Result<&'m [u8], DecodeError> {
        let (head, tail) = self.0.split_at_checked(count).ok_or(DecodeError::Truncated)?;
        self.0 = tail;
        Ok(head)
    }

    /// Up to a NUL, which is taken too.
    pub(super) fn name(&mut self) -> Result<&'m [u8], DecodeError> {
        let end = self.0.iter().position(|byte| *byte == 0).ok_or(DecodeError::Truncated)?;
        let name = self.bytes(end)?;
        self.u8()?;
        Ok(name)
    }

    fn columns(&mut self) -> Result<u16, DecodeError> {
        match self.u16()? {
            count if count > COLUMNS_MAX => Err(DecodeError::TooManyColumns(count)),
            count => Ok(count),
        }
    }

    fn relation(&mut self) -> Result<Relation<'m>, DecodeError> {
        let relation = self.u32()?;
        self.name()?;
        self.name()?;
        self.u8()?;
        let mut columns = Vec::new();
        for _ in 0..self.columns()? {
            let is_identity = self.u8()? & 1 == 1;
            let name = self.name()?;
            self.bytes(8)?;
            columns.push(Column { is_identity, name });
        }
        Ok(Relation { relation, columns })
    }

    fn tuple_of(&mut self, kinds: &[u8]) -> Result<Tuple<'m>, DecodeError> {
        let kind = self.u8()?;
        if !kinds.contains(&kind) {
            return Err(DecodeError::UnknownPart(kind));
        }
        let mut tuple = Vec::new();
        for _ in 0..self.columns()? {
            tuple.push(match self.u8()? {
                b'n' => Field::Null,
                b'u' => Field::Unchanged,
                b't' => {
                    let length = self.u32()?;
                    Field::Text(self.bytes(length as usize)?)
                }
                // Binary values were not asked for.
                kind => return Err(DecodeError::UnknownPart(kind)),
            });
        }
        Ok(tuple)
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use proptest::prelude::*;

    pub(crate) fn begin(transaction: u32) -> Vec<u8> {
        [&b"B"[..], &9u64.to_be_bytes(), &77i64.to_be_bytes(), &transaction.to_be_bytes()].concat()
    }

    pub(crate) fn commit(end: u64) -> Vec<u8> {
        [&b"C\0"[..], &9u64.to_be_bytes(), &end.to_be_bytes(), &77i64.to_be_bytes()].concat()
    }

    pub(crate) fn relation(relation: u32, columns: &[(&str, bool)]) -> Vec<u8> {
        let mut bytes = [&b"R"[..], &relation.to_be_bytes(), b"public\0users\0d"].concat();
        bytes.extend((columns.len() as u16).to_be_bytes());
        for (name, is_identity) in columns {
            bytes.push(u8::from(*is_identity));
            bytes.extend([name.as_bytes(), b"\0", &20u32.to_be_bytes(), &(-1i32).to_be_bytes()].concat());
        }
        bytes
    }

    /// `None`: null; `Some("…")`: unchanged.
    pub(crate) fn tuple(kind: u8, fields: &[Option<&str>]) -> Vec<u8> {
        let mut bytes = vec![kind];
        bytes.extend((fields.len() as u16).to_be_bytes());
        for field in fields {
            match field {
                None => bytes.push(b'n'),
                Some("…") => bytes.push(b'u'),
                Some(text) => {
                    bytes.push(b't');
                    bytes.extend((text.len() as u32).to_be_bytes());
                    bytes.extend(text.as_bytes());
                }
            }
        }
        bytes
    }

    pub(crate) fn change(kind: u8, relation: u32, tuples: &[Vec<u8>]) -> Vec<u8> {
        [&[kind][..], &relation.to_be_bytes(), &tuples.concat()].concat()
    }

    pub(crate) fn truncate(relations: &[u32]) -> Vec<u8> {
        let mut bytes = [&b"T"[..], &(relations.len() as u32).to_be_bytes(), &[0]].concat();
        relations.iter().for_each(|relation| bytes.extend(relation.to_be_bytes()));
        bytes
    }

    fn each_kind() -> Vec<Vec<u8>> {
        let (old, new) = (tuple(b'K', &[Some("1"), None]), tuple(b'N', &[Some("2"), Some("…")]));
        vec![
            begin(7),
            commit(10),
            relation(16_384, &[("id", true), ("name", false)]),
            change(b'I', 16_384, std::slice::from_ref(&new)),
            change(b'U', 16_384, &[old.clone(), new.clone()]),
            change(b'U', 16_384, std::slice::from_ref(&new)),
            change(b'D', 16_384, &[old]),
            truncate(&[16_384, 16_390]),
        ]
    }

    #[test]
    fn each_kind_of_message_is_read() {
        let messages = each_kind();
        let read: Vec<_> = messages.iter().map(|bytes| decode(bytes).expect("a message")).collect();
        let (old, new) = (vec![Field::Text(b"1"), Field::Null], vec![Field::Text(b"2"), Field::Unchanged]);
        let column = |name, is_identity| Column { is_identity, name };
        let columns = vec![column(&b"id"[..], true), column(b"name", false)];
        let relation = 16_384;
        assert_eq!(
            read,
            [
                Message::Begin { transaction: 7, committed_us: 77 },
                Message::Commit { end: 10 },
                Message::Relation(Relation { relation, columns }),
                Message::Insert { relation, new: new.clone() },
                Message::Update { relation, old: Some(old.clone()), new: new.clone() },
                Message::Update { relation, old: None, new },
                Message::Delete { relation, old },
                Message::Truncate { relations: vec![16_384, 16_390] },
            ]
        );
        for kind in *b"OYM" {
            assert_eq!(decode(&[kind, 1, 2]), Ok(Message::Other));
        }
    }

    #[test]
    fn a_message_that_is_cut_anywhere_is_an_error() {
        for message in each_kind() {
            for end in 0..message.len() {
                assert_eq!(decode(&message[..end]), Err(DecodeError::Truncated), "{message:?} up to {end}");
            }
        }
    }

    #[test]
    fn what_nobody_asked_for_is_an_error() {
        assert_eq!(decode(b"S1234"), Err(DecodeError::UnknownMessage(b'S')));
        assert_eq!(decode(&change(b'I', 1, &[tuple(b'K', &[])])), Err(DecodeError::UnknownPart(b'K')));
        let binary = [&b"I\0\0\0\x01N\0\x01b"[..], &[0, 0, 0, 0]].concat();
        assert_eq!(decode(&binary), Err(DecodeError::UnknownPart(b'b')));
        assert_eq!(decode(b"I\0\0\0\x01N\xff\xff"), Err(DecodeError::TooManyColumns(u16::MAX)));
        // Lengths and counts beyond the end take no memory.
        assert_eq!(decode(b"I\0\0\0\x01N\0\x01t\xff\xff\xff\xff"), Err(DecodeError::Truncated));
        assert_eq!(decode(b"T\xff\xff\xff\xff\0"), Err(DecodeError::Truncated));
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = decode(&bytes);
        }

        #[test]
        fn no_spoiled_message_makes_it_panic(which in 0usize..8, spoils in proptest::collection::vec((any::<u16>(), any::<u8>()), 1..6)) {
            let mut message = each_kind().swap_remove(which);
            for (place, byte) in spoils {
                let place = usize::from(place) % message.len();
                message[place] = byte;
            }
            let _ = decode(&message);
        }
    }
}
