//! What must be as it must be for the log to tell of a table: the server, the publication, the identity of rows, the types of keys.
//!
//! All of it is read from the catalogue, which takes no rights but USAGE on the schema of the table. [`LOOK`] reads it again with each look:
//!
//! | text | what is in it | when it changes |
//! |---|---|---|
//! | home | start of the server, publication, table and partitions with their identities | a gap: all is checked anew, with a new slot |
//! | shape | table and partitions with their files | rows may have changed that the log does not tell of: all are stale |

use super::super::{FeedSettings, Trouble, outbox_sql};
use super::transactions::KeyColumn;
use crate::dialect::{Dialect, Fault};
use crate::postgres::PostgresDialect;
use crate::postgres::wal::{END_OF_LOG, end_of_log};
use crate::source::Source;
use sqlx::postgres::{PgConnection, PgRow};
use sqlx::{AssertSqlSafe, Executor, Row};
use std::collections::HashSet;
use std::time::Instant;

/// Longest name of a publication: what PostgreSQL takes.
const NAME_BYTES_MAX: usize = 63;

/// The table and its partitions: `members`. `$1`: the table, `$2`: the publication.
const MEMBERS: &str = "WITH root AS (SELECT to_regclass($1)::oid AS oid), members AS (SELECT c.oid, c.relname, n.nspname, \
    c.relkind, c.relreplident, c.relfilenode, c.relpersistence FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = (SELECT oid FROM root) \
    OR c.oid IN (SELECT relid FROM pg_partition_tree((SELECT oid FROM root)::regclass)))";

/// What a look at the database finds; see the module.
const LOOK: &str = "SELECT clock.now_us, pg_current_snapshot()::text AS snapshot, \
    {end_of_log}, \
    concat_ws(' ', pg_postmaster_start_time()::text, (SELECT oid FROM root)::text, \
     (SELECT oid::text || ':' || xmin::text FROM pg_publication WHERE pubname = $2), \
     (SELECT string_agg(r.oid::text || ':' || r.xmin::text, ',' ORDER BY r.oid) FROM pg_publication_rel r JOIN pg_publication p \
      ON p.oid = r.prpubid WHERE p.pubname = $2 AND r.prrelid IN (SELECT oid FROM members)), {schemas}, \
     (SELECT string_agg(oid::text || relreplident::text, ',' ORDER BY oid) FROM members WHERE relkind = 'r')) AS home, \
    (SELECT string_agg(oid::text || ':' || relfilenode::text, ' ' ORDER BY oid) FROM members) AS shape \
    FROM (SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::int8 AS now_us) clock";

/// Schemas whose tables are published, from version 15 on.
const SCHEMAS: &str = "(SELECT string_agg(n.oid::text || ':' || n.xmin::text, ',' ORDER BY n.oid) FROM pg_publication_namespace n \
    JOIN pg_publication p ON p.oid = n.pnpubid WHERE p.pubname = $2)";

/// When the server was started, in the same words whatever the settings of the session.
pub(super) const STARTED: &str = "SELECT (extract(epoch FROM pg_postmaster_start_time()) * 1000000)::int8::text";

/// A look that asks only for what readers see.
pub(super) const SHORT_LOOK: &str = "SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::int8 AS now_us, \
    pg_current_snapshot()::text AS snapshot";

/// What was found to be in order.
pub(super) struct Setup {
    pub(super) key: Vec<KeyColumn>,
    pub(super) look_sql: String,
    /// The name of the publication, for the command that begins the stream.
    pub(super) publication: String,
    /// When the server was started.
    pub(super) started: String,
}

fn wrong(option: &'static str, reason: String) -> Trouble {
    Trouble::Wrong(option, reason)
}

/// An error of a query about the catalogue.
pub(super) fn trouble(source: &Source, error: sqlx::Error) -> Trouble {
    let reason = source.state.redacted(&error);
    match &error {
        sqlx::Error::Database(database) => match PostgresDialect::fault(database.as_ref()) {
            Fault::Timeout => Trouble::TooSlow("the database ended the query for its time".into()),
            Fault::Refused(reason) => wrong("source", reason),
            _ => Trouble::Failed(reason),
        },
        _ => Trouble::Failed(reason),
    }
}

