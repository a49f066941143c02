//! The binary log of MySQL and MariaDB, followed as a replica does.
//!
//! ```text
//! database ── events ─► LogReader ─► groups ─► held until everybody can read them ─► Teller
//!          ◄─ mark: how far the log goes, and how far it can be read
//! ```
//!
//! The server sends a transaction as soon as it is in the log. That is before its changes can be read, by microseconds, or by as long as a
//! semi-synchronous replica is waited for: who made the keys stale at once would have readers load and store what was before. So groups are
//! held until the server says that they can be read ([`Visible`]).
//!
//! Each connection begins at the present end of the log, and what came before is a gap: a server that was restored, or another one that took
//! its place, may have other things under the same names and numbers. The place where to begin is taken before the gap is told.
//!
//! Not here: rows that InnoDB changes by foreign keys, which the log does not have; updates and deletes of their parents make all stale. What a
//! session does with `sql_log_bin = 0` nobody can know.

mod connect;
mod database;
mod log;
mod statement;
mod text;

use super::{FeedSettings, LOOK_AGAIN, Read, Tail, Teller, Trouble};
use crate::source::Source;
use database::{Database, Flavor, Mark, Visible};
use leasehold_loader_api::feed::{Change, Event, Gap};
use log::{LogPosition, LogReader};
use mysql_async::prelude::Queryable;
use mysql_async::{BinlogStream, BinlogStreamRequest, Sid};
use std::hash::{BuildHasher, RandomState};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::task::Poll;
use std::time::{Duration, Instant};

/// How often the server says that it is there when there is nothing to say.
const HEARTBEAT: Duration = Duration::from_secs(1);

/// Silence for so long is a lost connection.
const SILENCE_MAX: Duration = Duration::from_secs(10);

/// Pauses between questions whether what was told can be read already. Mostly the answer is yes, or yes at the first repetition.
const PATIENCE_US: [u64; 5] = [200, 400, 800, 1_600, 3_200];

/// Pause between looks while something is held, or has not arrived yet.
const LOOK_SOON: Duration = Duration::from_millis(10);

/// Events that are taken in one read.
const EVENTS_MAX: usize = 20_000;

/// Numbers of servers that are chosen by chance are from here on: people count from 1.
const SERVER_ID_MIN: u32 = 1 << 31;

pub(crate) struct Binlog {
    source: Source,
    settings: FeedSettings,
    database: Database,
    reader: LogReader,
    /// `None` until the first read.
    stream: Option<BinlogStream>,
    /// When the last event came.
    heard: Instant,
    /// The last answer to how far the log goes.
    marked: LogPosition,
    /// When all is stale once more, because a transaction at the beginning may not have been readable then.
    settles_at: Option<Instant>,
    is_up_to_date: bool,
}

impl Tail for Binlog {
    type Position = ();

    async fn open(source: &Source, settings: &FeedSettings) -> Result<Self, Trouble> {
        let mut database = Database::open(source, settings).await?;
        let layout = database.layout(settings).await?;
        let reader = LogReader::new(&database.schema, &database.table, layout, LogPosition::nowhere());
        Ok(Self {
            source: source.clone(),
            settings: settings.clone(),
            database,
            reader,
            stream: None,
            heard: Instant::now(),
            marked: LogPosition::nowhere(),
            settles_at: None,
            is_up_to_date: false,
        })
    }

    async fn read(&mut self, position: &mut Option<()>, teller: &mut Teller) -> Result<Read, Trouble> {
        if self.stream.is_none() {
            self.begin().await?;
            *position = Some(());
            return Ok(Read::Began);
        }
        self.take_what_is_there().await?;
        if self.reader.layout.is_none() {
            self.reader.layout = Some(self.database.layout(&self.settings).await?);
        }
        let mut pauses = PATIENCE_US.into_iter().map(Duration::from_micros);
        let mark = self.mark().await?;
        let mut is_unreadable = self.release(&mark.visible, teller).await;
        while !self.reader.groups.is_empty()
            && let Some(pause) = pauses.next()
        {
            tokio::time::sleep(pause).await;
            let visible = self.mark().await?.visible;
            is_unreadable |= self.release(&visible, teller).await;
        }
        self.is_up_to_date = self.reader.groups.is_empty() && mark.end.is_within(&self.reader.at);
        if is_unreadable {
            return Ok(Read::Gap(Gap::Unreadable));
        }
        if self.settles_at.is_some_and(|at| at <= Instant::now()) {
            self.settles_at = None;
            return Ok(Read::Gap(Gap::Settled));
        }
        Ok(if self.is_up_to_date { Read::Went } else { Read::Behind })
    }

    async fn wait(&mut self, poll: Option<Duration>) -> Result<(), Trouble> {
        let pause = if self.is_up_to_date { poll.unwrap_or(LOOK_AGAIN) } else { LOOK_SOON };
        let until = tokio::time::Instant::now() + pause;
        let groups = self.reader.groups.len();
        while self.reader.groups.len() == groups && self.reader.layout.is_some() {
            match tokio::time::timeout_at(until, self.next()).await {
                Ok(taken) => taken?,
                Err(_) if self.heard.elapsed() > SILENCE_MAX => {
                    return Err(Trouble::Failed(format!("silence for {} s", SILENCE_MAX.as_secs())));
                }
                Err(_) => return Ok(()),
            }
        }
        Ok(())
    }

    async fn tidy(&mut self) -> Result<(), Trouble> {
        self.database.check_variables(&self.settings).await
    }
}

