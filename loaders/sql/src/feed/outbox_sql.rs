//! The SQL of the outbox: the table that changes are written down in, and the triggers that do it, within the transaction of whoever
//! changes a row. `leasehold sql outbox` prints it; an operator reads it and runs it, Leasehold never does.

use super::{FeedColumn, FeedSettings, Trouble};
use std::fmt;

/// Longest part of a name in bytes: what PostgreSQL takes.
const NAME_BYTES_MAX: usize = 63;

/// Rows that an SQLite outbox keeps: its own triggers delete what is older, as the feed opens the file read-only.
const SQLITE_ROWS: u32 = 100_000;

/// The trigger for rows, on each table.
pub(crate) const ROW_TRIGGER: &str = "leasehold_outbox";

/// The trigger for TRUNCATE, on each table.
pub(crate) const TRUNCATE_TRIGGER: &str = "leasehold_outbox_truncate";

/// How many triggers a table of MySQL has.
pub(crate) const MYSQL_TRIGGERS: usize = 3;

/// A kind of database.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OutboxDatabase {
    /// From version 13 on.
    Postgres,
    /// MySQL and MariaDB.
    Mysql,
    /// SQLite.
    Sqlite,
}

/// Names as they stand in SQL, quoted.
pub(crate) struct Names {
    pub(crate) table: String,
    pub(crate) outbox: String,
    pub(crate) state: String,
    pub(crate) purge_function: String,
}

impl Names {
    pub(crate) fn postgres(settings: &FeedSettings) -> Result<Self, Trouble> {
        Self::of(&settings.table, &settings.outbox).map_err(|(option, reason)| Trouble::Wrong(option, reason))
    }

    pub(crate) fn sqlite(settings: &FeedSettings) -> Result<Self, Trouble> {
        Self::postgres(settings)
    }

    pub(crate) fn mysql(settings: &FeedSettings) -> Result<Self, Trouble> {
        let Self { table, outbox, state, purge_function } = Self::postgres(settings)?;
        let [table, outbox, state, purge_function] =
            [table, outbox, state, purge_function].map(|name| backquoted(&name));
        Ok(Self { table, outbox, state, purge_function })
    }

    fn of(table: &str, outbox: &str) -> Result<Self, (&'static str, String)> {
        let beside = |suffix: &str| quoted(&format!("{outbox}{suffix}")).map_err(|reason| ("outbox", reason));
        Ok(Self {
            table: quoted(table).map_err(|reason| ("table", reason))?,
            outbox: beside("")?,
            state: beside("_state")?,
            purge_function: beside("_purge")?,
        })
    }
}

/// `"schema"."table"` or `"table"`. The names are what the database calls them, so case counts.
pub(crate) fn quoted(name: &str) -> Result<String, String> {
    let parts: Result<Vec<String>, String> = name.split('.').map(quoted_one).collect();
    let parts = parts?;
    if parts.len() > 2 {
        return Err(format!("{name:?} is no name; write \"table\" or \"schema.table\""));
    }
    Ok(parts.join("."))
}

/// A name without a schema, quoted.
pub(crate) fn quoted_one(name: &str) -> Result<String, String> {
    let is_fit = (1..=NAME_BYTES_MAX).contains(&name.len())
        && !name.contains(|c: char| c.is_control() || matches!(c, '"' | '`' | '\'' | '\\' | '$'));
    if is_fit { Ok(format!("\"{name}\"")) } else { Err(format!("{name:?} is no name that can be used here")) }
}

/// A quoted name in the quotes of MySQL. No name has quotes in it.
pub(crate) fn backquoted(quoted: &str) -> String {
    quoted.replace('"', "`")
}