/// Checks all that can be checked without a slot.
pub(super) async fn check(
    source: &Source,
    connection: &mut PgConnection,
    settings: &FeedSettings,
) -> Result<Setup, Trouble> {
    let failed = |error| trouble(source, error);
    let table = outbox_sql::quoted(&settings.table).map_err(|reason| wrong("table", reason))?;
    let publication = publication_name(&settings.publication)?;
    let version = check_server(source, connection).await?;
    let started = check_publication(source, connection, settings).await?;

    let members = format!(
        "{MEMBERS}, published AS (SELECT m.oid, to_jsonb(t) AS listed FROM pg_publication_tables t JOIN members m \
        ON m.nspname = t.schemaname AND m.relname = t.tablename WHERE t.pubname = $2) \
        SELECT m.oid::regclass::text AS name, relkind::text AS kind, relpersistence::text AS persistence, relreplident::text AS identity, \
        coalesce((SELECT array_agg(a.attname::text) FROM pg_index i JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = ANY(i.indkey) \
         WHERE i.indrelid = m.oid AND (m.relreplident = 'd' AND i.indisprimary OR m.relreplident = 'i' AND i.indisreplident)), \
         '{{}}') AS identity_columns, \
        EXISTS (SELECT FROM published p WHERE p.oid IN (m.oid, (SELECT oid FROM root))) AS is_published, \
        (SELECT min(p.listed ->> 'rowfilter') FROM published p WHERE p.oid IN (m.oid, (SELECT oid FROM root))) AS row_filter, \
        (SELECT string_agg(k, ', ') FROM unnest($3::text[]) k WHERE EXISTS (SELECT FROM published p \
         WHERE p.oid IN (m.oid, (SELECT oid FROM root)) AND NOT p.listed -> 'attnames' ? k)) AS unpublished \
        FROM members m ORDER BY m.oid"
    );
    let columns: Vec<String> = settings.columns().into_iter().map(str::to_owned).collect();
    let query = sqlx::query(AssertSqlSafe(members)).bind(&table).bind(&settings.publication).bind(&columns);
    let rows = connection.fetch_all(query).await.map_err(failed)?;
    if rows.is_empty() {
        return Err(wrong("table", format!("there is no table {} in this database", settings.table)));
    }
    let key = key_columns(source, connection, settings, &table).await?;
    for row in &rows {
        check_member(settings, &Member::of(row).map_err(failed)?)?;
    }
    let schemas = if version >= 150_000 { SCHEMAS } else { "NULL" };
    let look_sql = format!("{MEMBERS} {}", LOOK.replace("{schemas}", schemas).replace("{end_of_log}", END_OF_LOG));
    Ok(Setup { key, look_sql, publication, started })
}

/// As it stands in a list of names within a text.
fn publication_name(name: &str) -> Result<String, Trouble> {
    let is_fit = (1..=NAME_BYTES_MAX).contains(&name.len())
        && !name.contains(|c: char| c.is_control() || matches!(c, '"' | '\'' | '\\'));
    if is_fit {
        Ok(format!("\"{name}\""))
    } else {
        Err(wrong("publication", format!("{name:?} is no name that can be used here")))
    }
}

async fn check_server(source: &Source, connection: &mut PgConnection) -> Result<i32, Trouble> {
    const SQL: &str = "SELECT current_setting('wal_level') AS wal_level, current_setting('server_version_num')::int4 AS version, \
        pg_is_in_recovery() AS is_standby, current_user::text AS role, \
        (SELECT rolreplication OR rolsuper FROM pg_roles WHERE rolname = current_user) AS may_replicate, \
        current_setting('max_replication_slots')::int4 AS slots, current_setting('max_wal_senders')::int4 AS senders";
    let failed = |error| trouble(source, error);
    let row = connection.fetch_one(sqlx::query(SQL)).await.map_err(failed)?;
    let text = |name| row.try_get::<String, _>(name).map_err(failed);
    let number = |name| row.try_get::<i32, _>(name).map_err(failed);
    let flag = |name| row.try_get::<bool, _>(name).map_err(failed);
    if flag("is_standby")? {
        return Err(wrong("source", "is a standby; a feed must read the primary".into()));
    }
    if number("version")? < 130_000 {
        return Err(wrong("source", "is older than PostgreSQL 13".into()));
    }
    match text("wal_level")?.as_str() {
        "logical" => {}
        level => {
            let reason = format!(
                "has wal_level = {level}, and via = \"logical\" needs logical; run: ALTER SYSTEM SET wal_level = logical, and restart the \
                 database"
            );
            return Err(wrong("source", reason));
        }
    }
    for (option, name) in [("max_replication_slots", "slots"), ("max_wal_senders", "senders")] {
        if number(name)? == 0 {
            return Err(wrong("source", format!("has {option} = 0; each feed needs one")));
        }
    }
    if !flag("may_replicate")? {
        let role = text("role")?;
        let reason = format!("logs in as {role}, which may not replicate; run: ALTER ROLE \"{role}\" REPLICATION");
        return Err(wrong("source", reason));
    }
    number("version")
}

