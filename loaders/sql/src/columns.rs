//! Which selected column is what (key, version, value), and how a row becomes the value of a key.
//!
//! The same for every kind of database: a row is seen through [`Fields`].

use crate::json;
use crate::msgpack;
use crate::settings::{BigNumbers, LoaderSettings, ValueFormat};
use crate::tags::TagTemplate;
use crate::template::Template;
use bytes::Bytes;
use leasehold_loader_api::{LoadError, Row};

/// The values of one row, by position.
pub(crate) trait Fields {
    /// Size of the value as the database sent it, in bytes.
    fn raw_bytes(&self, column: usize) -> usize;

    fn is_null(&self, column: usize) -> bool;

    /// Writes the value as JSON. Not called for NULL.
    fn json(&self, column: usize, big_numbers: BigNumbers, out: &mut Vec<u8>) -> Result<(), String>;

    /// The bytes of a value whose type is bytes.
    fn binary(&self, column: usize) -> Option<&[u8]>;

    /// Writes the value as its bytes: text as it is, numbers as digits. Not called for NULL.
    fn plain(&self, column: usize, out: &mut Vec<u8>) -> Result<(), String>;

    /// Writes the value as a placeholder holds it, to be compared byte for byte. Not called for NULL.
    fn key(&self, column: usize, out: &mut Vec<u8>) -> Result<(), String>;

    /// The value as a version. Not called for NULL.
    fn version(&self, column: usize) -> Result<u64, String>;
}

/// What is wrong with an option, before the loader's name is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Problem {
    pub(crate) option: &'static str,
    pub(crate) reason: String,
}

/// The places of the columns that mean something, and the names of all.
#[derive(Clone, Debug)]
pub(crate) struct Columns {
    names: Vec<String>,
    /// `{"id":` for the first column, `,"name":` for the others.
    json_names: Vec<Vec<u8>>,
    /// About what an object has beside the values: the names, quotes, the closing brace.
    frame_bytes: usize,
    /// Which columns are text that goes in as JSON.
    inline: Vec<bool>,
    /// One per placeholder.
    keys: Vec<usize>,
    version: Option<usize>,
    tags: Vec<TagTemplate>,
    value: Value,
}

#[derive(Clone, Copy, Debug)]
enum Value {
    Json,
    MsgPack,
    Column(usize),
}

impl Columns {
    /// Finds the columns that the loader needs among those that a query selects. `option` is where the query stands.
    pub(crate) fn resolve(
        names: Vec<String>,
        option: &'static str,
        settings: &LoaderSettings,
        template: &Template,
    ) -> Result<Self, Problem> {
        let problem = |option, reason| Problem { option, reason };
        if names.is_empty() {
            return Err(problem(
                option,
                "selects no columns; it must be a SELECT, or return rows in another way".into(),
            ));
        }
        for (index, name) in names.iter().enumerate() {
            if names[..index].contains(name) {
                return Err(problem(option, format!("selects two columns named `{name}`; give one an alias with AS")));
            }
        }
        let place = |name: &str| names.iter().position(|column| column == name);
        let selected = names.join(", ");

        let mut keys = Vec::new();
        for (index, placeholder) in template.placeholders().iter().enumerate() {
            let name = match &settings.batch_key {
                Some(columns) => columns.get(index).unwrap_or(&placeholder.name),
                None => &placeholder.name,
            };
            let Some(key) = place(name) else {
                let reason = format!(
                    "does not select the key column `{name}` (it selects {selected}); the row must name its key: select the \
                     column, or say with batch_key which column holds {{{}}}",
                    placeholder.name
                );
                return Err(problem(option, reason));
            };
            if keys.contains(&key) {
                return Err(problem("batch_key", format!("names the column `{name}` twice")));
            }
            keys.push(key);
        }

        let version = match &settings.version_column {
            None => None,
            Some(name) => Some(place(name).ok_or_else(|| {
                problem("version_column", format!("`{name}` is not among the columns of {option} ({selected})"))
            })?),
        };

        let tags = settings.tags.iter().map(|tag| TagTemplate::resolve(tag, option, &names));
        let tags = tags.collect::<Result<Vec<_>, _>>()?;
        let is_for_tags = |column: usize| tags.iter().flat_map(TagTemplate::columns).any(|used| used == column);

        let value = match settings.value {
            ValueFormat::Json => Value::Json,
            ValueFormat::MsgPack => Value::MsgPack,
            ValueFormat::Column => {
                let mut others: Vec<usize> =
                    (0..names.len()).filter(|column| !keys.contains(column) && Some(*column) != version).collect();
                if others.len() > 1 {
                    others.retain(|&column| !is_for_tags(column));
                }
                match others.as_slice() {
                    [column] => Value::Column(*column),
                    _ => {
                        let reason = format!(
                            "`column` needs exactly one column besides those for key, version and tags, but {option} selects {} \
                             of them ({selected})",
                            others.len()
                        );
                        return Err(problem("value", reason));
                    }
                }
            }
        };

        for name in &settings.json_columns {
            if settings.value == ValueFormat::Column {
                return Err(problem(
                    "json_columns",
                    "is for values of all columns; write value = \"json\" or \"msgpack\"".into(),
                ));
            }
            if place(name).is_none() {
                return Err(problem(
                    "json_columns",
                    format!("`{name}` is not among the columns of {option} ({selected})"),
                ));
            }
        }
        let inline = names.iter().map(|name| settings.json_columns.contains(name)).collect();

        let json_names: Vec<Vec<u8>> = names.iter().enumerate().map(|(index, name)| json_name(index, name)).collect();
        let frame_bytes = match value {
            Value::Json | Value::MsgPack => json_names.iter().map(|name| name.len() + 2).sum::<usize>() + 1,
            Value::Column(_) => 0,
        };
        Ok(Self { names, json_names, frame_bytes, inline, keys, version, tags, value })
    }

