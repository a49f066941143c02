//! The outbox of PostgreSQL, read by transaction.
//!
//! Identity columns and sequences are no order of commits: a transaction that took number 7 may commit after one that took 8, and who
//! has read up to 8 never sees it. So a row carries the number of its transaction, and the position is a snapshot, the one of the last
//! read: what is visible now and was not visible then is news, each row once, whatever the order. A transaction that stays open holds back
//! nobody's rows but its own.
//!
//! ```text
//! position 100:104:101,103     all below 100, and 102, were visible then; 101 and 103 were under way, 104 had not begun
//! now      103:106:103         news: rows of 101, 104 and 105
//! ```
//!
//! On a standby `pg_current_snapshot` does not list what is under way there, so only a primary is read.
//!
//! The feed has a connection of its own. NOTIFY wakes it; a look each second finds what a lost wake-up did not tell.

use super::{FeedSettings, LOOK_AGAIN, Read, Tail, Teller, Trouble, next, outbox_change, outbox_sql};
use crate::dialect::{Dialect, Fault};
use crate::postgres::PostgresDialect;
use crate::source::{AnyPool, Source};
use leasehold_loader_api::feed::{Event, Gap};
use sqlx::postgres::{PgListener, PgPoolOptions, PgRow};
use sqlx::{AssertSqlSafe, Executor, Row};
use std::time::Duration;
use tokio::time::{Instant, timeout_at};

pub(crate) struct Outbox {
    source: Source,
    settings: FeedSettings,
    listener: PgListener,
    read_sql: String,
    /// The rows of our triggers in the catalogue: a trigger that was switched off and on again has new ones.
    triggers: String,
    /// Whether the outbox may be cleaned up by us, as far as we know.
    may_purge: bool,
}

pub(crate) struct Position {
    /// Text of a `pg_snapshot`.
    snapshot: String,
    home: Home,
    /// How often rows had been deleted from the outbox.
    purges: i64,
}

/// Where a position is worth something.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Home {
    /// Of the outbox.
    epoch: String,
    /// When the server was started: a restart may have undone transactions that we have seen (`synchronous_commit = off`), and
    /// another server may lack them.
    started: String,
    /// The rows of our triggers in the catalogue.
    triggers: String,
}

impl Tail for Outbox {
    type Position = Position;

    async fn open(source: &Source, settings: &FeedSettings) -> Result<Self, Trouble> {
        let AnyPool::Postgres(pool) = &source.pool else { unreachable!("asked of PostgreSQL only") };
        let names = outbox_sql::Names::postgres(settings)?;
        // A pool of its own, as the listener wants one: what loaders do does not make the feed wait.
        let own = PgPoolOptions::new()
            .max_connections(1)
            .acquire_timeout(source.state.settings.acquire_timeout)
            .max_lifetime(None)
            .idle_timeout(None)
            .connect_lazy_with(pool.connect_options().as_ref().clone());
        let failed = |error| trouble(source, error);
        let mut listener = PgListener::connect_with(&own).await.map_err(failed)?;
        listener.ignore_pool_close_event(true);
        listener.eager_reconnect(false);
        let mut tail = Self {
            source: source.clone(),
            settings: settings.clone(),
            listener,
            read_sql: read_sql(&names),
            triggers: String::new(),
            may_purge: !settings.retention.is_zero(),
        };
        tail.triggers = tail.check().await?;
        // Before the first read: what commits after it wakes us.
        tail.listener.listen(&settings.outbox).await.map_err(failed)?;
        Ok(tail)
    }

    async fn read(&mut self, position: &mut Option<Position>, teller: &mut Teller) -> Result<Read, Trouble> {
        // With the empty snapshot all is news, which is not asked for: the first read wants a position only.
        let (since, table) = match position {
            Some(position) => (position.snapshot.as_str(), Some(self.settings.table.as_str())),
            None => ("1:1:", None),
        };
        let query = sqlx::query(AssertSqlSafe(self.read_sql.clone())).bind(since).bind(table);
        let failed = |error| trouble(&self.source, error);
        let mut rows = self.listener.fetch(query);
        let mut head = None;
        while let Some(row) = next(&mut rows).await {
            let row = row.map_err(failed)?;
            match Head::of(&row, &self.triggers).map_err(failed)? {
                Some(found) => head = Some(found),
                None => teller.event(event(&self.settings, &row).map_err(failed)??).await,
            }
        }
        drop(rows);
        let head = head.ok_or_else(|| Trouble::Wrong("outbox", "its state table is empty; make it anew".into()))?;
        if head.is_standby {
            return Err(Trouble::Wrong("source", "is a standby; a feed must read the primary".into()));
        }
        let read = match position {
            None => Read::Began,
            Some(before) if before.home.epoch != head.home.epoch || before.home.started != head.home.started => {
                Read::Gap(Gap::Restarted)
            }
            // Nobody knows what happened while a trigger was off.
            Some(before) if before.home != head.home => Read::Gap(Gap::PositionLost),
            Some(before) if before.purges != head.purges && head.has_purged_news => Read::Gap(Gap::Purged),
            Some(_) => Read::Went,
        };
        *position = Some(Position { snapshot: head.snapshot, home: head.home, purges: head.purges });
        Ok(read)
    }