/// Returns when the server was started.
async fn check_publication(
    source: &Source,
    connection: &mut PgConnection,
    settings: &FeedSettings,
) -> Result<String, Trouble> {
    const SQL: &str = "SELECT (extract(epoch FROM pg_postmaster_start_time()) * 1000000)::int8::text AS started, concat_ws(', ', \
        CASE WHEN NOT p.pubinsert THEN 'insert' END, CASE WHEN NOT p.pubupdate THEN 'update' END, \
        CASE WHEN NOT p.pubdelete THEN 'delete' END, CASE WHEN NOT p.pubtruncate THEN 'truncate' END) AS lacks \
        FROM pg_publication p WHERE p.pubname = $1";
    let failed = |error| trouble(source, error);
    let FeedSettings { publication, table, .. } = settings;
    let found = connection.fetch_optional(sqlx::query(SQL).bind(publication)).await.map_err(failed)?;
    let Some(row) = found else {
        let reason = format!(
            "there is no publication {publication} in this database; run: CREATE PUBLICATION {publication} FOR TABLE {table}"
        );
        return Err(wrong("publication", reason));
    };
    let lacks: String = row.try_get("lacks").map_err(failed)?;
    if !lacks.is_empty() {
        let reason = format!(
            "{publication} does not publish {lacks}; run: ALTER PUBLICATION {publication} SET (publish = 'insert, update, delete, truncate')"
        );
        return Err(wrong("publication", reason));
    }
    row.try_get("started").map_err(failed)
}

/// The table, or one of its partitions.
struct Member {
    name: String,
    kind: String,
    persistence: String,
    identity: String,
    identity_columns: Vec<String>,
    is_published: bool,
    row_filter: Option<String>,
    unpublished: Option<String>,
}

impl Member {
    fn of(row: &PgRow) -> Result<Self, sqlx::Error> {
        Ok(Self {
            name: row.try_get("name")?,
            kind: row.try_get("kind")?,
            persistence: row.try_get("persistence")?,
            identity: row.try_get("identity")?,
            identity_columns: row.try_get("identity_columns")?,
            is_published: row.try_get("is_published")?,
            row_filter: row.try_get("row_filter")?,
            unpublished: row.try_get("unpublished")?,
        })
    }
}

fn check_member(settings: &FeedSettings, member: &Member) -> Result<(), Trouble> {
    let Member { name, .. } = member;
    let publication = &settings.publication;
    match member.kind.as_str() {
        "r" => {}
        // Its partitions hold the rows.
        "p" => return Ok(()),
        _ => return Err(wrong("table", format!("{name} is no table; the log tells of tables only"))),
    }
    if member.persistence != "p" {
        return Err(wrong("table", format!("{name} is unlogged or temporary; the log does not tell of it")));
    }
    if !member.is_published {
        let reason =
            format!("{publication} does not publish {name}; run: ALTER PUBLICATION {publication} ADD TABLE {name}");
        return Err(wrong("publication", reason));
    }
    if let Some(filter) = &member.row_filter {
        let reason = format!(
            "{publication} publishes only some rows of {name}, WHERE {filter}; run: ALTER PUBLICATION {publication} SET TABLE {name}"
        );
        return Err(wrong("publication", reason));
    }
    if let Some(columns) = &member.unpublished {
        return Err(wrong(
            "publication",
            format!("{publication} publishes {name} without the column {columns} of the key"),
        ));
    }
    let holds = |column: &&str| member.identity_columns.iter().any(|held| held == column);
    if member.identity != "f"
        && let Some(missing) = settings.columns().iter().find(|column| !holds(column))
    {
        let reason = format!(
            "the replica identity of {name} lacks the column {missing}, so an update or a delete does not tell the key before; run: ALTER \
             TABLE {name} REPLICA IDENTITY FULL, or USING INDEX with a unique index that has it"
        );
        return Err(wrong("key", reason));
    }
    Ok(())
}

