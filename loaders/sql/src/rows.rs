//! Makes one value of all rows of a key: a list of what each row alone would be, in the order of the query.

use crate::msgpack;
use crate::settings::{LoaderSettings, ValueFormat};
use bytes::Bytes;
use leasehold_loader_api::{LoadError, Loaded, Row, TAGS_MAX};

/// The rows of one key so far.
#[derive(Clone, Debug, Default)]
pub(crate) struct RowList {
    /// The rows, one after the other as they will stand in the value.
    body: Vec<u8>,
    rows: usize,
    /// Those of all rows, each once.
    tags: Vec<Bytes>,
    /// Why there will be no value.
    failure: Option<LoadError>,
}

impl RowList {
    /// Takes the next row. The first that cannot be taken fails the key.
    pub(crate) fn push(&mut self, row: Loaded, settings: &LoaderSettings) {
        if self.failure.is_some() {
            return;
        }
        match row {
            Ok(Row::Value { value, tags, .. }) => {
                self.rows += 1;
                let bytes = self.body.len() + value.len() + 2;
                if self.rows > settings.rows_max {
                    let reason = format!("the key has more rows than rows_max = {}", settings.rows_max);
                    self.fail(LoadError::Rejected(reason));
                } else if bytes > settings.row_bytes_max {
                    self.fail(LoadError::TooLarge { bytes, bytes_max: settings.row_bytes_max });
                } else {
                    if settings.value == ValueFormat::Json {
                        self.body.push(if self.rows == 1 { b'[' } else { b',' });
                    }
                    self.body.extend_from_slice(&value);
                    for tag in tags {
                        if !self.tags.contains(&tag) {
                            self.tags.push(tag);
                        }
                    }
                    if self.tags.len() > TAGS_MAX {
                        self.fail(LoadError::Rejected(format!("the rows of the key have more than {TAGS_MAX} tags")));
                    }
                }
            }
            Ok(Row::Absent | Row::Behind(_)) => {}
            Err(error) => self.fail(error),
        }
    }

    /// The value; no rows are absence.
    pub(crate) fn finish(self, format: ValueFormat) -> Loaded {
        if let Some(failure) = self.failure {
            return Err(failure);
        }
        if self.rows == 0 {
            return Ok(Row::Absent);
        }
        let mut value = self.body;
        if format == ValueFormat::MsgPack {
            let mut list = Vec::with_capacity(value.len() + 5);
            msgpack::list_of(self.rows, &mut list);
            list.append(&mut value);
            value = list;
        } else {
            value.push(b']');
        }
        value.shrink_to_fit();
        Ok(Row::Value { value: Bytes::from(value), version: None, tags: self.tags })
    }

    fn fail(&mut self, error: LoadError) {
        self.body = Vec::new();
        self.failure = Some(error);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(settings: &LoaderSettings, rows: &[&'static str]) -> Loaded {
        let mut list = RowList::default();
        for row in rows {
            list.push(
                Ok(Row::Value { value: Bytes::from_static(row.as_bytes()), version: None, tags: Vec::new() }),
                settings,
            );
        }
        list.finish(settings.value)
    }

    fn value(bytes: &'static [u8]) -> Loaded {
        Ok(Row::Value { value: Bytes::from_static(bytes), version: None, tags: Vec::new() })
    }

    #[test]
    fn a_list_has_the_tags_of_its_rows() {
        let settings = LoaderSettings::new("test", "t:{id}", "SELECT 1");
        let row = |tag: usize| {
            let tags = vec![Bytes::from_static(b"all"), Bytes::from(tag.to_string())];
            Ok(Row::Value { value: Bytes::from_static(b"{}"), version: None, tags })
        };
        let mut list = RowList::default();
        (0..TAGS_MAX - 1).chain(0..3).for_each(|tag| list.push(row(tag), &settings));
        let Ok(Row::Value { tags, .. }) = list.clone().finish(ValueFormat::Json) else { panic!("it has rows") };
        assert_eq!((tags.len(), &tags[..2]), (TAGS_MAX, &[Bytes::from_static(b"all"), Bytes::from_static(b"0")][..]));
        // One that was left out could not be invalidated by it.
        list.push(row(TAGS_MAX), &settings);
        assert!(matches!(list.finish(ValueFormat::Json), Err(LoadError::Rejected(_))));
    }

    #[test]
    fn lists_have_bounds() {
        let settings =
            LoaderSettings { rows_max: 2, row_bytes_max: 8, ..LoaderSettings::new("test", "t:{id}", "SELECT 1") };
        assert_eq!(list(&settings, &[]), Ok(Row::Absent));
        assert_eq!(list(&settings, &["{}"]), value(b"[{}]"));
        assert_eq!(list(&settings, &["{}", "{}"]), value(b"[{},{}]"));
        assert!(
            matches!(list(&settings, &["1", "2", "3"]), Err(LoadError::Rejected(reason)) if reason.contains("rows_max = 2"))
        );
        assert_eq!(list(&settings, &["1234567"]), Err(LoadError::TooLarge { bytes: 9, bytes_max: 8 }));
        let packed = LoaderSettings { value: ValueFormat::MsgPack, ..settings };
        assert_eq!(list(&packed, &["a", "b"]), value(b"\x92ab"));
    }
}