    /// The columns of a query that lists keys: one for each placeholder, in order, whatever their names.
    pub(crate) fn of_list(names: Vec<String>, template: &Template) -> Result<Self, Problem> {
        let wanted = template.placeholders().len();
        if names.len() != wanted {
            let reason = format!(
                "must select one column for each of the pattern's {wanted} placeholders, in order; it selects {} ({})",
                names.len(),
                names.join(", ")
            );
            return Err(Problem { option: "the query", reason });
        }
        let keys = (0..wanted).collect();
        Ok(Self {
            names,
            json_names: Vec::new(),
            frame_bytes: 0,
            keys,
            version: None,
            tags: Vec::new(),
            value: Value::Json,
            inline: Vec::new(),
        })
    }

    pub(crate) fn names(&self) -> &[String] {
        &self.names
    }

    /// The columns that hold the key's values, one per placeholder.
    pub(crate) fn keys(&self) -> &[usize] {
        &self.keys
    }

    pub(crate) fn version(&self) -> Option<usize> {
        self.version
    }

    /// The texts of the key columns, one after the other in `text`, and where each ends. `None` if one is NULL or cannot be text.
    pub(crate) fn key_texts(&self, row: &impl Fields, text: &mut Vec<u8>, ends: &mut Vec<usize>) -> Option<()> {
        text.clear();
        ends.clear();
        for column in &self.keys {
            if row.is_null(*column) {
                return None;
            }
            row.key(*column, text).ok()?;
            ends.push(text.len());
        }
        Some(())
    }

    /// The value of a row.
    pub(crate) fn row(&self, row: &impl Fields, settings: &LoaderSettings) -> Result<Row, LoadError> {
        let bytes_max = settings.row_bytes_max;
        let raw_bytes = (0..self.names.len()).map(|column| row.raw_bytes(column)).sum::<usize>();
        if raw_bytes > bytes_max {
            return Err(LoadError::TooLarge { bytes: raw_bytes, bytes_max });
        }
        let rejected =
            |column: usize, reason: String| LoadError::Rejected(format!("column {}: {reason}", self.names[column]));
        let version = match self.version {
            Some(column) if !row.is_null(column) => {
                Some(row.version(column).map_err(|reason| rejected(column, reason))?)
            }
            _ => None,
        };
        let mut tags = Vec::with_capacity(self.tags.len());
        for tag in &self.tags {
            tags.extend(tag.of(row).map_err(|(column, reason)| rejected(column, reason))?);
        }
        let mut value = Vec::with_capacity(raw_bytes + self.frame_bytes);
        match self.value {
            Value::Column(column) => {
                if row.is_null(column) {
                    return Ok(Row::Absent);
                }
                row.plain(column, &mut value).map_err(|reason| rejected(column, reason))?;
            }
            Value::Json => {
                for (column, name) in self.json_names.iter().enumerate() {
                    value.extend_from_slice(name);
                    if row.is_null(column) {
                        value.extend_from_slice(b"null");
                    } else {
                        self.json(row, column, settings.big_numbers, &mut value)
                            .map_err(|reason| rejected(column, reason))?;
                    }
                }
                value.push(b'}');
            }
            Value::MsgPack => {
                let mut text = Vec::new();
                msgpack::map_of(self.names.len(), &mut value);
                for (column, name) in self.names.iter().enumerate() {
                    msgpack::string(name, &mut value);
                    if row.is_null(column) {
                        msgpack::nil(&mut value);
                    } else if let Some(bytes) = row.binary(column).filter(|_| !self.inline[column]) {
                        msgpack::bytes(bytes, &mut value);
                    } else {
                        text.clear();
                        self.json(row, column, BigNumbers::Number, &mut text)
                            .and_then(|()| msgpack::json(&text, &mut value))
                            .map_err(|reason| rejected(column, reason))?;
                    }
                }
            }
        }
        if value.len() > bytes_max {
            return Err(LoadError::TooLarge { bytes: value.len(), bytes_max });
        }
        value.shrink_to_fit();
        Ok(Row::Value { value: Bytes::from(value), version, tags })
    }

    /// Writes a value that is not NULL as JSON.
    fn json(&self, row: &impl Fields, column: usize, big: BigNumbers, out: &mut Vec<u8>) -> Result<(), String> {
        if !self.inline[column] {
            return row.json(column, big, out);
        }
        let start = out.len();
        row.plain(column, out)?;
        json::check(&out[start..])
    }
}

fn json_name(index: usize, name: &str) -> Vec<u8> {
    let mut out = vec![if index == 0 { b'{' } else { b',' }];
    json::string(name.as_bytes(), &mut out).expect("a column name is UTF-8");
    out.push(b':');
    out
}

/// Whether `batch_sql` selects what `sql` selects, so that a value does not depend on which of them ran.
pub(crate) fn same_columns(sql: &[String], batch_sql: &[String]) -> Result<(), Problem> {
    if sql == batch_sql {
        return Ok(());
    }
    let reason = format!(
        "must select the same columns as sql, in the same order: it selects {}, sql selects {}",
        batch_sql.join(", "),
        sql.join(", ")
    );
    Err(Problem { option: "batch_sql", reason })
}
