//! What the feed asks the database beside its log: whether the log will do, where it ends, which of it can be read yet, and the table's columns.

use super::super::{FeedSettings, Trouble};
use super::connect;
use super::log::{KeyColumn, Layout, LogPosition};
use super::text::Kind;
use crate::source::Source;
use mysql_async::prelude::Queryable;
use mysql_async::{Conn, Row, Value};
use std::collections::{BTreeMap, HashMap, HashSet};

/// Levels of foreign keys that are followed to the tables whose changes cascade.
const CASCADES_MAX: usize = 16;

/// The kind of server: the two tell in different ways which transactions can be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Flavor {
    MariaDb,
    MySql(Statements),
}

/// What the versions of MySQL have different words for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Statements {
    /// Shows the end of the log.
    log: &'static str,
    /// Shows a row for each primary that the server follows.
    replica: &'static str,
}

const SINCE_8_2: Statements = Statements { log: "SHOW BINARY LOG STATUS", replica: "SHOW REPLICA STATUS" };
const BEFORE_8_2: Statements = Statements { log: "SHOW MASTER STATUS", replica: "SHOW SLAVE STATUS" };

/// A connection for questions.
pub(super) struct Database {
    source: Source,
    connection: Conn,
    pub(super) flavor: Flavor,
    /// What to run for a user that may not read the log.
    grant: &'static str,
    pub(super) schema: String,
    pub(super) table: String,
}

/// How far the log goes, and how far readers see what is in it.
#[derive(Debug)]
pub(super) struct Mark {
    /// All transactions that anybody could read when this was asked for end here or earlier.
    pub(super) end: LogPosition,
    pub(super) visible: Visible,
}

/// Which transactions of the log every reader sees.
///
/// Both servers write a transaction to the log, and send it to those who follow the log, before its changes can be read: while the log is synced,
/// or a semi-synchronous replica is waited for. Who loaded a row then would store what was before.
#[derive(Debug)]
pub(super) enum Visible {
    /// MariaDB: those that end here or earlier, if they are in the same file. At a change of files this is ahead of the truth.
    To(LogPosition),
    /// MySQL: these, by their numbers.
    Gtids(GtidSet),
}

/// Ranges of numbers, both ends inclusive, by the server's UUID, and tag if there is one.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct GtidSet(BTreeMap<String, Vec<(u64, u64)>>);

impl GtidSet {
    /// As MySQL writes it: `uuid:1-5:7,uuid:1:tag:1-3`, with line breaks.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let mut ranges: BTreeMap<String, Vec<(u64, u64)>> = BTreeMap::new();
        for part in text.split(',').map(str::trim).filter(|part| !part.is_empty()) {
            let mut words = part.split(':').map(str::trim);
            let uuid = words.next()?.to_ascii_lowercase();
            let mut name = uuid.clone();
            for word in words {
                if word.starts_with(|char: char| !char.is_ascii_digit()) {
                    name = format!("{uuid}:{}", word.to_ascii_lowercase());
                    continue;
                }
                let (first, last) = word.split_once('-').unwrap_or((word, word));
                ranges.entry(name.clone()).or_default().push((first.parse().ok()?, last.parse().ok()?));
            }
        }
        Some(Self(ranges))
    }

    /// `uuid:1-5:7` or `uuid:tag:1-5:7` for each server and tag: the driver takes no tag behind ranges.
    pub(super) fn parts(&self) -> impl Iterator<Item = String> {
        self.0.iter().map(|(name, ranges)| {
            let ranges: String = ranges.iter().map(|(first, last)| format!(":{first}-{last}")).collect();
            format!("{name}{ranges}")
        })
    }

    pub(super) fn contains(&self, name: &str, number: u64) -> bool {
        let ranges = self.0.get(name).map(Vec::as_slice).unwrap_or_default();
        ranges.iter().any(|(first, last)| (*first..=*last).contains(&number))
    }
}

