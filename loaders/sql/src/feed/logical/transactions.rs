//! From messages to committed transactions: what each did to the rows of one table, by their key columns. No sockets, no clock.
//!
//! Where a message does not hold a key column (the identity lacks it, a large value that was not written again, a column list), the key
//! cannot be known, and any row may have changed.

use super::pgoutput::{Column, DecodeError, Field, Message, Relation, Tuple};
use crate::json;
use leasehold_loader_api::feed::{Change, KeyValues};
use std::collections::{HashMap, HashSet};

/// Changes of one transaction that are told one by one; with more, any row may have changed.
const CHANGES_MAX: usize = 100_000;

/// A column of a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct KeyColumn {
    pub(super) name: String,
    /// Whether 42.00 is the key 42, as for loaders.
    pub(super) is_numeric: bool,
}

/// A transaction that was committed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Transaction {
    pub(super) number: u32,
    /// Microseconds since 2000, by the clock of the database.
    pub(super) committed_us: i64,
    pub(super) changes: Vec<Change>,
}

/// What a message came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Nothing yet.
    Within,
    /// A transaction ended; `None`: it did nothing to the table. The position behind its commit.
    Ended(Option<Transaction>, u64),
}

/// The messages of one stream, put together.
pub(super) struct Transactions {
    key: Vec<KeyColumn>,
    /// The numbers of the table and its partitions.
    tables: HashSet<u32>,
    relations: HashMap<u32, Places>,
    open: Option<Transaction>,
}

/// Where the key columns stand in tuples of a table, and whether old tuples have them; `None`: nowhere.
type Places = Vec<Option<(usize, bool)>>;

impl Transactions {
    pub(super) fn new(key: Vec<KeyColumn>, tables: HashSet<u32>) -> Self {
        Self { key, tables, relations: HashMap::new(), open: None }
    }

    /// Takes the next message.
    ///
    /// # Errors
    /// It cannot come now; the stream is worth nothing any more.
    pub(super) fn take(&mut self, message: Message<'_>) -> Result<Step, DecodeError> {
        match message {
            Message::Begin { .. } if self.open.is_some() => return Err(DecodeError::OutOfPlace("a beginning")),
            Message::Begin { transaction, committed_us } => {
                self.open = Some(Transaction { number: transaction, committed_us, changes: Vec::new() });
            }
            Message::Commit { end } => {
                let ended = self.open.take().ok_or(DecodeError::OutOfPlace("a commit"))?;
                return Ok(Step::Ended(Some(ended).filter(|ended| !ended.changes.is_empty()), end));
            }
            Message::Relation(Relation { relation, columns }) => {
                self.relations.insert(relation, self.places(&columns));
            }
            Message::Insert { relation, new } => self.row(relation, None, Some(&new), false)?,
            Message::Update { relation, old, new } => self.row(relation, old.as_ref(), Some(&new), true)?,
            Message::Delete { relation, old } => self.row(relation, Some(&old), None, true)?,
            Message::Truncate { relations } => {
                if relations.iter().any(|relation| self.tables.contains(relation)) {
                    self.note(Change::All)?;
                }
            }
            Message::Other => {}
        }
        Ok(Step::Within)
    }