/// The columns of the key, with their types.
async fn key_columns(
    source: &Source,
    connection: &mut PgConnection,
    settings: &FeedSettings,
    table: &str,
) -> Result<Vec<KeyColumn>, Trouble> {
    const SQL: &str = "SELECT format_type(a.atttypid, a.atttypmod) AS shown, t.typname::text AS name, t.typtype::text AS kind, \
        coalesce(nullif(t.typbasetype, 0), t.oid)::int8 AS base FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid \
        WHERE a.attrelid = to_regclass($1) AND a.attname = $2 AND a.attnum > 0 AND NOT a.attisdropped";
    let failed = |error| trouble(source, error);
    let mut columns = Vec::new();
    for column in settings.columns() {
        let found = connection.fetch_optional(sqlx::query(SQL).bind(table).bind(column)).await.map_err(failed)?;
        let Some(row) = found else {
            return Err(wrong("key", format!("the table {} has no column {column}", settings.table)));
        };
        let text = |name| row.try_get::<String, _>(name).map_err(failed);
        let base: i64 = row.try_get("base").map_err(failed)?;
        // Numbers as in `Codec::of`: the types whose text in the log is the one that a loader compares with its key.
        let is_key = matches!(base, 18 | 19 | 20 | 21 | 23 | 25 | 26 | 1042 | 1043 | 1700 | 2950)
            || text("kind")? == "e"
            || text("name")? == "citext";
        if !is_key {
            let reason = format!(
                "the column {column} is of the type {}, whose text in the log is not that of keys; use via = \"outbox\", or a column of \
                 integers, numeric, text or uuid",
                text("shown")?
            );
            return Err(wrong("key", reason));
        }
        columns.push(KeyColumn { name: column.to_owned(), is_numeric: base == 1700 });
    }
    Ok(columns)
}

/// What a look has found.
pub(super) struct Look {
    /// When the database was asked; it has read its clock later.
    pub(super) asked: Instant,
    /// Microseconds since 1970, by the clock of the database.
    pub(super) now_us: i64,
    pub(super) snapshot: String,
    /// The rest is only in a whole look. Behind all that is in the log.
    pub(super) head: u64,
    pub(super) home: String,
    pub(super) shape: String,
}

impl Look {
    pub(super) fn of(row: &PgRow, asked: Instant) -> Result<Self, sqlx::Error> {
        let shape: Option<String> = row.try_get("shape")?;
        Ok(Self {
            head: end_of_log(row)?,
            home: row.try_get("home")?,
            shape: shape.unwrap_or_default(),
            ..Self::short(row, asked)?
        })
    }

    pub(super) fn short(row: &PgRow, asked: Instant) -> Result<Self, sqlx::Error> {
        Ok(Self {
            asked,
            now_us: row.try_get("now_us")?,
            snapshot: row.try_get("snapshot")?,
            head: 0,
            home: String::new(),
            shape: String::new(),
        })
    }
}

/// The numbers of the table and its partitions in a shape.
pub(super) fn tables(shape: &str) -> HashSet<u32> {
    shape.split(' ').filter_map(|part| part.split_once(':')?.0.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shape_names_the_tables() {
        assert_eq!(tables("16384:16384 16390:0"), HashSet::from([16_384, 16_390]));
        assert_eq!(tables(""), HashSet::new());
    }

    #[test]
    fn names_of_publications_stand_in_quotes() {
        assert!(matches!(publication_name("cache feed,1"), Ok(name) if name == "\"cache feed,1\""));
        for name in ["", "a'b", "a\"b", "a\\b", "a\nb", &"x".repeat(64)] {
            assert!(matches!(publication_name(name), Err(Trouble::Wrong("publication", _))), "{name}");
        }
    }
}
