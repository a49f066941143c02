//! An actor's own connection to the database of the rows, whichever it is.

use super::{Key, Kind, is_absent};
use crate::{Database, MySqlDatabase, SqliteFile};
use std::time::Duration;

/// The connection.
pub enum Connection {
    /// To PostgreSQL.
    Postgres(Database),
    /// To MySQL or MariaDB.
    MySql(MySqlDatabase),
    /// To a file.
    Sqlite(SqliteFile),
}

/// Changes rows and asks for them.
pub struct Source {
    /// The connection.
    pub connection: Connection,
    /// What a change of a row sets.
    pub set: &'static str,
    /// What a change does besides, in its transaction.
    pub also: Option<&'static str>,
}

/// What a change sets where nothing else needs to be.
pub const NEXT: &str = "version = version + 1";

impl From<Connection> for Source {
    fn from(connection: Connection) -> Self {
        Self { connection, set: NEXT, also: None }
    }
}

impl Source {
    /// Makes the table of a kind, with all its rows at version 0. `columns`: more of them.
    pub fn make(&mut self, kind: Kind, columns: &str) {
        let table = kind.name();
        self.run(&format!(
            "CREATE TABLE {table} (id BIGINT PRIMARY KEY, version BIGINT NOT NULL CHECK (version <> -2){columns})"
        ));
        for index in 0..super::KEYS {
            self.run(&format!("INSERT INTO {table} (id, version) VALUES ({index}, 0)"));
        }
    }

    /// Runs statements.
    ///
    /// # Panics
    /// If one fails.
    pub fn run(&mut self, sql: &str) {
        match &mut self.connection {
            Connection::Postgres(database) => database.run(sql),
            Connection::MySql(database) => database.run(sql),
            Connection::Sqlite(file) => file.run(sql),
        }
    }

    /// The one whole number that an expression is.
    fn number(&mut self, expression: &str) -> i64 {
        let text = match &mut self.connection {
            Connection::Postgres(database) => return database.number(&format!("SELECT {expression}")),
            Connection::MySql(database) => database.texts(&format!("SELECT CAST({expression} AS CHAR)")).remove(0),
            Connection::Sqlite(file) => file.pairs(&format!("SELECT CAST({expression} AS TEXT), ''")).remove(0).0,
        };
        text.parse().unwrap_or_else(|_| panic!("{expression} is {text}"))
    }

    /// The version of a row; one that is not there has one that is absent.
    pub fn version(&mut self, key: Key) -> i64 {
        let (table, index) = (key.kind.name(), key.index);
        self.number(&format!("coalesce((SELECT version FROM {table} WHERE id = {index}), 7)"))
    }

    /// Changes a row; the version that is committed.
    pub fn commit(&mut self, key: Key) -> i64 {
        if self.also.is_some() || !matches!(self.connection, Connection::Postgres(_)) {
            return self.commit_after(key, Duration::ZERO);
        }
        let (table, index, set) = (key.kind.name(), key.index, self.set);
        let Connection::Postgres(database) = &mut self.connection else { unreachable!("looked at above") };
        database.number(&format!("UPDATE {table} SET {set} WHERE id = {index} RETURNING version"))
    }

    /// As [`Source::commit`], in a transaction that stays open for a while: others begin later and commit sooner.
    pub fn commit_after(&mut self, key: Key, pause: Duration) -> i64 {
        self.begin();
        let (table, index, set) = (key.kind.name(), key.index, self.set);
        self.run(&format!("UPDATE {table} SET {set} WHERE id = {index}"));
        if let Some(also) = self.also {
            self.run(also);
        }
        let version = self.version(key);
        std::thread::sleep(pause);
        self.run("COMMIT");
        version
    }

    /// Changes a row to a version that is never committed.
    pub fn roll_back(&mut self, key: Key, pause: Duration) {
        self.begin();
        let (table, index) = (key.kind.name(), key.index);
        self.run(&format!("UPDATE {table} SET version = -1 WHERE id = {index}"));
        if let Some(also) = self.also {
            self.run(also);
        }
        std::thread::sleep(pause);
        self.run("ROLLBACK");
    }

    /// Makes a row what it is to be.
    pub fn put(&mut self, key: Key, version: i64) {
        let (table, index) = (key.kind.name(), key.index);
        if is_absent(version) {
            self.run(&format!("DELETE FROM {table} WHERE id = {index}"));
        } else {
            self.run(&format!(
                "INSERT INTO {table} (id, version) VALUES ({index}, {version}) ON CONFLICT (id) DO UPDATE SET version = {version}"
            ));
        }
    }

    fn begin(&mut self) {
        // SQLite has one writer at a time, and one that has read before must not be it.
        self.run(if matches!(self.connection, Connection::Sqlite(_)) { "BEGIN IMMEDIATE" } else { "BEGIN" });
    }
}