    async fn wait(&mut self, poll: Option<Duration>) -> Result<(), Trouble> {
        let until = Instant::now() + poll.unwrap_or(LOOK_AGAIN);
        loop {
            match timeout_at(until, self.listener.try_recv()).await {
                Err(_) => return Ok(()),
                Ok(Ok(Some(notification))) if notification.payload() == self.settings.table => {
                    while self.listener.next_buffered().is_some() {}
                    return Ok(());
                }
                // Another table's.
                Ok(Ok(Some(_))) => {}
                Ok(Ok(None)) => return Err(Trouble::Failed("the connection was lost".into())),
                Ok(Err(error)) => return Err(trouble(&self.source, error)),
            }
        }
    }

    async fn tidy(&mut self) -> Result<(), Trouble> {
        self.triggers = self.check().await?;
        if !self.may_purge {
            return Ok(());
        }
        let names = outbox_sql::Names::postgres(&self.settings)?;
        let sql = format!("SELECT {}(make_interval(secs => $1))", names.purge_function);
        let query = sqlx::query(AssertSqlSafe(sql)).bind(self.settings.retention.as_secs_f64());
        match self.listener.execute(query).await {
            Ok(_) => Ok(()),
            // Not being allowed to is no trouble of the feed's: others may clean up.
            Err(sqlx::Error::Database(error)) => {
                self.may_purge = false;
                let feed = &self.settings.name;
                tracing::warn!(
                    feed,
                    reason = error.message(),
                    "the feed cannot delete old rows of the outbox, and leaves it"
                );
                Ok(())
            }
            Err(error) => Err(trouble(&self.source, error)),
        }
    }
}

impl Outbox {
    /// Whether the outbox and the triggers are there; a text that changes when a trigger does.
    async fn check(&mut self) -> Result<String, Trouble> {
        const SQL: &str = "SELECT to_regclass($1) IS NOT NULL AS has_table, \
            to_regclass($2) IS NOT NULL AND to_regclass($3) IS NOT NULL AS has_outbox, \
            (SELECT encode(tgargs, 'escape') FROM pg_trigger WHERE tgrelid = to_regclass($1) AND tgname = $4 AND tgenabled IN \
             ('O', 'A')) AS arguments, \
            (SELECT count(*) FROM pg_trigger WHERE tgrelid = to_regclass($1) AND tgname = $5 AND tgenabled IN ('O', 'A')) = 1 AS \
             sees_truncate, \
            (SELECT string_agg(oid::text || ':' || xmin::text, ' ' ORDER BY oid) FROM pg_trigger \
             WHERE tgrelid = to_regclass($1) AND tgname IN ($4, $5)) AS triggers, \
            (SELECT string_agg(a.name, ', ') FROM unnest($6::text[]) AS a(name) WHERE NOT EXISTS (SELECT FROM pg_attribute \
             WHERE attrelid = to_regclass($1) AND attname = a.name AND attnum > 0 AND NOT attisdropped)) AS missing";
        let names = outbox_sql::Names::postgres(&self.settings)?;
        let columns: Vec<String> = self.settings.columns().into_iter().map(str::to_owned).collect();
        let query = sqlx::query(SQL)
            .bind(&names.table)
            .bind(&names.outbox)
            .bind(&names.state)
            .bind(outbox_sql::ROW_TRIGGER)
            .bind(outbox_sql::TRUNCATE_TRIGGER)
            .bind(columns);
        let failed = |error| trouble(&self.source, error);
        let row = self.listener.fetch_one(query).await.map_err(failed)?;
        let flag = |name| row.try_get::<bool, _>(name).map_err(failed);
        let text = |name| row.try_get::<Option<String>, _>(name).map_err(failed);
        let table = &self.settings.table;
        if !flag("has_table")? {
            return Err(Trouble::Wrong("table", format!("there is no table {table} in this database")));
        }
        if let Some(missing) = text("missing")? {
            return Err(Trouble::Wrong("key", format!("the table {table} has no column {missing}")));
        }
        let advice = outbox_sql::advice(&self.settings, "postgres");
        if !flag("has_outbox")? {
            let reason = format!("there is no table {} in this database; {advice}", self.settings.outbox);
            return Err(Trouble::Wrong("outbox", reason));
        }
        let Some(arguments) = text("arguments")?.filter(|_| flag("sees_truncate").unwrap_or(false)) else {
            return Err(Trouble::Wrong("table", format!("{table} has no triggers that write to the outbox; {advice}")));
        };
        // What the trigger writes, each with a NUL behind it, as `encode` shows it.
        let written: Vec<&str> = arguments.split("\\000").filter(|name| !name.is_empty()).collect();
        if let Some(missing) = self.settings.columns().into_iter().find(|column| !written.contains(column)) {
            let reason = format!("the trigger on {table} does not write the column {missing}; {advice}");
            return Err(Trouble::Wrong("key", reason));
        }
        Ok(text("triggers")?.unwrap_or_default())
    }
}

