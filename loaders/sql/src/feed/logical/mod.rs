//! The log of PostgreSQL, read by logical replication: a temporary slot with `pgoutput`, and a publication that the operator has made.
//!
//! ```text
//! open ─► slot ─► Gap: all is stale ─► stream: Begin … Commit ─► seen by a snapshot? ─► told
//!          └ from here on nothing is missed      └ keepalives: up to where all was sent
//! ```
//!
//! Beside the stream there is a connection that looks at the database: what readers see by now ([`snapshot`]), whether the publication is
//! what it was ([`setup`]), and where the log ends. Only when the stream has come as far as the log was at a look, and what was sent is
//! seen and told, all that was committed before that look has been told.
//!
//! The slot is temporary: it goes with its connection, and no log piles up for a cache that is away. So each new connection is a gap.
//!
//! Where the slot begins, transactions that were under way are either sent or seen by whoever reads after the gap, but for those whose
//! commit is in the log already and that readers do not see yet. When all that were under way at the beginning have ended, all is
//! stale once more ([`Gap::Settled`]).

mod pgoutput;
mod scram;
mod setup;
mod snapshot;
mod transactions;
mod wire;

use super::{FeedSettings, LOOK_AGAIN, Read, Tail, Teller, Trouble};
use crate::source::{AnyPool, Source};
use leasehold_loader_api::feed::{Change, Event, Gap, Notice};
use pgoutput::decode;
use setup::{Look, Setup};
use snapshot::Snapshot;
use sqlx::postgres::PgConnection;
use sqlx::{AssertSqlSafe, ConnectOptions, Executor, Row};
use std::collections::{HashSet, VecDeque};
use std::time::{Duration, Instant};
use tokio::time::timeout;
use transactions::{Step, Transaction, Transactions};
use wire::{EPOCH_US, Streamed, Wire, WireError};

/// A stream that does not answer for so long has nobody at its other end.
const SILENCE_MAX: Duration = Duration::from_secs(10);

/// How long one read waits for the slot.
const SLOT_LOOK: Duration = Duration::from_millis(200);

/// Changes that one read tells; then what has come is told before more is taken.
const CHANGES_PER_READ: usize = 50_000;

/// How long one read takes what comes.
const TAKING_MAX: Duration = Duration::from_millis(50);

/// Looks at a transaction that is not visible yet: the first at once one after the other, as it mostly is a matter of microseconds, then
/// with a pause between two. With synchronous replication it may take long: then the next read looks again.
const LOOKS_MAX: usize = 8;
const LOOKS_AT_ONCE: usize = 4;
const LOOK_PAUSE: Duration = Duration::from_millis(1);

pub(crate) struct Logical {
    source: Source,
    settings: FeedSettings,
    setup: Setup,
    /// Looks at the database.
    connection: PgConnection,
    wire: Wire,
    phase: Phase,
    home: String,
    shape: String,
    transactions: Transactions,
    /// Committed, and not told yet; the oldest first.
    ready: VecDeque<Transaction>,
    /// All up to here has come.
    reached: u64,
    /// A look, and the end of the log then: where the stream must come to.
    target: Option<(Instant, u64)>,
    looked: Instant,
    heard: Instant,
    /// Of the transactions that were under way at the beginning, those that had not ended.
    unsettled: Vec<u32>,
}

/// How far the slot is.
enum Phase {
    /// It is being made: PostgreSQL waits for the transactions that are under way.
    Creating {
        slot: String,
        told: Instant,
    },
    Streaming,
}

pub(crate) struct Position {
    /// When the server was started.
    started: String,
}

impl Tail for Logical {
    type Position = Position;