/// A text as SQL.
pub(crate) fn literal(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

/// How to make what is missing.
pub(crate) fn advice(settings: &FeedSettings, database: &str) -> String {
    let FeedSettings { table, outbox, .. } = settings;
    let columns = settings.columns().join(",");
    let outbox = if outbox == "leasehold_outbox" { String::new() } else { format!(" --outbox {outbox}") };
    format!(
        "`leasehold sql outbox --table {table} --key {columns} --database {database}{outbox}` prints the SQL that makes it"
    )
}

/// The triggers of a table in SQLite.
pub(crate) fn sqlite_triggers(settings: &FeedSettings) -> [String; 3] {
    ["insert", "update", "delete"].map(|event| format!("{ROW_TRIGGER}_{}_{event}", settings.table))
}

/// The SQL of the outbox of a table.
///
/// # Errors
/// A name that cannot be used.
pub fn outbox_sql(database: OutboxDatabase, table: &str, key: &[FeedColumn], outbox: &str) -> Result<String, String> {
    let names = Names::of(table, outbox).map_err(|(option, reason)| format!("{option}: {reason}"))?;
    if key.is_empty() {
        return Err("key: names no column".to_owned());
    }
    let columns: Result<Vec<(String, String)>, String> =
        key.iter().map(|column| Ok((column.column.clone(), quoted_one(&column.column)?))).collect();
    let parts = Parts { names: &names, table, outbox, columns: &columns? };
    match database {
        OutboxDatabase::Postgres => Ok(parts.postgres()),
        OutboxDatabase::Sqlite if table.contains('.') || outbox.contains('.') => {
            Err("table: tables of SQLite have no schema here".to_owned())
        }
        OutboxDatabase::Sqlite => Ok(parts.sqlite()),
        OutboxDatabase::Mysql => Ok(parts.mysql()),
    }
}

/// The SQL of a publication of a table, for a feed by logical replication.
///
/// # Errors
/// A name that cannot be used.
pub fn publication_sql(table: &str, key: &[FeedColumn], publication: &str, user: &str) -> Result<String, String> {
    let table_name = quoted(table).map_err(|reason| format!("table: {reason}"))?;
    let publication = quoted_one(publication).map_err(|reason| format!("publication: {reason}"))?;
    let user = quoted_one(user).map_err(|reason| format!("user: {reason}"))?;
    let columns: Result<Vec<String>, String> = key.iter().map(|column| quoted_one(&column.column)).collect();
    let columns = columns?.join(", ");
    Ok(format!(
        r#"-- Leasehold: a publication of the table {table_name}. Run it as the owner of the table, with CREATE on the database.
-- Once for the server, which must be restarted then:  ALTER SYSTEM SET wal_level = logical;
-- Each feed takes a walsender and a temporary slot:   max_wal_senders, max_replication_slots (10 each by default)
CREATE PUBLICATION {publication} FOR TABLE {table_name};

-- An update and a delete tell the key before only if the replica identity has its columns ({columns}). The primary key is the default
-- identity; if it lacks one of them:  ALTER TABLE {table_name} REPLICA IDENTITY FULL;

-- What the user that Leasehold logs in as needs beside CONNECT, and USAGE on the schema; SELECT is for loaders, not for the feed.
ALTER ROLE {user} REPLICATION;
"#
    ))
}

struct Parts<'a> {
    names: &'a Names,
    table: &'a str,
    outbox: &'a str,
    /// Plain and quoted.
    columns: &'a [(String, String)],
}

/// A list with commas between.
fn list<T, D: fmt::Display>(items: &[T], show: impl Fn(&T) -> D) -> String {
    items.iter().map(|item| show(item).to_string()).collect::<Vec<_>>().join(", ")
}