impl Database {
    /// Connects, and checks that the log can be followed.
    pub(super) async fn open(source: &Source, settings: &FeedSettings) -> Result<Self, Trouble> {
        let mut connection = connect::connect(source).await?;
        let failed = |error: mysql_async::Error| Trouble::Failed(source.state.hidden(&error.to_string()));
        let facts: Option<(String, Option<String>)> =
            connection.query_first("SELECT VERSION(), DATABASE()").await.map_err(failed)?;
        let (version, current) = facts.ok_or_else(|| Trouble::Failed("the server does not say its version".into()))?;
        let flavor = flavor_of(&version);
        let grant = match flavor {
            Flavor::MariaDb => {
                "run GRANT REPLICATION SLAVE, BINLOG MONITOR ON *.* TO it (before MariaDB 10.5: REPLICATION CLIENT)"
            }
            Flavor::MySql(_) => "run GRANT REPLICATION SLAVE, REPLICATION CLIENT ON *.* TO it",
        };
        let (schema, table) = match settings.table.split_once('.') {
            Some((schema, table)) => (schema.to_owned(), table.to_owned()),
            None => {
                let none =
                    || Trouble::Wrong("table", "the URL of the source names no database; write SCHEMA.TABLE".into());
                (current.ok_or_else(none)?, settings.table.clone())
            }
        };
        let mut database = Self { source: source.clone(), connection, flavor, grant, schema, table };
        database.check_variables(settings).await?;
        Ok(database)
    }

    pub(super) fn trouble(&self, error: &mysql_async::Error) -> Trouble {
        connect::trouble(&self.source, error, self.grant)
    }

    async fn rows(&mut self, sql: &str) -> Result<Vec<Vec<Option<String>>>, Trouble> {
        let rows: Result<Vec<Row>, _> = self.connection.query(sql).await;
        match rows {
            Ok(rows) => Ok(rows.into_iter().map(texts).collect()),
            Err(error) => Err(self.trouble(&error)),
        }
    }

    /// Whether the log has what it needs to have; settings of a server may change while it runs.
    pub(super) async fn check_variables(&mut self, settings: &FeedSettings) -> Result<(), Trouble> {
        const SQL: &str = "SHOW GLOBAL VARIABLES WHERE Variable_name IN ('log_bin', 'binlog_format', 'log_bin_compress', 'server_id', \
                           'gtid_mode', 'log_slave_updates', 'log_replica_updates')";
        let wrong = |reason: String| Err(Trouble::Wrong("source", reason));
        let variables: HashMap<String, String> = pairs(self.rows(SQL).await?);
        let is = |name: &str, value: &str| variables.get(name).is_some_and(|found| found.eq_ignore_ascii_case(value));
        if !is("log_bin", "ON") {
            return wrong("has no binary log; start the server with log_bin and binlog_format = ROW".into());
        }
        if let Some(format) = variables.get("binlog_format").filter(|format| !format.eq_ignore_ascii_case("ROW")) {
            return wrong(format!(
                "has binlog_format = {format}, and only ROW tells which rows change; set binlog_format = ROW"
            ));
        }
        if is("log_bin_compress", "ON") {
            return wrong("has log_bin_compress = ON, which is not read here; set it to OFF".into());
        }
        if matches!(self.flavor, Flavor::MySql(_)) && !is("gtid_mode", "ON") {
            return wrong(
                "has no gtid_mode = ON; the log of MySQL has a transaction before it can be read, and only GTIDs tell since when it can"
                    .into(),
            );
        }
        if settings.server_id.is_some_and(|id| is("server_id", &id.to_string())) {
            return Err(Trouble::Wrong(
                "server_id",
                "is the server's own; each follower of the log needs another one".into(),
            ));
        }
        let updates = match self.flavor {
            Flavor::MySql(_) if variables.contains_key("log_replica_updates") => "log_replica_updates",
            _ => "log_slave_updates",
        };
        if is(updates, "OFF") && self.repeats_changes().await? {
            return wrong(format!(
                "is a replica whose log has only its own changes; follow the primary, or start the server with {updates}"
            ));
        }
        let (_, filters) = self.shown_end().await?;
        let [only, ignored] = filters.map(|names| names.split(',').map(str::to_owned).collect::<Vec<_>>());
        let lists = |names: &[String]| names.iter().any(|name| name.trim() == self.schema);
        if lists(&ignored) || (!only.concat().is_empty() && !lists(&only)) {
            return wrong(format!("has a binlog filter that leaves out the database {}", self.schema));
        }
        Ok(())
    }