    async fn open(source: &Source, settings: &FeedSettings) -> Result<Self, Trouble> {
        let AnyPool::Postgres(pool) = &source.pool else { unreachable!("asked of PostgreSQL only") };
        let options = pool.connect_options();
        let limit = source.state.settings.acquire_timeout;
        let late = |_| Trouble::Failed(format!("no connection within {} ms", limit.as_millis()));
        let connected = timeout(limit, options.connect()).await.map_err(late)?;
        let mut connection = connected.map_err(|error| setup::trouble(source, error))?;
        let setup = setup::check(source, &mut connection, settings).await?;
        let wire = timeout(limit, Wire::connect(source, &options)).await.map_err(late)?;
        let now = Instant::now();
        let mut tail = Self {
            source: source.clone(),
            settings: settings.clone(),
            connection,
            wire: wire.map_err(|error| wire_trouble(&error))?,
            phase: Phase::Streaming,
            home: String::new(),
            shape: String::new(),
            transactions: Transactions::new(Vec::new(), HashSet::new()),
            setup,
            ready: VecDeque::new(),
            reached: 0,
            target: None,
            looked: now,
            heard: now,
            unsettled: Vec::new(),
        };
        let look = tail.look().await?;
        (tail.home, tail.shape) = (look.home, look.shape);
        tail.transactions = Transactions::new(tail.setup.key.clone(), setup::tables(&tail.shape));
        tail.check_same_server().await?;
        Ok(tail)
    }

    async fn read(&mut self, position: &mut Option<Position>, teller: &mut Teller) -> Result<Read, Trouble> {
        if let Phase::Creating { .. } = self.phase {
            return self.go_on_creating(position, teller).await;
        }
        if self.reached == 0 {
            return self.create(position, teller).await;
        }
        self.take_what_came().await?;
        let asked = Instant::now();
        if self.looked.elapsed() >= self.every() {
            self.looked = asked;
            let look = self.look().await?;
            if look.home != self.home {
                return Err(Trouble::Failed("the publication or the table was changed".into()));
            }
            if look.shape != self.shape {
                self.shape.clone_from(&look.shape);
                teller.event(Event { change: Change::All, age: None }).await;
            }
            if self.target.is_none() {
                self.target = Some((asked, look.head));
            }
            self.wire.confirm(self.reached, true).await.map_err(|error| wire_trouble(&error))?;
            if self.tell_what_is_seen(&look, teller).await? {
                return Ok(Read::Gap(Gap::Settled));
            }
        }
        for look in 0..LOOKS_MAX {
            if self.ready.is_empty() {
                break;
            }
            if look >= LOOKS_AT_ONCE {
                tokio::time::sleep(LOOK_PAUSE).await;
            }
            let look = self.short_look().await?;
            if self.tell_what_is_seen(&look, teller).await? {
                return Ok(Read::Gap(Gap::Settled));
            }
        }
        Ok(match self.target.take_if(|(_, end)| *end <= self.reached) {
            Some((at, _)) => Read::Reached(at),
            None => Read::Behind,
        })
    }

    async fn wait(&mut self, _: Option<Duration>) -> Result<(), Trouble> {
        if let Phase::Creating { .. } = self.phase {
            return Ok(());
        }
        // Each whole look has asked for an answer.
        if self.target.is_some_and(|(asked, _)| self.heard.max(asked).elapsed() > SILENCE_MAX) {
            return Err(Trouble::Failed(format!("the stream was silent for {} s", SILENCE_MAX.as_secs())));
        }
        let until = tokio::time::Instant::from_std(self.looked + self.every());
        // What is not visible yet will be soon.
        if !self.ready.is_empty() {
            tokio::time::sleep(LOOK_PAUSE).await;
            return Ok(());
        }
        while self.ready.is_empty() && self.target.is_none_or(|(_, end)| end > self.reached) {
            match tokio::time::timeout_at(until, self.wire.streamed()).await {
                Ok(streamed) => self.take(streamed).await?,
                Err(_) => return Ok(()),
            }
        }
        Ok(())
    }
}

impl Logical {
    /// Time between two whole looks.
    fn every(&self) -> Duration {
        self.settings.poll.unwrap_or(LOOK_AGAIN)
    }

    async fn look(&mut self) -> Result<Look, Trouble> {
        let failed = |error| setup::trouble(&self.source, error);
        // Checked before: the same text.
        let table =
            super::outbox_sql::quoted(&self.settings.table).map_err(|reason| Trouble::Wrong("table", reason))?;
        let sql = AssertSqlSafe(self.setup.look_sql.clone());
        let query = sqlx::query(sql).bind(table).bind(&self.settings.publication);
        let asked = Instant::now();
        let row = self.connection.fetch_one(query).await.map_err(failed)?;
        Look::of(&row, asked).map_err(failed)
    }

