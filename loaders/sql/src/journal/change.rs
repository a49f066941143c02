//! What a record of the journal says: a change of one key, and of which loader it is.
//!
//! ```text
//! ├──────┼────┼──────────┼─────────┼────────┼─────┼───────┐
//! │ kind │ db │ name_len │ key_len │ loader │ key │ value │
//! │  u8  │ u8 │   u16    │   u32   │        │     │       │
//! ```

use bytes::Bytes;

const DELETE: u8 = 0;
const UPSERT: u8 = 1;
const HEAD_BYTES: usize = 8;

/// A change of a key for the source of its loader.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JournalChange {
    /// The loader, by the name that it has in the configuration: places there change.
    pub loader: String,
    /// Database of the key.
    pub db: u8,
    /// The key.
    pub key: Bytes,
    /// Its new value; `None` deletes it.
    pub value: Option<Bytes>,
}

impl JournalChange {
    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        let name_len = u16::try_from(self.loader.len()).expect("names are checked when the configuration is read");
        let key_len = u32::try_from(self.key.len()).expect("a request is shorter than that");
        out.extend_from_slice(&[if self.value.is_some() { UPSERT } else { DELETE }, self.db]);
        out.extend_from_slice(&name_len.to_le_bytes());
        out.extend_from_slice(&key_len.to_le_bytes());
        out.extend_from_slice(self.loader.as_bytes());
        out.extend_from_slice(&self.key);
        out.extend_from_slice(self.value.as_deref().unwrap_or_default());
    }

    /// `None`: this is no change, whatever its checksum says.
    pub(super) fn decode(payload: &[u8]) -> Option<Self> {
        let (head, rest) = payload.split_at_checked(HEAD_BYTES)?;
        let [kind, db, name_0, name_1, key @ ..] = head else { return None };
        let name_len = usize::from(u16::from_le_bytes([*name_0, *name_1]));
        let key_len = u32::from_le_bytes(key.try_into().ok()?) as usize;
        let (name, rest) = rest.split_at_checked(name_len)?;
        let (key, value) = rest.split_at_checked(key_len)?;
        let value = match *kind {
            UPSERT => Some(Bytes::copy_from_slice(value)),
            DELETE if value.is_empty() => None,
            _ => return None,
        };
        let loader = String::from_utf8(name.to_vec()).ok()?;
        Some(Self { loader, db: *db, key: Bytes::copy_from_slice(key), value })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_comes_back_as_it_went() {
        for value in [None, Some(Bytes::new()), Some(Bytes::from_static(b"\0\xff"))] {
            let change = JournalChange { loader: "user".into(), db: 3, key: Bytes::from_static(b"user:1"), value };
            let mut bytes = Vec::new();
            change.encode(&mut bytes);
            assert_eq!(JournalChange::decode(&bytes), Some(change));
        }
        assert_eq!(JournalChange::decode(&[]), None);
        assert_eq!(JournalChange::decode(&[2, 0, 0, 0, 0, 0, 0, 0]), None);
        assert_eq!(JournalChange::decode(&[0, 0, 0, 0, 9, 0, 0, 0]), None);
    }
}