    /// Whether the server repeats what others do. One that is to, and does not at present, has a log like any other.
    async fn repeats_changes(&mut self) -> Result<bool, Trouble> {
        match self.flavor {
            // Counts all that it follows, and may be asked by everybody, unlike SHOW ALL SLAVES STATUS.
            Flavor::MariaDb => {
                let running = pairs(self.rows("SHOW GLOBAL STATUS LIKE 'Slaves_running'").await?);
                Ok(running.into_values().any(|count| count != "0"))
            }
            // It has no such count.
            Flavor::MySql(statements) => {
                /// Replica_SQL_Running, Slave_SQL_Running.
                const SQL_RUNNING: usize = 11;
                let followed = self.rows(statements.replica).await?;
                Ok(followed
                    .iter()
                    .any(|row| row.get(SQL_RUNNING).is_some_and(|running| running.as_deref() != Some("No"))))
            }
        }
    }

    /// The end of the log, which databases are in it and which are not, and the transactions that are done, on MySQL.
    async fn shown(&mut self) -> Result<(LogPosition, [String; 2], String), Trouble> {
        let sql = match self.flavor {
            Flavor::MariaDb => "SHOW MASTER STATUS",
            Flavor::MySql(statements) => statements.log,
        };
        let row = self.rows(sql).await?.into_iter().next().unwrap_or_default();
        let mut fields = row.into_iter().map(Option::unwrap_or_default);
        let mut field = || fields.next().unwrap_or_default();
        let (file, offset) = (field(), field());
        let filters = [field(), field()];
        let done = field();
        let offset =
            offset.parse().map_err(|_| Trouble::Failed("the server does not say where its log ends".into()))?;
        Ok((LogPosition { file, offset }, filters, done))
    }

    async fn shown_end(&mut self) -> Result<(LogPosition, [String; 2]), Trouble> {
        self.shown().await.map(|(end, filters, _)| (end, filters))
    }

    /// How far the log goes now. One question, so the two halves of the answer are of one moment, or the second of a later one.
    pub(super) async fn mark(&mut self) -> Result<Mark, Trouble> {
        match self.flavor {
            // Under the lock under which commits become visible one after another.
            Flavor::MariaDb => {
                const SQL: &str =
                    "SHOW STATUS WHERE Variable_name IN ('Binlog_snapshot_file', 'Binlog_snapshot_position')";
                let mut found = pairs(self.rows(SQL).await?);
                let file = found.remove("Binlog_snapshot_file").unwrap_or_default();
                let offset = found.remove("Binlog_snapshot_position").and_then(|text| text.parse().ok());
                let offset =
                    offset.ok_or_else(|| Trouble::Failed("the server does not say where its log ends".into()))?;
                let end = LogPosition { file, offset };
                Ok(Mark { visible: Visible::To(end.clone()), end })
            }
            Flavor::MySql(_) => {
                let (end, done) = self.shown_gtids().await?;
                Ok(Mark { end, visible: Visible::Gtids(done) })
            }
        }
    }

    /// The GTIDs that are done, on MySQL.
    pub(super) async fn gtids(&mut self) -> Result<GtidSet, Trouble> {
        self.shown_gtids().await.map(|(_, done)| done)
    }

    async fn shown_gtids(&mut self) -> Result<(LogPosition, GtidSet), Trouble> {
        let (end, _, done) = self.shown().await?;
        let done = GtidSet::parse(&done).ok_or_else(|| Trouble::Failed(format!("GTIDs as {done:?}")))?;
        Ok((end, done))
    }