    async fn short_look(&mut self) -> Result<Look, Trouble> {
        let failed = |error| setup::trouble(&self.source, error);
        let asked = Instant::now();
        let row = self.connection.fetch_one(sqlx::query(setup::SHORT_LOOK)).await.map_err(failed)?;
        Look::short(&row, asked).map_err(failed)
    }

    /// The two connections may go through something that spreads them over servers.
    async fn check_same_server(&mut self) -> Result<(), Trouble> {
        let limit = self.source.state.settings.statement_timeout;
        let ask = async {
            self.wire.ask(setup::STARTED).await?;
            self.wire.answer().await
        };
        let late = |_| Trouble::Failed("no answer on the replication connection".into());
        let row = timeout(limit, ask).await.map_err(late)?.map_err(|error| wire_trouble(&error))?;
        if row.first() == Some(&Some(self.setup.started.clone())) {
            return Ok(());
        }
        Err(Trouble::Failed(
            "the replication connection leads to another server than the others, or the server was restarted".into(),
        ))
    }

    /// Begins to make the slot.
    async fn create(&mut self, position: &mut Option<Position>, teller: &mut Teller) -> Result<Read, Trouble> {
        let number = u64::from_be_bytes(scram::random().map_err(Trouble::Failed)?);
        let slot = format!("leasehold_{number:016x}");
        let command = format!("CREATE_REPLICATION_SLOT {slot} TEMPORARY LOGICAL pgoutput NOEXPORT_SNAPSHOT");
        self.wire.ask(&command).await.map_err(|error| wire_trouble(&error))?;
        self.phase = Phase::Creating { slot, told: Instant::now() };
        self.go_on_creating(position, teller).await
    }

    /// Waits for the slot for a while, begins the stream when it is there, and tells that all may have changed.
    async fn go_on_creating(&mut self, position: &mut Option<Position>, teller: &mut Teller) -> Result<Read, Trouble> {
        let Phase::Creating { slot, told } = &mut self.phase else { return Ok(Read::Behind) };
        let wire_failed = |error: WireError| wire_trouble(&error);
        let Ok(answer) = timeout(SLOT_LOOK, self.wire.answer()).await else {
            if told.elapsed() >= LOOK_AGAIN {
                *told = Instant::now();
                let reason = "the slot waits for transactions that are open in the database".to_owned();
                // Whoever reads on finds out soon enough that nobody listens.
                let _ = teller.tell(Notice::Trouble(reason)).await;
                // Whether the database is there at all, this connection tells.
                self.short_look().await?;
            }
            return Ok(Read::Behind);
        };
        let row = answer.map_err(wire_failed)?;
        let start = row.get(1).cloned().flatten().and_then(|text| position_of(&text));
        let start = start.ok_or_else(|| Trouble::Failed("the database has made no slot".into()))?;
        let command = format!(
            "START_REPLICATION SLOT {slot} LOGICAL 0/0 (proto_version '1', publication_names '{}')",
            self.setup.publication
        );
        self.wire.begin_stream(&command).await.map_err(wire_failed)?;
        self.phase = Phase::Streaming;
        self.reached = start;
        // After the slot: whoever is not under way now has ended for all who read from now on.
        self.unsettled = self.under_way().await?;
        let look = self.look().await?;
        if look.home != self.home {
            return Err(Trouble::Failed("the publication or the table was changed".into()));
        }
        self.shape = look.shape;
        (self.looked, self.heard) = (Instant::now(), Instant::now());
        let before = position.replace(Position { started: self.setup.started.clone() });
        Ok(match before {
            None => Read::Began,
            Some(before) if before.started != self.setup.started => Read::Gap(Gap::Restarted),
            Some(_) => Read::Gap(Gap::PositionLost),
        })
    }

