//! Runs the loads of one loader on one kind of database.
//!
//! ```text
//! keys → checked? → values of the placeholders → one query → rows → the key each row names → one answer per key
//! ```
//!
//! A row counts only for the key whose values its key columns hold, byte for byte; all others are ignored. A connection that was
//! lost, or whose statement no longer fits the schema, costs one more try. A batch that the database refuses for a value in it is
//! halved until the bad keys stand alone.

use crate::columns::Problem;
use crate::dialect::{self, CheckError, Connection, DatabaseRow, Dialect, Fault, Query, Refit, Role, Rows};
use crate::pool::{self, SourceState};
use crate::replica::Replicas;
use crate::rows::RowList;
use crate::settings::{LoaderSettings, RowsPerKey};
use crate::template::{Template, Values};
use bytes::Bytes;
use leasehold_loader_api::{KeyList, LoadError, Loaded, Row};
use sqlx::pool::PoolConnection;
use sqlx::{Either, Pool};
use std::collections::HashMap;
use std::future::poll_fn;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

/// What the client waits beyond the statement timeout for the database to end the statement itself. After that the connection
/// is given up: the server, or the network to it, is gone.
pub(crate) const GRACE: Duration = Duration::from_millis(500);

/// A wrong loader is checked again after this long, because somebody may have mended the schema.
const RECHECK_AFTER: Duration = Duration::from_secs(5);

/// Rows beyond this, per key asked for, end the query: it does not select by key.
const ROWS_PER_KEY_MAX: usize = 100;

/// Most queries that a refused batch is split into, as far as the time of one statement goes. The keys left then can be asked for
/// again.
const SPLIT_QUERIES_MAX: usize = 64;

/// Counts of what happened beside plain success, since the start.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) alias_rows: AtomicU64,
    pub(crate) retries: AtomicU64,
    pub(crate) split_batches: AtomicU64,
    /// Queries that a replica has answered.
    pub(crate) replica_queries: AtomicU64,
}

pub(crate) struct Engine<D: Dialect> {
    pool: Pool<D::Database>,
    pub(crate) source: Arc<SourceState>,
    pub(crate) replicas: Option<Arc<Replicas<D>>>,
    settings: LoaderSettings,
    template: Template,
    sql: Arc<str>,
    batch_sql: Option<Arc<str>>,
    state: RwLock<State<D>>,
    /// Held by the one task that checks.
    checking: tokio::sync::Mutex<()>,
    pub(crate) counters: Counters,
}

/// What is known about the queries.
enum State<D: Dialect> {
    /// The database has not answered yet; `at` is when it was last asked.
    Unchecked {
        reason: String,
        at: Instant,
    },
    Checked(Arc<Checked<D>>),
    Wrong {
        reason: String,
        at: Instant,
    },
}

/// The queries, checked.
struct Checked<D: Dialect> {
    single: Arc<D::Statement>,
    batch: Option<Arc<D::Statement>>,
}

/// A key that fits the pattern.
#[derive(Clone, Copy)]
struct Key<'k> {
    text: &'k [u8],
    values: Values<'k>,
}

impl<D: Dialect> Engine<D> {
    /// An engine that has checked its queries, or could not reach the database to do so.
    ///
    /// # Errors
    /// A query is wrong.
    pub(crate) async fn start(
        pool: Pool<D::Database>,
        source: Arc<SourceState>,
        replicas: Option<Arc<Replicas<D>>>,
        settings: LoaderSettings,
        template: Template,
    ) -> Result<Self, Problem> {
        let engine = Self {
            pool,
            source,
            replicas,
            sql: settings.sql.as_str().into(),
            batch_sql: settings.batch_sql.as_deref().map(Into::into),
            settings,
            template,
            state: RwLock::new(State::Unchecked { reason: "not asked yet".into(), at: Instant::now() }),
            checking: tokio::sync::Mutex::new(()),
            counters: Counters::default(),
        };
        match engine.check().await {
            Ok(checked) => engine.become_state(State::Checked(checked)),
            Err(Ok(problem)) => return Err(problem),
            Err(Err(reason)) => engine.become_state(State::Unchecked { reason, at: Instant::now() }),
        }
        Ok(engine)
    }

