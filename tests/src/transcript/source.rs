//! The source behind the loaders of a transcript that runs over real sockets: a PostgreSQL database with one function that
//! counts, sleeps, fails or answers as the transcript last said.

use super::parse::{Answer, Row, Transcript};
use super::world::Source;
use crate::postgres::Postgres;
use sqlx::{Connection, PgConnection, Row as _};
use std::fmt::Write as _;
use std::sync::{Mutex, PoisonError};
use tokio::runtime::Runtime;

/// Counting is by sequences, as only they keep their step when the query fails and is rolled back.
const SCHEMA: &str = "
    CREATE TABLE answers (key text PRIMARY KEY, value text, after_ms bigint NOT NULL, failure text);
    CREATE FUNCTION answer(prefix text, wanted text) RETURNS TABLE (id text, value text) LANGUAGE plpgsql AS $$
    DECLARE
        a answers%ROWTYPE;
    BEGIN
        SELECT * INTO a FROM answers WHERE key = prefix || wanted;
        IF NOT FOUND THEN RETURN; END IF;
        PERFORM nextval('calls_' || md5(a.key));
        PERFORM pg_sleep(a.after_ms / 1000.0);
        IF a.failure IS NOT NULL THEN RAISE EXCEPTION '%', a.failure; END IF;
        IF a.value IS NOT NULL THEN
            id := wanted;
            value := a.value;
            RETURN NEXT;
        END IF;
    END $$;
";

/// A database of its own for one run.
pub(crate) struct PostgresSource {
    runtime: Runtime,
    connection: Mutex<PgConnection>,
    url: String,
}

impl PostgresSource {
    pub(crate) fn new(postgres: &Postgres) -> Self {
        let url = postgres.new_database();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("a runtime needs no more than this");
        let connection = runtime.block_on(async {
            let mut connection = PgConnection::connect(&url).await.expect("PostgreSQL runs");
            sqlx::raw_sql(SCHEMA).execute(&mut connection).await.expect("the schema is valid");
            connection
        });
        Self { runtime, connection: Mutex::new(connection), url }
    }

    /// The conf of a server whose loaders ask here.
    pub(crate) fn conf(&self, transcript: &Transcript) -> String {
        let mut conf = format!("[sources.main]\nurl = \"{}\"\nmax_connections = 8\n", self.url);
        for (name, options) in transcript.loaders() {
            let _ = write!(
                conf,
                "\n[loaders.{name}]\nmatch = \"{name}:{{id}}\"\nsource = \"main\"\nvalue = \"column\"\njitter = 0\n\
                 sql = \"SELECT id, value FROM answer('{name}:', $1::text)\"\n"
            );
            // A transcript that changes its source's mind wants to see that at once.
            if !options.iter().any(|(option, _)| option == "error_ttl") {
                conf.push_str("error_ttl = 0\n");
            }
            for (option, value) in options {
                let _ = writeln!(conf, "{option} = \"{value}\"");
            }
        }
        conf
    }

    fn sequence(key: &str) -> String {
        // As md5() in the function makes it, but here by the database as well, so that there is one definition.
        format!("'calls_' || md5('{}')", key.replace('\'', "''"))
    }
}

impl Source for PostgresSource {
    fn answer(&self, key: &str, answer: &Answer) {
        let (value, failure) = match &answer.row {
            Row::Value(value) => (Some(value.as_str()), None),
            Row::Absent => (None, None),
            Row::Failure(reason) => (None, Some(reason.as_str())),
        };
        let create = format!(
            "DO $$ BEGIN EXECUTE format('CREATE SEQUENCE IF NOT EXISTS %I MINVALUE 0 START 0', {}); END $$",
            Self::sequence(key)
        );
        let mut connection = self.connection.lock().unwrap_or_else(PoisonError::into_inner);
        self.runtime.block_on(async {
            sqlx::raw_sql(sqlx::AssertSqlSafe(create)).execute(&mut *connection).await.expect("a sequence can be made");
            sqlx::query(
                "INSERT INTO answers VALUES ($1, $2, $3, $4) ON CONFLICT (key) DO UPDATE \
                 SET value = excluded.value, after_ms = excluded.after_ms, failure = excluded.failure",
            )
            .bind(key)
            .bind(value)
            .bind(i64::try_from(answer.after_ms).expect("a test takes no such time"))
            .bind(failure)
            .execute(&mut *connection)
            .await
            .expect("the answer can be stored");
        });
    }

    fn loads(&self, key: &str) -> u64 {
        let mut connection = self.connection.lock().unwrap_or_else(PoisonError::into_inner);
        // A sequence that was never used reads as its start, too.
        let query = format!(
            "SELECT coalesce((SELECT last_value + 1 FROM pg_sequences WHERE sequencename = {}), 0)::bigint",
            Self::sequence(key)
        );
        let row = self.runtime.block_on(async {
            sqlx::query(sqlx::AssertSqlSafe(query)).fetch_one(&mut *connection).await.expect("sequences can be read")
        });
        u64::try_from(row.get::<i64, _>(0)).expect("a count is not negative")
    }
}