    /// The transactions that have not ended: each holds a lock on its number until readers see what it did.
    async fn under_way(&mut self) -> Result<Vec<u32>, Trouble> {
        const SQL: &str = "SELECT (transactionid::text)::int8 AS number FROM pg_locks \
            WHERE locktype = 'transactionid' AND mode = 'ExclusiveLock' AND granted";
        let failed = |error| setup::trouble(&self.source, error);
        let rows = self.connection.fetch_all(SQL).await.map_err(failed)?;
        let number = |row: &sqlx::postgres::PgRow| row.try_get::<i64, _>("number").map(|number| number as u32);
        rows.iter().map(number).collect::<Result<_, _>>().map_err(failed)
    }

    /// Takes what the stream has brought, without waiting for more.
    async fn take_what_came(&mut self) -> Result<(), Trouble> {
        let begun = Instant::now();
        let mut changes = 0;
        while begun.elapsed() < TAKING_MAX && changes < CHANGES_PER_READ {
            let Ok(streamed) = timeout(Duration::ZERO, self.wire.streamed()).await else { break };
            let before = self.ready.len();
            self.take(streamed).await?;
            changes += self.ready.iter().skip(before).map(|ended| ended.changes.len()).sum::<usize>();
        }
        Ok(())
    }

    async fn take(&mut self, streamed: Result<Streamed, WireError>) -> Result<(), Trouble> {
        let wire_failed = |error: WireError| wire_trouble(&error);
        self.heard = Instant::now();
        match streamed.map_err(wire_failed)? {
            Streamed::Alive { end, wants_reply } => {
                self.reached = self.reached.max(end);
                if wants_reply {
                    self.wire.confirm(self.reached, false).await.map_err(wire_failed)?;
                }
            }
            Streamed::Change(bytes) => {
                let step = decode(&bytes).and_then(|message| self.transactions.take(message));
                match step.map_err(|error| Trouble::Failed(error.to_string()))? {
                    Step::Within => {}
                    Step::Ended(ended, end) => {
                        self.ready.extend(ended);
                        self.reached = self.reached.max(end);
                    }
                }
            }
        }
        Ok(())
    }

    /// Tells the transactions that readers see. Whether those of the beginning have all ended by now, for the first time.
    async fn tell_what_is_seen(&mut self, look: &Look, teller: &mut Teller) -> Result<bool, Trouble> {
        let snapshot = Snapshot::parse(&look.snapshot)
            .ok_or_else(|| Trouble::Failed(format!("{:?} is no snapshot", look.snapshot)))?;
        for ended in std::mem::take(&mut self.ready) {
            if !snapshot.has_ended(ended.number) {
                self.ready.push_back(ended);
                continue;
            }
            let age_us = look.now_us - (ended.committed_us + EPOCH_US);
            // With the way of the answer: no reader shall find the lag to be more than is told.
            let age = Some(Duration::from_micros(age_us.max(0).cast_unsigned()) + look.asked.elapsed());
            for change in ended.changes {
                teller.event(Event { change, age }).await;
            }
        }
        if self.unsettled.is_empty() {
            return Ok(false);
        }
        self.unsettled.retain(|number| !snapshot.has_ended(*number));
        Ok(self.unsettled.is_empty())
    }
}

/// A position in the log, as PostgreSQL writes it.
fn position_of(text: &str) -> Option<u64> {
    let (high, low) = text.split_once('/')?;
    Some(u64::from(u32::from_str_radix(high, 16).ok()?) << 32 | u64::from(u32::from_str_radix(low, 16).ok()?))
}

fn wire_trouble(error: &WireError) -> Trouble {
    let reason = error.to_string();
    match error {
        WireError::Refused { code, .. } => match code.as_str() {
            // No right to replicate.
            "42501" => Trouble::Wrong("source", reason),
            // The publication is gone.
            "42704" => Trouble::Wrong("publication", reason),
            // No slot or sender is free, the server goes away, and the like.
            _ => Trouble::Failed(reason),
        },
        WireError::Lost(_) | WireError::Login(_) | WireError::Protocol(_) => Trouble::Failed(reason),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_are_read() {
        assert_eq!(position_of("16/B374D848"), Some(0x16_B374_D848));
        for text in ["", "16", "x/1", "1/100000000"] {
            assert_eq!(position_of(text), None, "{text}");
        }
    }
}