impl Parts<'_> {
    fn postgres(&self) -> String {
        let Names { table, outbox, state, purge_function } = self.names;
        let beside = |suffix: &str| quoted(&format!("{}{suffix}", self.outbox)).expect("the name was quoted before");
        let own = self.table.replace('.', "_");
        let cut = own.floor_char_boundary(NAME_BYTES_MAX - "leasehold_outbox_".len());
        let function = quoted(&match self.outbox.split_once('.') {
            Some((schema, _)) => format!("{schema}.leasehold_outbox_{}", &own[..cut]),
            None => format!("leasehold_outbox_{}", &own[..cut]),
        })
        .expect("made of names that were quoted before");
        let index = quoted_one(&format!("{}_xid", self.outbox.rsplit('.').next().unwrap_or_default()))
            .unwrap_or_else(|_| "\"leasehold_outbox_xid\"".to_owned());
        let (purged, truncated) = (beside("_purged"), beside("_truncated"));
        let (table_text, channel) = (literal(self.table), literal(self.outbox));
        let object = |row: &str| {
            let pair =
                |(plain, quoted): &(String, String)| format!("{}, to_jsonb({row}.{quoted}) #>> '{{}}'", literal(plain));
            format!("jsonb_build_object({})", list(self.columns, pair))
        };
        let (old, new) = (object("OLD"), object("NEW"));
        let arguments = list(self.columns, |(plain, _)| literal(plain));
        format!(
            r#"-- Leasehold: an outbox for the table {table}. Run it as the owner of the table, in the schema where the outbox shall lie.
-- A user that only reads needs: GRANT SELECT ON {outbox}, {state} TO …;
-- Not seen: changes while the triggers are off. Partitions and foreign keys with CASCADE are seen.
BEGIN;

CREATE TABLE IF NOT EXISTS {outbox} (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    -- Readers go by transactions, as numbers are given in another order than transactions commit in.
    xid xid8 NOT NULL DEFAULT pg_current_xact_id(),
    written_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    table_name text NOT NULL,
    -- Both NULL: all rows of the table.
    old_key jsonb,
    new_key jsonb
);
CREATE INDEX IF NOT EXISTS {index} ON {outbox} (xid);

-- Readers learn from it that rows they have not read were deleted, or that this is another outbox.
CREATE TABLE IF NOT EXISTS {state} (
    only_row boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    epoch uuid NOT NULL DEFAULT gen_random_uuid(),
    purges bigint NOT NULL DEFAULT 0,
    purged xid8 NOT NULL DEFAULT '0'
);
INSERT INTO {state} DEFAULT VALUES ON CONFLICT DO NOTHING;

CREATE OR REPLACE FUNCTION {purged}() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT AS $$
BEGIN
    IF EXISTS (SELECT FROM gone) THEN
        UPDATE {state} SET purges = purges + 1, purged = greatest(purged, (SELECT xid FROM gone ORDER BY xid DESC LIMIT 1));
    END IF;
    RETURN NULL;
END $$;
DROP TRIGGER IF EXISTS "leasehold_purged" ON {outbox};
CREATE TRIGGER "leasehold_purged" AFTER DELETE ON {outbox} REFERENCING OLD TABLE AS gone
    FOR EACH STATEMENT EXECUTE FUNCTION {purged}();

CREATE OR REPLACE FUNCTION {truncated}() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT AS $$
BEGIN
    UPDATE {state} SET purges = purges + 1, purged = pg_snapshot_xmax(pg_current_snapshot());
    RETURN NULL;
END $$;
DROP TRIGGER IF EXISTS "leasehold_truncated" ON {outbox};
CREATE TRIGGER "leasehold_truncated" AFTER TRUNCATE ON {outbox} FOR EACH STATEMENT EXECUTE FUNCTION {truncated}();

-- Leasehold calls it from time to time; so may you. Rows that may be news to a reader that is up to date stay.
CREATE OR REPLACE FUNCTION {purge_function}(retention interval) RETURNS bigint LANGUAGE plpgsql SECURITY DEFINER
    SET search_path FROM CURRENT AS $$
DECLARE
    deleted bigint;
BEGIN
    DELETE FROM {outbox} WHERE id IN (
        SELECT id FROM {outbox}
        WHERE written_at < clock_timestamp() - retention AND xid < pg_snapshot_xmin(pg_current_snapshot())
        ORDER BY xid LIMIT 100000 FOR UPDATE SKIP LOCKED
    );
    GET DIAGNOSTICS deleted = ROW_COUNT;
    RETURN deleted;
END $$;

CREATE OR REPLACE FUNCTION {function}() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT AS $$
DECLARE
    key_before jsonb;
    key_after jsonb;
BEGIN
    IF TG_OP IN ('UPDATE', 'DELETE') THEN
        key_before := {old};
    END IF;
    IF TG_OP IN ('INSERT', 'UPDATE') THEN
        key_after := {new};
    END IF;
    IF key_before = key_after THEN
        key_before := NULL;
    END IF;
    INSERT INTO {outbox} (table_name, old_key, new_key) VALUES ({table_text}, key_before, key_after);
    -- Sent at the commit, once for a transaction. It only wakes readers.
    PERFORM pg_notify({channel}, {table_text});
    RETURN NULL;
END $$;
DROP TRIGGER IF EXISTS "{ROW_TRIGGER}" ON {table};
CREATE TRIGGER "{ROW_TRIGGER}" AFTER INSERT OR UPDATE OR DELETE ON {table} FOR EACH ROW EXECUTE FUNCTION {function}({arguments});
DROP TRIGGER IF EXISTS "{TRUNCATE_TRIGGER}" ON {table};
CREATE TRIGGER "{TRUNCATE_TRIGGER}" AFTER TRUNCATE ON {table} FOR EACH STATEMENT EXECUTE FUNCTION {function}({arguments});
-- Also for rows that come by replication.
ALTER TABLE {table} ENABLE ALWAYS TRIGGER "{ROW_TRIGGER}";
ALTER TABLE {table} ENABLE ALWAYS TRIGGER "{TRUNCATE_TRIGGER}";

COMMIT;
"#
        )
    }

    fn sqlite(&self) -> String {
        let Names { table, outbox, state, .. } = self.names;
        let table_text = literal(self.table);
        let object = |row: &str| {
            let pair = |(plain, quoted): &(String, String)| format!("{}, CAST({row}.{quoted} AS TEXT)", literal(plain));
            format!("json_object({})", list(self.columns, pair))
        };
        let (old, new) = (object("OLD"), object("NEW"));
        let trigger = |event: &str, keys: &str, values: &str| {
            let name = format!("\"{ROW_TRIGGER}_{}_{}\"", self.table, event.to_ascii_lowercase());
            format!(
                "DROP TRIGGER IF EXISTS {name};\nCREATE TRIGGER {name} AFTER {event} ON {table} BEGIN\n    \
                 INSERT INTO {outbox} (table_name, {keys}) VALUES ({table_text}, {values});\n    \
                 DELETE FROM {outbox} WHERE id <= last_insert_rowid() - {SQLITE_ROWS};\nEND;\n"
            )
        };
        let triggers = [
            trigger("INSERT", "new_key", &new),
            trigger("UPDATE", "old_key, new_key", &format!("{old}, {new}")),
            trigger("DELETE", "old_key", &old),
        ];
        format!(
            "-- Leasehold: an outbox for the table {table}. It keeps the last {SQLITE_ROWS} changes.\n\
             -- Not seen: rows that INSERT OR REPLACE pushes out, unless the writer has set PRAGMA recursive_triggers = ON.\n\
             BEGIN;\n\n\
             CREATE TABLE IF NOT EXISTS {outbox} (\n    \
             -- Never given twice, so that a reader sees what is missing.\n    \
             id INTEGER PRIMARY KEY AUTOINCREMENT,\n    \
             written_at_ms INTEGER NOT NULL DEFAULT (CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER)),\n    \
             table_name TEXT NOT NULL,\n    old_key TEXT,\n    new_key TEXT\n);\n\
             CREATE TABLE IF NOT EXISTS {state} (\n    \
             only_row INTEGER PRIMARY KEY CHECK (only_row = 1),\n    \
             epoch TEXT NOT NULL DEFAULT (hex(randomblob(16)))\n);\n\
             INSERT OR IGNORE INTO {state} (only_row) VALUES (1);\n\n{}\nCOMMIT;\n",
            triggers.join("")
        )
    }

    fn mysql(&self) -> String {
        let Names { table, outbox, state, .. } = self.names;
        let [table, outbox, state] = [table, outbox, state].map(|name| backquoted(name));
        let table_text = literal(self.table);
        let object = |row: &str| {
            let pair = |(plain, quoted): &(String, String)| {
                format!("{}, CAST({row}.{} AS CHAR)", literal(plain), backquoted(quoted))
            };
            format!("JSON_OBJECT({})", list(self.columns, pair))
        };
        let (old, new) = (object("OLD"), object("NEW"));
        let trigger = |event: &str, keys: &str, values: &str| {
            let own = self.table.rsplit('.').next().unwrap_or_default();
            // MySQL takes names of 64 characters.
            let own: String = own.chars().take(40).collect();
            let name = format!("`{ROW_TRIGGER}_{own}_{}`", event.to_ascii_lowercase());
            format!(
                "DROP TRIGGER IF EXISTS {name};\nCREATE TRIGGER {name} AFTER {event} ON {table} FOR EACH ROW\n    \
                 INSERT INTO {outbox} (written_at, table_name, {keys}) VALUES (UTC_TIMESTAMP(6), {table_text}, {values});\n"
            )
        };
        let triggers = [
            trigger("INSERT", "new_key", &new),
            trigger("UPDATE", "old_key, new_key", &format!("{old}, {new}")),
            trigger("DELETE", "old_key", &old),
        ];
        format!(
            "-- Leasehold: an outbox for the table {table}.\n\
             -- A user that reads needs SELECT on {outbox} and {state}, and TRIGGER on {table} to see that the triggers are there.\n\
             -- Not seen: TRUNCATE, and rows that a foreign key with CASCADE changes; MySQL runs no triggers for them.\n\n\
             CREATE TABLE IF NOT EXISTS {outbox} (\n    \
             id BIGINT UNSIGNED NOT NULL AUTO_INCREMENT PRIMARY KEY,\n    \
             -- UTC, whatever the time zone of the writer.\n    \
             written_at DATETIME(6) NOT NULL,\n    \
             table_name VARCHAR(255) NOT NULL,\n    old_key JSON,\n    new_key JSON,\n    KEY (written_at)\n) ENGINE=InnoDB;\n\
             -- Readers learn from it that rows they have not read were deleted, or that this is another outbox.\n\
             CREATE TABLE IF NOT EXISTS {state} (\n    \
             only_row TINYINT NOT NULL PRIMARY KEY,\n    epoch CHAR(36) NOT NULL,\n    \
             purged BIGINT UNSIGNED NOT NULL DEFAULT 0\n) ENGINE=InnoDB;\n\
             INSERT IGNORE INTO {state} (only_row, epoch) VALUES (1, UUID());\n\
             DROP TRIGGER IF EXISTS `leasehold_purged`;\n\
             CREATE TRIGGER `leasehold_purged` AFTER DELETE ON {outbox} FOR EACH ROW\n    \
             UPDATE {state} SET purged = greatest(purged, OLD.id);\n\n{}",
            triggers.join("")
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key() -> Vec<FeedColumn> {
        vec![FeedColumn::parse("id").expect("a column")]
    }

    #[test]
    fn names_are_quoted_and_none_can_leave_its_quotes() {
        assert_eq!(quoted("users"), Ok("\"users\"".into()));
        assert_eq!(quoted("Shop.order"), Ok("\"Shop\".\"order\"".into()));
        for bad in ["", "a.b.c", "a.", "x\"y", "x'y", "x`y", "x\ny", "$$", "x\\y"] {
            assert!(quoted(bad).is_err(), "{bad}");
        }
        assert!(quoted(&"x".repeat(64)).is_err());
    }

    #[test]
    fn each_database_has_triggers_for_insert_update_and_delete() {
        for (database, marks) in [
            (
                OutboxDatabase::Postgres,
                &["AFTER INSERT OR UPDATE OR DELETE ON \"users\"", "AFTER TRUNCATE ON \"users\""][..],
            ),
            (
                OutboxDatabase::Sqlite,
                &["AFTER INSERT ON \"users\"", "AFTER UPDATE ON \"users\"", "AFTER DELETE ON \"users\""],
            ),
            (OutboxDatabase::Mysql, &["AFTER INSERT ON `users`", "AFTER UPDATE ON `users`", "AFTER DELETE ON `users`"]),
        ] {
            let sql = outbox_sql(database, "users", &key(), "leasehold_outbox").expect("plain names");
            for mark in marks {
                assert!(sql.contains(mark), "{mark} in {sql}");
            }
        }
        assert!(outbox_sql(OutboxDatabase::Postgres, "u\"", &key(), "o").is_err());
        assert!(outbox_sql(OutboxDatabase::Postgres, "u", &[], "o").is_err());
        assert!(outbox_sql(OutboxDatabase::Sqlite, "main.u", &key(), "o").is_err());
    }
}