    /// Whether the file of this position has a transaction before it; then those of earlier files can all be read.
    pub(super) async fn has_transaction_before(&mut self, position: &LogPosition) -> bool {
        /// Events at the beginning of a file, before the first transaction.
        const HEAD: usize = 32;
        let file = position.file.replace(['\\', '\''], "");
        // Who may not ask takes it for one that has none.
        let rows = self.rows(&format!("SHOW BINLOG EVENTS IN '{file}' LIMIT {HEAD}")).await.unwrap_or_default();
        rows.iter().any(|row| {
            let end = row.get(4).and_then(Option::as_deref).and_then(|end| end.parse().ok()).unwrap_or(u64::MAX);
            row.get(2).and_then(Option::as_deref) == Some("Gtid") && end <= position.offset
        })
    }

    /// The columns of the table as they are now. What is in the log before `valid_after` may have other ones.
    pub(super) async fn layout(&mut self, settings: &FeedSettings) -> Result<Layout, Trouble> {
        let columns = self.columns().await?;
        if columns.is_empty() {
            let reason = format!("there is no table {}.{} that this user may read", self.schema, self.table);
            return Err(Trouble::Wrong("table", reason));
        }
        let mut key = Vec::new();
        let mut is_in_primary_key = true;
        for name in settings.columns() {
            let place = columns.iter().position(|column| column.name.eq_ignore_ascii_case(name)).ok_or_else(|| {
                Trouble::Wrong("key", format!("the table {}.{} has no column {name}", self.schema, self.table))
            })?;
            let column = &columns[place];
            is_in_primary_key &= column.is_primary;
            let kind = Kind::new(&column.data_type, &column.column_type, column.charset.as_deref());
            let kind = kind.map_err(|reason| Trouble::Wrong("key", format!("the column {name} {reason}")))?;
            key.push(KeyColumn { place, name: column.name.clone(), kind });
        }
        let image = pairs(self.rows("SHOW GLOBAL VARIABLES LIKE 'binlog_row_image'").await?).remove("binlog_row_image");
        if !is_in_primary_key && image.is_some_and(|image| image.eq_ignore_ascii_case("MINIMAL")) {
            let reason = "has binlog_row_image = MINIMAL, which leaves out key columns that are not in the primary key; set it to FULL or NOBLOB";
            return Err(Trouble::Wrong("source", reason.into()));
        }
        let parents = self.parents().await?;
        // After the columns: what was written to the table with other columns can all be read by now, so it is before this.
        let valid_after = self.mark().await?.end;
        Ok(Layout::new(columns.len(), key, parents, valid_after))
    }

    async fn columns(&mut self) -> Result<Vec<Column>, Trouble> {
        const SQL: &str = "SELECT COLUMN_NAME, DATA_TYPE, COLUMN_TYPE, CHARACTER_SET_NAME, COLUMN_KEY FROM information_schema.COLUMNS \
                           WHERE TABLE_SCHEMA = ? AND TABLE_NAME = ? ORDER BY ORDINAL_POSITION";
        let rows = self.ask(SQL, &self.schema.clone(), &self.table.clone()).await?;
        let column = |row: Vec<Option<String>>| {
            let [name, data_type, column_type, charset, key] = row.try_into().unwrap_or_default();
            Column {
                name: name.unwrap_or_default(),
                data_type: data_type.unwrap_or_default().to_ascii_lowercase(),
                column_type: column_type.unwrap_or_default(),
                charset,
                is_primary: key.as_deref() == Some("PRI"),
            }
        };
        Ok(rows.into_iter().map(column).collect())
    }

