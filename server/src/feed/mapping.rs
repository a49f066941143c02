//! From changes to keys: the keys of each loader for what a row's key columns held before and after. No clock, no database, no
//! keyspace.

use leasehold_keyspace::Db;
use leasehold_loader_api::feed::{Change, Event, KeyValues};
use leasehold_loader_sql::{FeedColumn, Template};
use std::collections::HashSet;

/// The loaders of one feed, with where in an event the values of their placeholders stand.
pub(crate) struct Mapping {
    targets: Vec<Target>,
}

struct Target {
    db: Db,
    template: Template,
    /// For each placeholder, its place among the feed's key columns.
    places: Vec<usize>,
}

/// What a batch of events comes to, each key once.
#[derive(Debug, Default)]
pub(crate) struct Mapped {
    pub(crate) keys: HashSet<(Db, Vec<u8>)>,
    /// Keys that were named more than once.
    pub(crate) duplicates: u64,
    /// Rows that no key stands for: a key column was NULL, or its text is none that a key can hold.
    pub(crate) unmapped: u64,
    /// Whether all that the feed covers may have changed.
    pub(crate) is_all: bool,
}

impl Mapping {
    /// # Errors
    /// A placeholder is none of the columns; the text says which.
    pub(crate) fn new<'l>(
        columns: &[FeedColumn],
        loaders: impl IntoIterator<Item = (&'l str, Db, Template)>,
    ) -> Result<Self, String> {
        let mut targets = Vec::new();
        for (loader, db, template) in loaders {
            let mut places = Vec::new();
            for placeholder in template.placeholders() {
                let place = columns.iter().position(|column| column.placeholder == placeholder.name);
                places.push(place.ok_or_else(|| {
                    let names: Vec<&str> = columns.iter().map(|column| column.placeholder.as_str()).collect();
                    let (name, names) = (&placeholder.name, names.join(", "));
                    format!(
                        "has no column for {{{name}}} of loaders.{loader}; it has {names}. Write \"COLUMN={name}\" for a column of \
                         another name"
                    )
                })?);
            }
            targets.push(Target { db, template, places });
        }
        Ok(Self { targets })
    }

    /// Of a feed that tells of no rows.
    pub(crate) fn whole() -> Self {
        Self { targets: Vec::new() }
    }

    /// The keys of a batch.
    pub(crate) fn map(&self, events: &[Event]) -> Mapped {
        let mut mapped = Mapped::default();
        for event in events {
            match &event.change {
                Change::All => mapped.is_all = true,
                Change::Row { old, new } => {
                    let new = new.as_ref().filter(|new| Some(*new) != old.as_ref());
                    for values in old.iter().chain(new) {
                        self.map_row(values, &mut mapped);
                    }
                }
            }
        }
        mapped
    }

    fn map_row(&self, values: &KeyValues, mapped: &mut Mapped) {
        for target in &self.targets {
            match target.key(values) {
                Some(key) => mapped.duplicates += u64::from(!mapped.keys.insert((target.db, key))),
                None => mapped.unmapped += 1,
            }
        }
    }
}

impl Target {
    /// The key of a row. `None`: a loader compares the row with its key byte for byte, so a row whose text is not canonical for the
    /// placeholder is under no key, and under no negative one either.
    fn key(&self, values: &KeyValues) -> Option<Vec<u8>> {
        let texts: Option<Vec<&[u8]>> =
            self.places.iter().map(|&place| values.get(place)?.as_deref().map(str::as_bytes)).collect();
        let mut key = Vec::new();
        let is_whole = self.template.render(texts?, &mut key);
        (is_whole && self.template.matches(&key)).then_some(key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mapping(columns: &[&str], patterns: &[&str]) -> Result<Mapping, String> {
        let columns: Vec<FeedColumn> = columns.iter().map(|text| FeedColumn::parse(text).expect("a column")).collect();
        let template = |pattern: &str| Template::parse(pattern).expect("a pattern");
        Mapping::new(&columns, patterns.iter().map(|pattern| ("loader", Db(0), template(pattern))))
    }

    fn values(texts: &[&str]) -> Option<KeyValues> {
        Some(texts.iter().map(|text| Some((*text).to_owned())).collect())
    }

    fn row(old: Option<KeyValues>, new: Option<KeyValues>) -> Event {
        Event { change: Change::Row { old, new }, age: None }
    }

    fn keys(mapped: &Mapped) -> Vec<String> {
        let mut keys: Vec<String> =
            mapped.keys.iter().map(|(_, key)| String::from_utf8_lossy(key).into_owned()).collect();
        keys.sort_unstable();
        keys
    }

    #[test]
    fn insert_update_and_delete_name_the_keys_before_and_after() {
        let users = mapping(&["id"], &["user:{id:int}", "email:{id:int}"]).expect("it has the column");
        let one = |old, new| keys(&users.map(&[row(old, new)]));
        assert_eq!(one(None, values(&["1"])), ["email:1", "user:1"]);
        assert_eq!(one(values(&["1"]), None), ["email:1", "user:1"]);
        assert_eq!(one(values(&["1"]), values(&["2"])), ["email:1", "email:2", "user:1", "user:2"]);
        assert_eq!(one(values(&["1"]), values(&["1"])), ["email:1", "user:1"]);
    }

    #[test]
    fn what_is_named_twice_is_one_key() {
        let users = mapping(&["id"], &["user:{id:int}"]).expect("it has the column");
        let mapped =
            users.map(&[row(None, values(&["1"])), row(values(&["1"]), values(&["1"])), row(values(&["1"]), None)]);
        assert_eq!((keys(&mapped), mapped.duplicates), (vec!["user:1".to_owned()], 2));
    }

    #[test]
    fn columns_may_come_in_any_order_and_have_other_names() {
        let orders = mapping(&["number=id", "org"], &["order:{org}:{id:int}"]).expect("it has the columns");
        assert_eq!(keys(&orders.map(&[row(None, values(&["7", "acme"]))])), ["order:acme:7"]);
        let error = mapping(&["number"], &["order:{id:int}"]).err().expect("no column");
        assert!(error.contains("no column for {id} of loaders.loader; it has number."), "{error}");
    }

    #[test]
    fn a_row_that_no_key_can_name_is_counted_and_nothing_else() {
        let users = mapping(&["id", "org"], &["user:{org}:{id:int}"]).expect("it has the columns");
        let null = Some(vec![Some("1".to_owned()), None]);
        let events = [
            row(None, values(&["042", "a"])),
            row(null, None),
            row(None, values(&["1"])),
            row(None, values(&["1", ""])),
        ];
        let mapped = users.map(&events);
        assert_eq!((keys(&mapped), mapped.unmapped, mapped.is_all), (vec![], 4, false));
        // Where a text may hold what divides the parts, another key would be the one that is read back.
        let pairs = mapping(&["a", "b"], &["p:{a}:{b}"]).expect("it has the columns");
        assert_eq!(keys(&pairs.map(&[row(None, values(&["x", "y:z"]))])), ["p:x:y:z"]);
    }

    #[test]
    fn a_truncate_is_all() {
        let users = mapping(&["id"], &["user:{id:int}"]).expect("it has the column");
        assert!(users.map(&[Event { change: Change::All, age: None }]).is_all);
    }
}