    fn places(&self, columns: &[Column<'_>]) -> Places {
        let place = |key: &KeyColumn| {
            let (place, column) = columns.iter().enumerate().find(|(_, column)| column.name == key.name.as_bytes())?;
            Some((place, column.is_identity))
        };
        self.key.iter().map(place).collect()
    }

    /// `has_before`: there was a row before; without `old` its identity is that of `new`.
    fn row(
        &mut self,
        relation: u32,
        old: Option<&Tuple<'_>>,
        new: Option<&Tuple<'_>>,
        has_before: bool,
    ) -> Result<(), DecodeError> {
        if !self.tables.contains(&relation) {
            return Ok(());
        }
        let places = self.relations.get(&relation).ok_or(DecodeError::UnknownRelation(relation))?;
        let change = self.change(places, old, new, has_before).unwrap_or(Change::All);
        self.note(change)
    }

    /// `None`: a key is not to be known.
    fn change(
        &self,
        places: &Places,
        old: Option<&Tuple<'_>>,
        new: Option<&Tuple<'_>>,
        has_before: bool,
    ) -> Option<Change> {
        let mut before = Vec::new();
        let mut after = Vec::new();
        for (key, place) in self.key.iter().zip(places) {
            let (place, is_identity) = (*place)?;
            if has_before && !is_identity {
                return None;
            }
            let was = match old {
                Some(old) => Some(text(key, *old.get(place)?)?),
                None => None,
            };
            if let Some(new) = new {
                after.push(match (new.get(place)?, &was) {
                    (Field::Unchanged, Some(was)) => was.clone(),
                    (field, _) => text(key, *field)?,
                });
            }
            before.extend(was);
        }
        let row = |tuple: Option<&Tuple<'_>>, values: KeyValues| tuple.map(|_| values);
        Some(Change::Row { old: row(old, before), new: row(new, after) })
    }

    fn note(&mut self, change: Change) -> Result<(), DecodeError> {
        let open = self.open.as_mut().ok_or(DecodeError::OutOfPlace("a change"))?;
        match open.changes.as_slice() {
            // There is nothing to add to it.
            [Change::All] => {}
            _ if change == Change::All || open.changes.len() == CHANGES_MAX => open.changes = vec![Change::All],
            _ => open.changes.push(change),
        }
        Ok(())
    }
}

/// The text of a key column; the outer `None`: it was not sent.
fn text(key: &KeyColumn, field: Field<'_>) -> Option<Option<String>> {
    let mut text = match field {
        Field::Unchanged => return None,
        Field::Null => return Some(None),
        Field::Text(text) => text.to_vec(),
    };
    if key.is_numeric {
        json::whole(0, &mut text);
    }
    // What is no UTF-8 is no key, as if it were NULL.
    Some(String::from_utf8(text).ok())
}

#[cfg(test)]
mod tests {
    use super::super::pgoutput::decode;
    use super::super::pgoutput::tests::{begin, change, commit, relation, truncate, tuple};
    use super::*;
    use proptest::prelude::*;

    const USERS: u32 = 16_384;
    const OTHERS: u32 = 16_999;

    fn transactions(columns: &[&str]) -> Transactions {
        let column = |name: &&str| KeyColumn { name: (*name).to_owned(), is_numeric: *name == "amount" };
        Transactions::new(columns.iter().map(column).collect(), HashSet::from([USERS, USERS + 1]))
    }

    fn row(old: Option<&[&str]>, new: Option<&[&str]>) -> Change {
        let values = |texts: &[&str]| texts.iter().map(|text| Some((*text).to_owned())).collect();
        Change::Row { old: old.map(values), new: new.map(values) }
    }

    /// The changes of one transaction of these messages.
    fn changes(transactions: &mut Transactions, messages: &[Vec<u8>]) -> Vec<Change> {
        for message in [begin(5)].iter().chain(messages) {
            let step = transactions.take(decode(message).expect("a message"));
            assert_eq!(step, Ok(Step::Within), "{message:?}");
        }
        match transactions.take(decode(&commit(99)).expect("a message")) {
            Ok(Step::Ended(ended, 99)) => ended.map(|ended| ended.changes).unwrap_or_default(),
            other => panic!("{other:?}"),
        }
    }

    fn new(fields: &[Option<&str>]) -> Vec<u8> {
        tuple(b'N', fields)
    }

    #[test]
    fn rows_are_told_by_their_keys_before_and_after() {
        let mut users = transactions(&["id"]);
        let described = relation(USERS, &[("name", false), ("id", true)]);
        let told = changes(
            &mut users,
            &[
                described,
                change(b'I', USERS, &[new(&[Some("ann"), Some("1")])]),
                change(b'U', USERS, &[new(&[Some("bea"), Some("1")])]),
                change(b'U', USERS, &[new(&[Some("…"), Some("1")])]),
                change(b'U', USERS, &[tuple(b'K', &[None, Some("1")]), new(&[Some("bea"), Some("2")])]),
                change(b'D', USERS, &[tuple(b'K', &[None, Some("2")])]),
            ],
        );
        assert_eq!(
            told,
            [
                row(None, Some(&["1"])),
                row(None, Some(&["1"])),
                row(None, Some(&["1"])),
                row(Some(&["1"]), Some(&["2"])),
                row(Some(&["2"]), None),
            ]
        );
    }

    #[test]
    fn a_key_that_was_not_sent_makes_all_stale() {
        // The identity is `id` only.
        let mut users = transactions(&["id", "org"]);
        let described = relation(USERS, &[("id", true), ("org", false)]);
        let insert = change(b'I', USERS, &[new(&[Some("1"), Some("a")])]);
        assert_eq!(changes(&mut users, &[described, insert.clone()]), [row(None, Some(&["1", "a"]))]);
        let update = change(b'U', USERS, &[new(&[Some("1"), Some("b")])]);
        assert_eq!(changes(&mut users, &[insert.clone(), update, insert.clone()]), [Change::All]);
        assert_eq!(changes(&mut users, &[change(b'D', USERS, &[tuple(b'K', &[Some("1"), None])])]), [Change::All]);
        // A column of the key is gone, or not published.
        let described = relation(USERS, &[("id", true)]);
        assert_eq!(changes(&mut users, &[described, change(b'I', USERS, &[new(&[Some("1")])])]), [Change::All]);
    }