    pub(crate) fn template(&self) -> &Template {
        &self.template
    }

    pub(crate) fn health(&self) -> Result<(), String> {
        match &*self.state.read().unwrap_or_else(PoisonError::into_inner) {
            State::Checked(_) => self.source.health(),
            State::Unchecked { reason, .. } => Err(format!("not checked yet: {reason}")),
            State::Wrong { reason, .. } => Err(reason.clone()),
        }
    }

    /// The bound parameters of a key as text, or its values while the database has not told the types.
    pub(crate) fn explain(&self, values: &Values<'_>) -> Vec<String> {
        match &*self.state.read().unwrap_or_else(PoisonError::into_inner) {
            State::Checked(checked) => D::explain(&checked.single, values),
            _ => values.texts().iter().map(|text| String::from_utf8_lossy(text).into_owned()).collect(),
        }
    }

    /// One answer per key, in order.
    pub(crate) async fn load(&self, keys: &[Bytes]) -> Vec<Loaded> {
        let checked = match self.ready().await {
            Ok(checked) => checked,
            Err(error) => return keys.iter().map(|_| Err(error.clone())).collect(),
        };
        let mut answers: Vec<Loaded> = keys.iter().map(|_| Ok(Row::Absent)).collect();
        let mut askable = Vec::new();
        for (place, key) in keys.iter().enumerate() {
            match self.template.values(key) {
                Some(values) if D::can_ask(&checked.single, &values) => {
                    askable.push((place, Key { text: key, values }))
                }
                // A number that the column's type cannot hold is in no row.
                Some(_) => {}
                None => answers[place] = Err(LoadError::Rejected("the key does not fit the pattern".into())),
            }
        }
        let (places, keys): (Vec<usize>, Vec<Key<'_>>) = askable.into_iter().unzip();
        let batch_max = self.settings.batch_max.max(1);
        let loaded = match &checked.batch {
            Some(batch) if keys.len() > 1 => {
                let mut loaded = Vec::with_capacity(keys.len());
                for keys in keys.chunks(batch_max) {
                    loaded.extend(self.load_batch(&checked, batch, keys).await);
                }
                loaded
            }
            _ => self.load_each(&checked, &keys).await,
        };
        for (place, answer) in places.into_iter().zip(loaded) {
            answers[place] = answer;
        }
        answers
    }

    /// The keys that a query selects, as far as the list takes them.
    pub(crate) async fn list(&self, sql: &str, mut list: KeyList) -> Result<KeyList, LoadError> {
        let sql: Arc<str> = sql.into();
        let mut connection = self.acquire().await.map_err(|fault| self.load_error(fault))?;
        let timeout = self.source.settings.statement_timeout;
        let gathered = tokio::time::timeout(timeout + GRACE, self.list_on(&mut connection, &sql, &mut list));
        match gathered.await.unwrap_or(Err(Fault::Timeout)) {
            Ok(()) => {
                self.source.answered();
                Ok(list)
            }
            Err(fault) => {
                // A transaction may be open, or the statement at work.
                connection.close_on_drop();
                Err(self.load_error(fault))
            }
        }
    }

    async fn list_on(
        &self,
        connection: &mut PoolConnection<D::Database>,
        sql: &Arc<str>,
        list: &mut KeyList,
    ) -> Result<(), Fault> {
        let connection: &mut Connection<D> = &mut *connection;
        let failed = |error| dialect::fault::<D>(&error);
        let checked = D::check(connection, self.query_of(Role::List, sql)).await;
        let statement = checked.map_err(|error| match error {
            CheckError::Wrong(problem) => Fault::Refused(format!("{} {}", problem.option, problem.reason)),
            CheckError::Failed(error) => failed(error),
        })?;
        D::begin(connection, &statement, self.source.settings.statement_timeout).await.map_err(failed)?;
        let arguments = D::bind(&statement, Role::List, &[]).map_err(Fault::Refused)?;
        let mut rows = D::rows(connection, &statement, arguments);
        let (mut text, mut ends, mut key) = (Vec::new(), Vec::new(), Vec::new());
        let mut is_complete = false;
        while let Some(row) = poll_fn(|context| rows.as_mut().poll_next(context)).await {
            let Either::Right(row) = row.map_err(failed)? else {
                is_complete = true;
                continue;
            };
            let fields = D::fields(&statement, &row);
            let texts = D::columns(&statement).key_texts(&fields, &mut text, &mut ends);
            let starts = std::iter::once(&0).chain(&ends);
            let texts = texts.map(|()| starts.zip(&ends).map(|(start, end)| &text[*start..*end]));
            let is_key =
                texts.is_some_and(|texts| self.template.render(texts, &mut key)) && self.template.matches(&key);
            if !is_key {
                list.bad_rows += 1;
            } else if !list.push(&key) {
                return Err(Fault::Refused(format!("the query selects more keys than may be warmed: {}", list.len())));
            }
        }
        drop(rows);
        if !is_complete {
            return Err(Fault::Broken("the rows ended before the statement did".into()));
        }
        D::end(connection, &statement).await.map_err(failed)
    }

    async fn load_each(&self, checked: &Checked<D>, keys: &[Key<'_>]) -> Vec<Loaded> {
        let mut answers = Vec::with_capacity(keys.len());
        for key in keys {
            answers.push(self.load_one(checked, *key).await);
        }
        answers
    }

    async fn load_one(&self, checked: &Checked<D>, key: Key<'_>) -> Loaded {
        match self.query(&checked.single, Role::Single, &[key]).await {
            Ok(mut answers) => answers.pop().unwrap_or(Ok(Row::Absent)),
            Err(fault) => Err(self.load_error(fault)),
        }
    }

    async fn load_batch(&self, checked: &Checked<D>, batch: &Arc<D::Statement>, keys: &[Key<'_>]) -> Vec<Loaded> {
        match self.query(batch, Role::Batch, keys).await {
            Ok(answers) => answers,
            Err(Fault::BadValue(reason)) if keys.len() > 1 => self.split(checked, batch, keys, reason).await,
            Err(fault) => {
                let error = self.load_error(fault);
                keys.iter().map(|_| Err(error.clone())).collect()
            }
        }
    }

    /// Asks in halves for keys that were refused together, until the bad ones stand alone or too much was asked.
    async fn split(
        &self,
        checked: &Checked<D>,
        batch: &Arc<D::Statement>,
        keys: &[Key<'_>],
        reason: String,
    ) -> Vec<Loaded> {
        self.counters.split_batches.fetch_add(1, Ordering::Relaxed);
        let deadline = Instant::now() + self.source.settings.statement_timeout;
        // Of those that are not asked for again, most may be good.
        let not_asked = LoadError::Unavailable(format!("in one batch with a value that was refused: {reason}"));
        let mut answers: Vec<Loaded> = keys.iter().map(|_| Err(not_asked.clone())).collect();
        let mut pending: Vec<Range<usize>> = Vec::new();
        let halves = |range: Range<usize>| {
            let middle = range.start.midpoint(range.end);
            [middle..range.end, range.start..middle]
        };
        pending.extend(halves(0..keys.len()));
        for _ in 0..SPLIT_QUERIES_MAX {
            let Some(range) = pending.pop_if(|_| Instant::now() < deadline) else { break };
            let part = &keys[range.clone()];
            if let [key] = part {
                answers[range.start] = self.load_one(checked, *key).await;
                continue;
            }
            match self.query(batch, Role::Batch, part).await {
                Ok(loaded) => loaded.into_iter().zip(range).for_each(|(answer, place)| answers[place] = answer),
                Err(Fault::BadValue(_)) => pending.extend(halves(range)),
                Err(fault) => {
                    // Not the values: nothing is gained by asking on.
                    let error = self.load_error(fault);
                    for place in pending.drain(..).flatten().chain(range) {
                        answers[place] = Err(error.clone());
                    }
                }
            }
        }
        answers
    }

    /// One query, with one more try after a lost connection and one after a change of the schema.
    async fn query(&self, statement: &Arc<D::Statement>, role: Role, keys: &[Key<'_>]) -> Result<Vec<Loaded>, Fault> {
        let values: Vec<Values<'_>> = keys.iter().map(|key| key.values).collect();
        let mut collector = Collector::<D>::new(self, role, statement.clone(), keys);
        if let Some(replicas) = &self.replicas
            && let Some(answer) = self.ask_replicas(replicas, &mut collector, &values).await
        {
            return answer.map(|wrap| collector.finish().into_iter().map(|loaded| loaded.map(wrap)).collect());
        }
        let mut connection = self.acquire().await?;
        let (mut was_broken, mut was_stale) = (false, false);
        loop {
            let fault = match self.attempt(&mut connection, &mut collector, &values).await {
                Ok(()) => {
                    self.source.answered();
                    return Ok(collector.finish());
                }
                Err(fault) => fault,
            };
            match fault {
                Fault::Broken(reason) if !was_broken => {
                    was_broken = true;
                    tracing::debug!(loader = self.settings.name, reason, "lost a connection, trying another");
                    connection.close_on_drop();
                    drop(connection);
                    connection = self.acquire_live().await?;
                }
                Fault::Stale(reason) if !was_stale => {
                    was_stale = true;
                    tracing::debug!(loader = self.settings.name, reason, "the schema changed, preparing again");
                    let timeout = self.source.settings.statement_timeout + GRACE;
                    let again = tokio::time::timeout(timeout, async {
                        let cleared = sqlx::Connection::clear_cached_statements(&mut *connection).await;
                        cleared.map_err(|error| dialect::fault::<D>(&error))?;
                        collector.recheck(&mut connection).await
                    });
                    if let Err(fault) = again.await.unwrap_or(Err(Fault::Timeout)) {
                        connection.close_on_drop();
                        return Err(fault);
                    }
                }
                fault => {
                    // Refused statements leave a connection as it was; after anything else it may still be at work.
                    if !matches!(fault, Fault::Refused(_) | Fault::BadValue(_)) || collector.is_over() {
                        connection.close_on_drop();
                    }
                    return Err(fault);
                }
            }
            self.counters.retries.fetch_add(1, Ordering::Relaxed);
            collector.clear();
        }
    }

    pub(crate) async fn attempt(
        &self,
        connection: &mut PoolConnection<D::Database>,
        collector: &mut Collector<'_, D>,
        values: &[Values<'_>],
    ) -> Result<(), Fault> {
        let timeout = self.source.settings.statement_timeout;
        let arguments = D::bind(&collector.statement, collector.role, values).map_err(Fault::Refused)?;
        let run = async {
            let connection: &mut Connection<D> = &mut *connection;
            let statement = collector.statement.clone();
            let failed = |error| dialect::fault::<D>(&error);
            D::begin(connection, &statement, timeout).await.map_err(failed)?;
            let outcome = self.gather(D::rows(connection, &statement, arguments), collector).await;
            match D::end(connection, &statement).await {
                Ok(()) => outcome,
                // What ended the statement for good is the better answer; all else is worth another connection.
                Err(_) if matches!(outcome, Err(Fault::Timeout | Fault::Unavailable(_) | Fault::NotNow(_))) => outcome,
                Err(error) => Err(Fault::Broken(error.to_string())),
            }
        };
        tokio::time::timeout(timeout + GRACE, run).await.unwrap_or(Err(Fault::Timeout))
    }

    async fn gather(&self, mut rows: Rows<'_, D>, collector: &mut Collector<'_, D>) -> Result<(), Fault> {
        let mut is_complete = false;
        while let Some(row) = poll_fn(|context| rows.as_mut().poll_next(context)).await {
            match row.map_err(|error| dialect::fault::<D>(&error))? {
                Either::Left(_) => is_complete = true,
                Either::Right(row) => collector.take(&row)?,
            }
        }
        // The thread of a SQLite connection that died ends the rows like that. Nothing must be taken for absent then.
        if is_complete { Ok(()) } else { Err(Fault::Broken("the rows ended before the statement did".into())) }
    }

    async fn acquire(&self) -> Result<PoolConnection<D::Database>, Fault> {
        pool::acquire(&self.pool, &self.source).await.map_err(Fault::Unavailable)
    }

    async fn acquire_live(&self) -> Result<PoolConnection<D::Database>, Fault> {
        pool::acquire_live(&self.pool, &self.source).await.map_err(Fault::Unavailable)
    }

    fn load_error(&self, fault: Fault) -> LoadError {
        match fault {
            Fault::Timeout => LoadError::Timeout(self.source.settings.statement_timeout),
            Fault::Broken(reason) => {
                self.source.failed(&reason);
                LoadError::Unavailable(reason)
            }
            Fault::Unavailable(reason) | Fault::NotNow(reason) => LoadError::Unavailable(reason),
            Fault::Stale(reason) | Fault::Refused(reason) | Fault::BadValue(reason) => LoadError::Rejected(reason),
        }
    }

    /// The checked queries; checks them now if the database did not answer before.
    async fn ready(&self) -> Result<Arc<Checked<D>>, LoadError> {
        if let Some(known) = self.known(Instant::now()) {
            return known;
        }
        let asked_at = Instant::now();
        let _one_at_a_time = self.checking.lock().await;
        // Somebody else has checked, or failed to, while this load waited: his answer is as fresh as ours would be.
        if let Some(known) = self.known(asked_at) {
            return known;
        }
        let (state, answer) = match self.check().await {
            Ok(checked) => (State::Checked(checked.clone()), Ok(checked)),
            Err(Ok(problem)) => {
                let reason = format!("{}: {}", problem.option, problem.reason);
                tracing::error!(loader = self.settings.name, reason, "the loader does not fit the database");
                (State::Wrong { reason: reason.clone(), at: Instant::now() }, Err(LoadError::Rejected(reason)))
            }
            Err(Err(reason)) => {
                (State::Unchecked { reason: reason.clone(), at: Instant::now() }, Err(LoadError::Unavailable(reason)))
            }
        };
        self.become_state(state);
        answer
    }

    fn known(&self, asked_at: Instant) -> Option<Result<Arc<Checked<D>>, LoadError>> {
        match &*self.state.read().unwrap_or_else(PoisonError::into_inner) {
            State::Checked(checked) => Some(Ok(checked.clone())),
            State::Wrong { reason, at } if at.elapsed() < RECHECK_AFTER => {
                Some(Err(LoadError::Rejected(reason.clone())))
            }
            State::Unchecked { reason, at } if *at > asked_at => Some(Err(LoadError::Unavailable(reason.clone()))),
            _ => None,
        }
    }

    fn become_state(&self, state: State<D>) {
        *self.state.write().unwrap_or_else(PoisonError::into_inner) = state;
    }

    /// Checks both queries: a problem with one of them, or why the database could not tell.
    async fn check(&self) -> Result<Arc<Checked<D>>, Result<Problem, String>> {
        let (mut connection, is_primary) = match (pool::acquire_live(&self.pool, &self.source).await, &self.replicas) {
            (Ok(connection), _) => (connection, true),
            (Err(reason), None) => return Err(Err(reason)),
            (Err(reason), Some(replicas)) => (replicas.any().await.ok_or(Err(reason))?, false),
        };
        let timeout = self.source.settings.statement_timeout + GRACE;
        let both = async {
            let single = D::check(&mut connection, self.query_of(Role::Single, &self.sql)).await?;
            let batch = match &self.batch_sql {
                None => None,
                Some(sql) => Some(D::check(&mut connection, self.query_of(Role::Batch, sql)).await?),
            };
            if let Some(batch) = &batch {
                crate::columns::same_columns(D::columns(&single).names(), D::columns(batch).names())?;
            }
            Ok(Arc::new(Checked { single: Arc::new(single), batch: batch.map(Arc::new) }))
        };
        match tokio::time::timeout(timeout, both).await {
            Ok(Ok(checked)) => {
                if is_primary {
                    self.source.answered();
                }
                Ok(checked)
            }
            Ok(Err(CheckError::Wrong(problem))) => {
                // Its answer may not have been read to the end.
                connection.close_on_drop();
                Err(Ok(problem))
            }
            Ok(Err(CheckError::Failed(error))) => {
                connection.close_on_drop();
                let reason = self.source.redacted(&error);
                self.source.failed(&reason);
                Err(Err(reason))
            }
            Err(_) => {
                connection.close_on_drop();
                Err(Err(format!("no answer within {} ms", timeout.as_millis())))
            }
        }
    }

    fn query_of<'a>(&'a self, role: Role, sql: &'a Arc<str>) -> Query<'a> {
        Query { role, sql, settings: &self.settings, template: &self.template }
    }

    /// Keeps a statement that was fitted to a changed schema.
    fn keep(&self, role: Role, statement: &Arc<D::Statement>) {
        let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
        if let State::Checked(checked) = &mut *state {
            let mut next = Checked { single: checked.single.clone(), batch: checked.batch.clone() };
            match role {
                Role::Single => next.single = statement.clone(),
                Role::Batch | Role::List => next.batch = Some(statement.clone()),
            }
            *checked = Arc::new(next);
        }
    }
}

fn refused(problem: &Problem) -> Fault {
    Fault::Refused(format!("{}: {}", problem.option, problem.reason))
}

/// Gathers the rows of one query into one answer per key.
pub(crate) struct Collector<'k, D: Dialect> {
    engine: &'k Engine<D>,
    role: Role,
    statement: Arc<D::Statement>,
    keys: &'k [Key<'k>],
    /// Places of the keys by their text; unused for a single key.
    places: HashMap<&'k [u8], usize>,
    /// Keys that were asked for twice, against the contract, with their first places: they must not look absent.
    repeats: Vec<(usize, usize)>,
    answers: Vec<Option<Loaded>>,
    /// What has come for each key, if keys have many rows.
    lists: Vec<RowList>,
    rows: usize,
    /// Buffers for the key that a row names.
    text: Vec<u8>,
    ends: Vec<usize>,
    rendered: Vec<u8>,
}

impl<'k, D: Dialect> Collector<'k, D> {
    fn new(engine: &'k Engine<D>, role: Role, statement: Arc<D::Statement>, keys: &'k [Key<'k>]) -> Self {
        let mut places = HashMap::new();
        let mut repeats = Vec::new();
        if keys.len() > 1 {
            places.reserve(keys.len());
            for (place, key) in keys.iter().enumerate() {
                let first = *places.entry(key.text).or_insert(place);
                if first != place {
                    repeats.push((first, place));
                }
            }
        }
        Self {
            engine,
            role,
            statement,
            keys,
            places,
            repeats,
            answers: keys.iter().map(|_| None).collect(),
            lists: match engine.settings.rows {
                RowsPerKey::One => Vec::new(),
                RowsPerKey::Many => vec![RowList::default(); keys.len()],
            },
            rows: 0,
            text: Vec::new(),
            ends: Vec::new(),
            rendered: Vec::new(),
        }
    }

    pub(crate) fn clear(&mut self) {
        self.rows = 0;
        self.answers.fill(None);
        self.lists.fill(RowList::default());
    }

    fn rows_per_key_max(&self) -> usize {
        match self.engine.settings.rows {
            RowsPerKey::One => ROWS_PER_KEY_MAX,
            // One that has too many must not fail the others at once.
            RowsPerKey::Many => ROWS_PER_KEY_MAX + self.engine.settings.rows_max,
        }
    }

    /// Whether the query was given up with rows still to come.
    fn is_over(&self) -> bool {
        self.rows > self.keys.len() * self.rows_per_key_max()
    }

    fn take(&mut self, row: &DatabaseRow<D>) -> Result<(), Fault> {
        if self.rows == 0 {
            self.fit(row)?;
        }
        self.rows += 1;
        if self.is_over() {
            return Err(Fault::Refused(format!(
                "{} returned more than {} rows per key; it must select the rows of its keys only",
                self.role.option(),
                self.rows_per_key_max()
            )));
        }
        let statement = self.statement.clone();
        let fields = D::fields(&statement, row);
        let columns = D::columns(&statement);
        let place = match columns.key_texts(&fields, &mut self.text, &mut self.ends) {
            Some(()) => self.place(),
            None => None,
        };
        let Some(place) = place else {
            self.engine.counters.alias_rows.fetch_add(1, Ordering::Relaxed);
            tracing::trace!(loader = self.engine.settings.name, "a row of another key came back");
            return Ok(());
        };
        if let Some(list) = self.lists.get_mut(place) {
            list.push(columns.row(&fields, &self.engine.settings), &self.engine.settings);
            return Ok(());
        }
        let answer = match self.answers[place] {
            None => columns.row(&fields, &self.engine.settings),
            Some(_) => {
                Err(LoadError::Rejected(format!("{} returned more than one row for the key", self.role.option())))
            }
        };
        self.answers[place] = Some(answer);
        Ok(())
    }

    /// The place of the key whose values are these, byte for byte.
    fn place(&mut self) -> Option<usize> {
        let starts = std::iter::once(&0).chain(&self.ends);
        let texts = starts.zip(&self.ends).map(|(start, end)| &self.text[*start..*end]);
        let place = match self.keys {
            [_] => 0,
            _ => {
                let is_whole = self.engine.template.render(texts.clone(), &mut self.rendered);
                debug_assert!(is_whole, "one key column per placeholder");
                *self.places.get(self.rendered.as_slice())?
            }
        };
        // Two lists of texts can render to one key: with {a}:{b}, ("1", "2:3") and ("1:2", "3").
        texts.eq(self.keys[place].values.texts().iter().copied()).then_some(place)
    }

    /// Follows a change of the schema that the database let pass, such as a new column under `SELECT *`.
    fn fit(&mut self, row: &DatabaseRow<D>) -> Result<(), Fault> {
        let query = self.engine.query_of(self.role, self.sql());
        match D::refit(&self.statement, row, query).map_err(|problem| refused(&problem))? {
            Refit::Same => {}
            Refit::To(statement) => self.follow(statement),
            Refit::Recheck => return Err(Fault::Stale("the columns are others than before".into())),
        }
        Ok(())
    }

    fn follow(&mut self, statement: D::Statement) {
        self.statement = Arc::new(statement);
        self.engine.keep(self.role, &self.statement);
    }

    /// Checks the query again, which the database asked for.
    async fn recheck(&mut self, connection: &mut Connection<D>) -> Result<(), Fault> {
        match D::check(connection, self.engine.query_of(self.role, self.sql())).await {
            Ok(statement) => {
                self.follow(statement);
                Ok(())
            }
            Err(CheckError::Wrong(problem)) => Err(refused(&problem)),
            Err(CheckError::Failed(error)) => Err(dialect::fault::<D>(&error)),
        }
    }

    fn sql(&self) -> &'k Arc<str> {
        match self.role {
            Role::Single => &self.engine.sql,
            Role::Batch | Role::List => self.engine.batch_sql.as_ref().unwrap_or(&self.engine.sql),
        }
    }

    fn finish(mut self) -> Vec<Loaded> {
        for (answer, list) in self.answers.iter_mut().zip(self.lists) {
            *answer = Some(list.finish(self.engine.settings.value));
        }
        for (first, repeat) in self.repeats {
            self.answers[repeat] = self.answers[first].clone();
        }
        self.answers.into_iter().map(|answer| answer.unwrap_or(Ok(Row::Absent))).collect()
    }
}
