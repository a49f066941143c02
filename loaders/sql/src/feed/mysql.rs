//! The outbox of MySQL and MariaDB, looked at again and again.
//!
//! Numbers of rows are no order of commits, and nothing tells which transactions are open to a user without privileges. So each look goes
//! back to the number that was the largest one overlap ago ([`Overlap`]): a transaction that commits at most so long after it wrote its row
//! is seen. As nobody knows what happened while a connection was lost, a new one is a gap; transactions that are open then are seen all the
//! same, as the first look goes back further.
//!
//! A trigger on the outbox keeps the largest number that was deleted; TRUNCATE, which runs no trigger, shows as numbers that go back.

use super::overlap::Overlap;
use super::polled::{Asker, Texts};
use super::{FeedSettings, Read, Tail, Teller, Trouble, outbox_change, outbox_sql};
use crate::source::Source;
use leasehold_loader_api::feed::{Event, Gap};
use std::time::{Duration, Instant};

/// Time between two looks, if nobody says otherwise.
const LOOK: Duration = Duration::from_millis(100);

/// More rows than this in one look: there are too many to be told one by one.
const ROWS_MAX: usize = 100_000;

/// The first look goes back two overlaps, and when it is time to go on there are three: that must not be too many.
const ROWS_MAX_AT_FIRST: usize = ROWS_MAX / 4;

pub(crate) struct Outbox {
    asker: Asker,
    settings: FeedSettings,
    names: outbox_sql::Names,
    /// Whether the position is still that of another connection.
    is_new: bool,
    may_purge: bool,
}

pub(crate) struct Position {
    looks: Overlap,
    head: Head,
    began: Instant,
    is_settled: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Head {
    epoch: String,
    /// The largest number that was deleted, and the largest that is there.
    purged: u64,
    last: u64,
}

impl Tail for Outbox {
    type Position = Position;

    async fn open(source: &Source, settings: &FeedSettings) -> Result<Self, Trouble> {
        let names = outbox_sql::Names::mysql(settings)?;
        let asker = Asker::open(source).await?;
        let may_purge = !settings.retention.is_zero();
        let mut tail = Self { asker, settings: settings.clone(), names, is_new: true, may_purge };
        tail.check().await?;
        Ok(tail)
    }

    async fn read(&mut self, position: &mut Option<Position>, teller: &mut Teller) -> Result<Read, Trouble> {
        let before = self.head().await?;
        let now = Instant::now();
        if std::mem::take(&mut self.is_new) {
            *position = None;
        }
        let Some(at) = position else {
            *position = Some(self.begin(now, before).await?);
            return Ok(Read::Began);
        };
        let from: u64 = at.looks.from().as_deref().and_then(|from| from.parse().ok()).unwrap_or(0);
        let rows = self.rows_from(from).await?;
        let has_too_many = rows.len() > ROWS_MAX;
        for row in rows {
            let [id, old, new, age_us] = row.try_into().unwrap_or_default();
            if at.looks.is_news(vec![id], String::new()) {
                let age = age_us.and_then(|us| us.parse().ok()).map(Duration::from_micros);
                let change = outbox_change(&self.settings, old.as_deref(), new.as_deref())?;
                teller.event(Event { change, age }).await;
            }
        }
        // Again, after the rows: what was deleted before they were read is seen here.
        let after = self.head().await?;
        let gap = if after.epoch != at.head.epoch {
            Some(Gap::Restarted)
        } else if has_too_many
            || (after.purged != at.head.purged && after.purged > from)
            || after.last.max(after.purged) < at.head.last
        {
            Some(Gap::Purged)
        } else {
            None
        };
        if let Some(gap) = gap {
            *position = Some(self.begin(now, after).await?);
            return Ok(Read::Gap(gap));
        }
        at.looks.end_look(now, Some(before.last.max(at.head.last).to_string()));
        at.head = Head { last: before.last.max(at.head.last), ..after };
        if !at.is_settled && at.began.elapsed() >= self.settings.overlap {
            at.is_settled = true;
            return Ok(Read::Gap(Gap::Settled));
        }
        Ok(Read::Went)
    }

    async fn wait(&mut self, poll: Option<Duration>) -> Result<(), Trouble> {
        tokio::time::sleep(poll.unwrap_or(LOOK)).await;
        Ok(())
    }

