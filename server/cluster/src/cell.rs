//! Cells of keys: what is noted for many keys side by side without their names. Not slots, as keys with one hash tag would all be in one.

use crate::slot::crc16;

/// How many cells there are.
pub const CELLS: usize = 16_384;

/// The cell of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Cell(u16);

impl Cell {
    /// The cell of a key, the same on all nodes.
    #[must_use]
    pub fn of_key(key: &[u8]) -> Self {
        Self(crc16(key) % CELLS as u16)
    }

    /// Its place among the cells, below [`CELLS`].
    #[must_use]
    pub const fn index(self) -> usize {
        self.0 as usize
    }
}

/// Keys that a request may change, as far as that must be known until it is answered. Two bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Touched(u16);

impl Touched {
    /// It changes nothing.
    pub const NOTHING: Self = Self(0);
    const MANY: Self = Self(u16::MAX);

    /// Of a request with these keys.
    #[must_use]
    pub fn of_keys<K: AsRef<[u8]>>(mut keys: impl Iterator<Item = K>) -> Self {
        let Some(first) = keys.next().map(|key| Cell::of_key(key.as_ref())) else { return Self::NOTHING };
        if keys.all(|key| Cell::of_key(key.as_ref()) == first) { Self(first.0 + 1) } else { Self::MANY }
    }

    /// The cell of all of its keys; `Err`: they are in several. `None`: it changes none.
    #[must_use]
    pub fn cell(self) -> Option<Result<Cell, Many>> {
        match self {
            Self::NOTHING => None,
            Self::MANY => Some(Err(Many)),
            Self(number) => Some(Ok(Cell(number - 1))),
        }
    }
}

/// Keys in several cells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Many;

const _: () = assert!(CELLS < u16::MAX as usize);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_with_one_hash_tag_are_in_cells_of_their_own() {
        let keys = ["{user:1}:name", "{user:1}:age", "{user:1}:city"];
        let mut cells: Vec<_> = keys.iter().map(|key| Cell::of_key(key.as_bytes())).collect();
        cells.sort();
        cells.dedup();
        assert_eq!(cells.len(), 3);
    }

    #[test]
    fn what_a_request_touches_is_its_one_cell_or_many() {
        let of = |keys: &[&str]| Touched::of_keys(keys.iter()).cell();
        assert_eq!(of(&[]), None);
        assert_eq!(of(&["a"]), Some(Ok(Cell::of_key(b"a"))));
        assert_eq!(of(&["a", "a"]), of(&["a"]));
        assert_eq!(of(&["a", "b"]), Some(Err(Many)));
        // The last cell is told apart from what is no cell.
        let key = (0..).map(|number| number.to_string()).find(|key| Cell::of_key(key.as_bytes()).index() == CELLS - 1);
        assert!(matches!(of(&[&key.expect("it is some key's")]), Some(Ok(_))));
    }
}