impl Binlog {
    /// Finds the present end of the log, and has the server send what follows.
    async fn begin(&mut self) -> Result<(), Trouble> {
        let server_id = self.settings.server_id.unwrap_or_else(random_server_id);
        let mut connection = connect::connect(&self.source).await?;
        // What cannot be read yet must still come: so this begins where the log can be read to, not at its end.
        let done = match self.database.flavor {
            Flavor::MySql(_) => Some(self.database.gtids().await?),
            Flavor::MariaDb => None,
        };
        let start = self.mark().await?.end;
        let heartbeat_ns = HEARTBEAT.as_nanos();
        let set = match self.database.flavor {
            // With GTIDs and checkpoints as they are, not as something that old replicas understand.
            Flavor::MariaDb => format!("SET @master_heartbeat_period = {heartbeat_ns}, @mariadb_slave_capability = 4"),
            Flavor::MySql(_) => {
                format!("SET @master_heartbeat_period = {heartbeat_ns}, @source_heartbeat_period = {heartbeat_ns}")
            }
        };
        connection.query_drop(set).await.map_err(|error| self.database.trouble(&error))?;
        let mut request = BinlogStreamRequest::new(server_id);
        let sids: Vec<Sid<'_>>;
        if let Some(done) = &done {
            sids = done
                .parts()
                .map(|part| part.parse())
                .collect::<Result<_, _>>()
                .map_err(|error| Trouble::Failed(format!("{done:?}: {error}")))?;
            request = request.with_gtid().with_gtid_set(sids);
        } else if start.offset > u64::from(u32::MAX) {
            return Err(Trouble::Failed(format!("{} is beyond 4 GiB; the next file can be followed", start.file)));
        } else {
            request = request.with_filename(start.file.as_bytes()).with_pos(start.offset);
            if !self.database.has_transaction_before(&start).await {
                self.settles_at = Some(Instant::now() + self.settings.overlap);
            }
        }
        self.reader.at = start.clone();
        self.reader.knows_checksums = false;
        let stream = connection.get_binlog_stream(request).await.map_err(|error| self.database.trouble(&error))?;
        self.stream = Some(stream);
        // The first event, or an error: whether the server gives its log.
        self.next().await
    }

    /// How far the log goes. It never goes back, unless somebody has it begin anew (RESET MASTER).
    async fn mark(&mut self) -> Result<Mark, Trouble> {
        let mark = self.database.mark().await?;
        if !self.marked.is_within(&mark.end) {
            return Err(Trouble::Failed(format!("the log has begun anew at {}", mark.end.file)));
        }
        self.marked = mark.end.clone();
        Ok(mark)
    }

    /// Takes the next event.
    async fn next(&mut self) -> Result<(), Trouble> {
        std::future::poll_fn(|context| self.poll_next(context)).await
    }

    async fn take_what_is_there(&mut self) -> Result<(), Trouble> {
        for _ in 0..EVENTS_MAX {
            let polled = std::future::poll_fn(|context| Poll::Ready(self.poll_next(context))).await;
            match polled {
                Poll::Ready(taken) => taken?,
                Poll::Pending => break,
            }
        }
        Ok(())
    }

    fn poll_next(&mut self, context: &mut std::task::Context<'_>) -> Poll<Result<(), Trouble>> {
        let Some(stream) = &mut self.stream else {
            return Poll::Ready(Err(Trouble::Failed("the log is not followed".into())));
        };
        let reader = &mut self.reader;
        // The decoder of the driver trusts lengths in events, and panics at some that cannot be.
        let polled = catch_unwind(AssertUnwindSafe(|| {
            let polled = futures_core::Stream::poll_next(Pin::new(&mut *stream), context);
            if let Poll::Ready(Some(Ok(event))) = &polled {
                reader.take(event, |id| stream.get_tme(id));
            }
            polled
        }));
        let ready = match polled {
            Ok(Poll::Pending) => return Poll::Pending,
            Ok(Poll::Ready(Some(Ok(_)))) => {
                self.heard = Instant::now();
                return Poll::Ready(Ok(()));
            }
            Ok(Poll::Ready(Some(Err(error)))) => self.database.trouble(&error),
            Ok(Poll::Ready(None)) => Trouble::Failed("the server has ended the log".into()),
            Err(_) => Trouble::Failed("the log has an event that cannot be decoded".into()),
        };
        Poll::Ready(Err(ready))
    }

    /// Tells the groups that can be read; whether one of them could not be decoded.
    async fn release(&mut self, visible: &Visible, teller: &mut Teller) -> bool {
        let LogReader { groups, checkpoint, .. } = &mut self.reader;
        let count = match visible {
            // Transactions become visible in the order of the log.
            Visible::To(mark) => {
                let is_visible = |end: &LogPosition| {
                    if end.file == mark.file { end.offset <= mark.offset } else { end.is_in_file_before(checkpoint) }
                };
                groups.iter().rposition(|group| is_visible(&group.end)).map_or(0, |last| last + 1)
            }
            Visible::Gtids(done) => {
                let is_done = |(name, number): &(String, u64)| done.contains(name, *number);
                groups.iter().take_while(|group| group.gtid.as_ref().is_some_and(is_done)).count()
            }
        };
        let mut is_unreadable = false;
        for group in groups.drain(..count) {
            let age = Some(group.arrived.elapsed());
            is_unreadable |= group.is_unreadable;
            if group.is_all && !group.is_unreadable {
                teller.event(Event { change: Change::All, age }).await;
            }
            for change in group.changes {
                teller.event(Event { change, age }).await;
            }
        }
        is_unreadable
    }
}

fn random_server_id() -> u32 {
    let random = RandomState::new().hash_one(0_u8);
    SERVER_ID_MIN | (random as u32)
}