    async fn tidy(&mut self) -> Result<(), Trouble> {
        self.check().await?;
        if self.may_purge {
            let retention_s = self.settings.retention.as_secs();
            let sql = format!(
                "DELETE FROM {} WHERE written_at < UTC_TIMESTAMP(6) - INTERVAL {retention_s} SECOND ORDER BY written_at LIMIT 10000",
                self.names.outbox
            );
            match self.asker.ask("outbox", &sql, &[]).await {
                Ok(_) => {}
                // Not being allowed to is no trouble of the feed's: others may clean up.
                Err(Trouble::Wrong(_, reason)) => {
                    self.may_purge = false;
                    let feed = &self.settings.name;
                    tracing::warn!(feed, reason, "the feed cannot delete old rows of the outbox, and leaves it");
                }
                Err(trouble) => return Err(trouble),
            }
        }
        Ok(())
    }
}

impl Outbox {
    /// Where looks go on from after a gap: it covers what is there now, and what is not there yet is seen when it commits.
    ///
    /// A row carries the time at which its statement began, and gets its number before that ends: the numbers of a transaction that is open
    /// now are larger than those of all rows of two overlaps ago. Where that is too much to read, or rows are deleted so soon, looks go on
    /// from the largest number, and one overlap later all is stale once more ([`Gap::Settled`]).
    async fn begin(&mut self, now: Instant, head: Head) -> Result<Position, Trouble> {
        let FeedSettings { overlap, retention, .. } = self.settings;
        if retention.is_zero() || retention >= overlap * 3 {
            let sql = format!(
                "SELECT CAST(id AS CHAR) FROM {} WHERE written_at < UTC_TIMESTAMP(6) - INTERVAL {} MICROSECOND \
                 ORDER BY written_at DESC, id DESC LIMIT 1",
                self.names.outbox,
                (overlap * 2).as_micros()
            );
            let found = self.asker.ask("outbox", &sql, &[]).await?.into_iter().flatten().flatten().next();
            let from = found.and_then(|id| id.parse().ok()).unwrap_or(0);
            let rows = self.rows_from(from).await?;
            if rows.len() <= ROWS_MAX_AT_FIRST {
                let mut looks = Overlap::new(overlap, now, Some(from.to_string()));
                for row in rows {
                    looks.is_news(row.into_iter().take(1).collect(), String::new());
                }
                return Ok(Position { looks, head, began: now, is_settled: true });
            }
        }
        let looks = Overlap::new(overlap, now, Some(head.last.to_string()));
        Ok(Position { looks, head, began: now, is_settled: false })
    }

    /// The rows of the table from a number on: number, keys before and after, and age in microseconds.
    async fn rows_from(&mut self, from: u64) -> Result<Vec<Texts>, Trouble> {
        let sql = format!(
            "SELECT CAST(o.id AS CHAR), CAST(o.old_key AS CHAR), CAST(o.new_key AS CHAR), \
             CAST(TIMESTAMPDIFF(MICROSECOND, o.written_at, UTC_TIMESTAMP(6)) AS CHAR) FROM {} o \
             WHERE o.id >= {from} AND o.table_name = $1 LIMIT {}",
            self.names.outbox,
            ROWS_MAX + 1
        );
        self.asker.ask("outbox", &sql, &[Some(&self.settings.table)]).await
    }

    async fn head(&mut self) -> Result<Head, Trouble> {
        let outbox_sql::Names { outbox, state, .. } = &self.names;
        let sql = format!(
            "SELECT s.epoch, CAST(s.purged AS CHAR), CAST(coalesce((SELECT max(id) FROM {outbox}), 0) AS CHAR) FROM {state} s"
        );
        let row = self.asker.ask("outbox", &sql, &[]).await?.into_iter().next();
        let row = row.ok_or_else(|| Trouble::Wrong("outbox", "its state table is empty; make it anew".into()))?;
        let [epoch, purged, last] = row.try_into().unwrap_or_default();
        let number = |text: Option<String>| text.and_then(|text| text.parse().ok()).unwrap_or(0);
        Ok(Head { epoch: epoch.unwrap_or_default(), purged: number(purged), last: number(last) })
    }

    async fn check(&mut self) -> Result<(), Trouble> {
        let outbox_sql::Names { table, outbox, state, .. } = &self.names;
        let advice = outbox_sql::advice(&self.settings, "mysql");
        self.asker.ask("table", &format!("SELECT NULL FROM {table} LIMIT 0"), &[]).await?;
        for name in [outbox, state] {
            let looked = self.asker.ask("outbox", &format!("SELECT NULL FROM {name} LIMIT 0"), &[]).await;
            looked.map_err(|trouble| match trouble {
                Trouble::Wrong(option, reason) => Trouble::Wrong(option, format!("{reason}; {advice}")),
                other => other,
            })?;
        }
        let named = &self.settings.table;
        let (schema, name) = match named.split_once('.') {
            Some((schema, name)) => (outbox_sql::literal(schema), name),
            None => ("database()".to_owned(), named.as_str()),
        };
        let sql = format!(
            "SELECT CAST(action_statement AS CHAR) FROM information_schema.triggers WHERE event_object_schema = {schema} \
             AND event_object_table = $1 AND trigger_name LIKE '{}%'",
            outbox_sql::ROW_TRIGGER
        );
        let triggers = self.asker.ask("table", &sql, &[Some(name)]).await?;
        if triggers.len() != outbox_sql::MYSQL_TRIGGERS {
            let reason =
                format!("{named} has no triggers that write to the outbox, or this user may not see them; {advice}");
            return Err(Trouble::Wrong("table", reason));
        }
        let writes = |column: &str| {
            let column = outbox_sql::literal(column);
            triggers.iter().flatten().flatten().all(|statement| statement.contains(&column))
        };
        match self.settings.columns().into_iter().find(|column| !writes(column)) {
            Some(missing) => {
                let reason = format!("the triggers on {named} do not write the column {missing}; {advice}");
                Err(Trouble::Wrong("key", reason))
            }
            None => Ok(()),
        }
    }
}