    /// The tables whose updates and deletes go on to ours by foreign keys. The log has nothing of what they do there.
    async fn parents(&mut self) -> Result<HashSet<(String, String)>, Trouble> {
        const SQL: &str = "SELECT DISTINCT UNIQUE_CONSTRAINT_SCHEMA, REFERENCED_TABLE_NAME FROM information_schema.REFERENTIAL_CONSTRAINTS \
                           WHERE CONSTRAINT_SCHEMA = ? AND TABLE_NAME = ? AND (UPDATE_RULE IN ('CASCADE', 'SET NULL', 'SET DEFAULT') \
                           OR DELETE_RULE IN ('CASCADE', 'SET NULL', 'SET DEFAULT'))";
        let mut found = HashSet::new();
        let mut ask = vec![(self.schema.clone(), self.table.clone())];
        for _ in 0..CASCADES_MAX {
            let mut next = Vec::new();
            for (schema, table) in ask.drain(..) {
                for row in self.ask(SQL, &schema, &table).await? {
                    let [schema, table] = row.try_into().unwrap_or_default();
                    let parent = (schema.unwrap_or_default(), table.unwrap_or_default());
                    if found.insert(parent.clone()) {
                        next.push(parent);
                    }
                }
            }
            ask = next;
        }
        Ok(found)
    }

    async fn ask(&mut self, sql: &str, schema: &str, table: &str) -> Result<Vec<Vec<Option<String>>>, Trouble> {
        let rows: Result<Vec<Row>, _> = self.connection.exec(sql, (schema, table)).await;
        match rows {
            Ok(rows) => Ok(rows.into_iter().map(texts).collect()),
            Err(error) => Err(self.trouble(&error)),
        }
    }
}

struct Column {
    name: String,
    data_type: String,
    column_type: String,
    charset: Option<String>,
    is_primary: bool,
}

fn flavor_of(version: &str) -> Flavor {
    if version.contains("MariaDB") {
        return Flavor::MariaDb;
    }
    let mut numbers = version.split(['.', '-']).map(|number| number.parse().unwrap_or(0_u32));
    let release = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    Flavor::MySql(if release >= (8, 2) { SINCE_8_2 } else { BEFORE_8_2 })
}

fn texts(row: Row) -> Vec<Option<String>> {
    let text = |value| match value {
        Value::NULL => None,
        Value::Bytes(bytes) => Some(String::from_utf8_lossy(&bytes).into_owned()),
        Value::Int(int) => Some(int.to_string()),
        Value::UInt(int) => Some(int.to_string()),
        other => Some(other.as_sql(true)),
    };
    row.unwrap().into_iter().map(text).collect()
}

fn pairs(rows: Vec<Vec<Option<String>>>) -> HashMap<String, String> {
    let pair = |row: Vec<Option<String>>| {
        let [name, value] = row.try_into().unwrap_or_default();
        (name.unwrap_or_default(), value.unwrap_or_default())
    };
    rows.into_iter().map(pair).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gtid_sets_are_read_as_mysql_writes_them() {
        let set = GtidSet::parse("AAAA-1:1-5:7,\nbbbb:1-3:blue:1-2:9,cccc:4").expect("a set");
        let holds = |name, number| set.contains(name, number);
        assert!(holds("aaaa-1", 1) && holds("aaaa-1", 5) && holds("aaaa-1", 7) && holds("cccc", 4));
        assert!(!holds("aaaa-1", 6) && !holds("aaaa-1", 0) && !holds("dddd", 1));
        assert!(holds("bbbb", 3) && !holds("bbbb", 9) && holds("bbbb:blue", 9) && !holds("bbbb:blue", 3));
        let parts: Vec<String> = set.parts().collect();
        assert_eq!(parts, ["aaaa-1:1-5:7-7", "bbbb:1-3", "bbbb:blue:1-2:9-9", "cccc:4-4"]);
        assert_eq!(GtidSet::parse(""), Some(GtidSet::default()));
        assert_eq!(GtidSet::parse("aaaa:x-y").map(|set| set.contains("aaaa", 1)), Some(false));
    }

    #[test]
    fn servers_are_told_apart() {
        assert_eq!(flavor_of("10.11.19-MariaDB-0+deb12u1-log"), Flavor::MariaDb);
        assert_eq!(flavor_of("8.0.36"), Flavor::MySql(BEFORE_8_2));
        assert_eq!(flavor_of("8.4.2-commercial"), Flavor::MySql(SINCE_8_2));
        assert_eq!(flavor_of("9.1.0"), Flavor::MySql(SINCE_8_2));
    }
}