/// What a read tells beside the events. `$1`: the position, `$2`: the table, or NULL for no events. One statement, so one snapshot.
fn read_sql(names: &outbox_sql::Names) -> String {
    let outbox_sql::Names { outbox, state, .. } = names;
    format!(
        "SELECT pg_current_snapshot()::text AS snapshot, s.epoch::text AS epoch, pg_postmaster_start_time()::text AS started, \
         s.purges AS purges, s.purged >= pg_snapshot_xmin($1::text::pg_snapshot) AS has_purged_news, \
         pg_is_in_recovery() AS is_standby, NULL::text AS old_key, NULL::text AS new_key, NULL::int8 AS age_us \
         FROM {state} s UNION ALL \
         SELECT NULL, NULL, NULL, NULL, NULL, NULL, o.old_key::text, o.new_key::text, \
         (extract(epoch FROM clock_timestamp() - o.written_at) * 1000000)::int8 \
         FROM {outbox} o WHERE o.table_name = $2::text AND o.xid >= pg_snapshot_xmin($1::text::pg_snapshot) \
         AND NOT pg_visible_in_snapshot(o.xid, $1::text::pg_snapshot)"
    )
}

struct Head {
    snapshot: String,
    home: Home,
    purges: i64,
    /// Whether a row that the position has not seen may have been deleted, now or earlier.
    has_purged_news: bool,
    is_standby: bool,
}

impl Head {
    /// `None`: the row is an event.
    fn of(row: &PgRow, triggers: &str) -> Result<Option<Self>, sqlx::Error> {
        let Some(snapshot) = row.try_get::<Option<String>, _>("snapshot")? else { return Ok(None) };
        let home =
            Home { epoch: row.try_get("epoch")?, started: row.try_get("started")?, triggers: triggers.to_owned() };
        Ok(Some(Self {
            snapshot,
            home,
            purges: row.try_get("purges")?,
            has_purged_news: row.try_get("has_purged_news")?,
            is_standby: row.try_get("is_standby")?,
        }))
    }
}

fn event(settings: &FeedSettings, row: &PgRow) -> Result<Result<Event, Trouble>, sqlx::Error> {
    let old: Option<&str> = row.try_get("old_key")?;
    let new: Option<&str> = row.try_get("new_key")?;
    let age_us: Option<i64> = row.try_get("age_us")?;
    let age = age_us.map(|us| Duration::from_micros(us.max(0).cast_unsigned()));
    Ok(outbox_change(settings, old, new).map(|change| Event { change, age }))
}

fn trouble(source: &Source, error: sqlx::Error) -> Trouble {
    let reason = source.state.redacted(&error);
    match &error {
        sqlx::Error::Database(database) => match PostgresDialect::fault(database.as_ref()) {
            Fault::Timeout => Trouble::TooSlow("the database ended the query for its time".into()),
            Fault::Refused(reason) => Trouble::Wrong("outbox", reason),
            _ => Trouble::Failed(reason),
        },
        _ => Trouble::Failed(reason),
    }
}