    #[test]
    fn a_large_value_that_was_not_written_again_is_taken_from_the_row_before() {
        let mut users = transactions(&["id"]);
        let described = relation(USERS, &[("id", true), ("name", true)]);
        let whole = change(b'U', USERS, &[tuple(b'O', &[Some("1"), Some("x")]), new(&[Some("…"), Some("y")])]);
        assert_eq!(changes(&mut users, &[described, whole]), [row(Some(&["1"]), Some(&["1"]))]);
        let unknown = change(b'U', USERS, &[new(&[Some("…"), Some("y")])]);
        assert_eq!(changes(&mut users, &[unknown]), [Change::All]);
    }

    #[test]
    fn a_numeric_key_is_the_integer_it_is_to_loaders() {
        let mut sums = transactions(&["amount"]);
        let described = relation(USERS, &[("amount", true)]);
        let insert = |text| change(b'I', USERS, &[new(&[Some(text)])]);
        let told = changes(&mut sums, &[described, insert("42.00"), insert("42.50")]);
        assert_eq!(told, [row(None, Some(&["42"])), row(None, Some(&["42.50"]))]);
    }

    #[test]
    fn other_tables_are_nobodys_business_and_a_truncate_is_all() {
        let mut users = transactions(&["id"]);
        let described = relation(USERS, &[("id", true)]);
        let insert = change(b'I', OTHERS, &[new(&[Some("1")])]);
        assert_eq!(changes(&mut users, &[described, insert.clone(), truncate(&[OTHERS])]), []);
        assert_eq!(changes(&mut users, &[insert, truncate(&[OTHERS, USERS + 1])]), [Change::All]);
    }

    #[test]
    fn more_changes_than_the_limit_are_all() {
        let mut users = transactions(&["id"]);
        let insert = change(b'I', USERS, &[new(&[Some("1")])]);
        let mut messages = vec![relation(USERS, &[("id", true)])];
        messages.extend(std::iter::repeat_n(insert.clone(), CHANGES_MAX));
        assert_eq!(changes(&mut users, &messages).len(), CHANGES_MAX);
        messages.push(insert);
        assert_eq!(changes(&mut users, &messages), [Change::All]);
    }

    #[test]
    fn what_is_out_of_place_ends_the_stream() {
        let take = |messages: &[Vec<u8>]| {
            let mut users = transactions(&["id"]);
            messages.iter().map(|bytes| users.take(decode(bytes).expect("a message"))).last().expect("a message")
        };
        let insert = change(b'I', USERS, &[new(&[Some("1")])]);
        assert_eq!(take(&[commit(1)]), Err(DecodeError::OutOfPlace("a commit")));
        assert_eq!(take(&[begin(1), begin(2)]), Err(DecodeError::OutOfPlace("a beginning")));
        assert_eq!(take(&[begin(1), insert.clone()]), Err(DecodeError::UnknownRelation(USERS)));
        assert_eq!(take(&[relation(USERS, &[("id", true)]), insert]), Err(DecodeError::OutOfPlace("a change")));
        assert_eq!(take(&[truncate(&[USERS])]), Err(DecodeError::OutOfPlace("a change")));
        assert_eq!(take(&[begin(1), change(b'I', OTHERS, &[new(&[])])]), Ok(Step::Within));
    }

    proptest! {
        /// Tuples that are shorter than described, and any order of messages.
        #[test]
        fn no_stream_makes_it_panic(choices in proptest::collection::vec((0usize..8, 0usize..4), 0..60)) {
            let mut users = transactions(&["id", "org"]);
            for (kind, width) in choices {
                let fields = [Some("1"), None, Some("…")];
                let fields = &fields[..width.min(3)];
                let bytes = match kind {
                    0 => begin(1),
                    1 => commit(1),
                    2 => relation(USERS, &[("x", true), ("id", width > 1), ("org", true)][..width.min(3)]),
                    3 => change(b'I', USERS, &[new(fields)]),
                    4 => change(b'U', USERS, &[tuple(b'O', fields), new(fields)]),
                    5 => change(b'U', USERS, &[new(fields)]),
                    6 => change(b'D', USERS, &[tuple(b'K', fields)]),
                    _ => truncate(&[USERS]),
                };
                let _ = users.take(decode(&bytes).expect("a message"));
            }
        }
    }
}
