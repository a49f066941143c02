//! One database with its pool of connections.

use crate::mysql::{self, MySqlDialect};
use crate::pool::{self, SourceState};
use crate::postgres::PostgresDialect;
use crate::replica::Replicas;
use crate::settings::{ConfigProblem, ConfigSubject, SourceSettings};
use crate::sqlite;
use sqlx::pool::PoolOptions;
use sqlx::postgres::PgConnectOptions;
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{ConnectOptions, Connection, Database, MySqlPool, PgPool, SqlitePool};
use std::fmt;
use std::str::FromStr;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

/// Shortest limit for connections and statements that makes sense.
const TIMEOUT_MIN: Duration = Duration::from_millis(1);

/// Longest limit: PostgreSQL counts its own in milliseconds, in 31 bits.
const TIMEOUT_MAX: Duration = Duration::from_millis(i32::MAX as u64);

/// A connection that was idle for this long must answer before it is used. Firewalls forget connections after minutes.
const SUSPECT_AFTER: Duration = Duration::from_secs(20);

/// How long a suspect connection may take to answer.
const SUSPECT_PATIENCE: Duration = Duration::from_millis(300);

/// Prepared statements that a connection keeps: two for each of many loaders.
const STATEMENTS_PER_CONNECTION: usize = 500;

/// One database with its pool. Cheap to clone; all clones share the pool.
#[derive(Clone)]
pub struct Source {
    pub(crate) pool: AnyPool,
    pub(crate) state: Arc<SourceState>,
    pub(crate) replicas: AnyReplicas,
}

/// The replicas, if there are any; of the kind that the pool is.
#[derive(Clone, Default)]
pub(crate) struct AnyReplicas {
    pub(crate) postgres: Option<Arc<Replicas<PostgresDialect>>>,
    pub(crate) mysql: Option<Arc<Replicas<MySqlDialect>>>,
}

/// The pool of one of the kinds of databases.
#[derive(Clone)]
pub(crate) enum AnyPool {
    Postgres(PgPool),
    MySql(MySqlPool),
    Sqlite(SqlitePools),
}

/// The connections to a SQLite database.
#[derive(Clone)]
pub(crate) struct SqlitePools {
    /// They cannot write.
    pub(crate) reads: SqlitePool,
    /// The one that writes, opened for the first loader that does.
    writes: Arc<OnceLock<SqlitePool>>,
}

impl SqlitePools {
    /// A pool of one connection, because a file takes one writer at a time.
    pub(crate) fn writes(&self, settings: &SourceSettings) -> SqlitePool {
        let open = || {
            let options = (*self.reads.connect_options()).clone().read_only(false);
            pool_options(settings).max_connections(1).connect_lazy_with(options)
        };
        self.writes.get_or_init(open).clone()
    }

    async fn close(&self) {
        self.reads.close().await;
        if let Some(writes) = self.writes.get() {
            writes.close().await;
        }
    }
}

impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Source").field(&self.state.settings).finish()
    }
}

impl Source {
    /// Opens a source on the current tokio runtime. Connections are made when they are needed: a database that is down is no
    /// error. Only a SQLite file that does not exist yet is created now, if there is a script for it.
    ///
    /// # Errors
    /// The URL or a limit cannot be used, or the SQLite database could not be created.
    pub async fn open(settings: SourceSettings) -> Result<Self, ConfigProblem> {
        let problem = |option, reason: String| ConfigProblem {
            subject: ConfigSubject::Source(settings.name.clone()),
            option,
            reason,
        };
        if settings.max_connections == 0 {
            return Err(problem("max_connections", "must be at least 1".into()));
        }
        for (option, timeout) in
            [("acquire_timeout", settings.acquire_timeout), ("statement_timeout", settings.statement_timeout)]
        {
            if !(TIMEOUT_MIN..=TIMEOUT_MAX).contains(&timeout) {
                return Err(problem(option, "must be from 1 ms to 24 days".into()));
            }
        }
        let (pool, secrets) = open_pool(&settings).await.map_err(|(option, reason)| problem(option, reason))?;
        let mut copies = Vec::new();
        for (place, url) in settings.replicas.iter().enumerate() {
            let place = place + 1;
            let settings = SourceSettings {
                name: format!("{} replica {place}", settings.name),
                url: url.clone(),
                replicas: Vec::new(),
                ..settings.clone()
            };
            let wrong = |reason| problem("replicas", format!("number {place}: {reason}"));
            let (copy, secrets) = open_pool(&settings).await.map_err(|(_, reason)| wrong(reason))?;
            if std::mem::discriminant(&copy) != std::mem::discriminant(&pool) {
                return Err(wrong("is another kind of database than url".into()));
            }
            copies.push((copy, Arc::new(SourceState::new(settings, secrets))));
        }
        let state = Arc::new(SourceState::new(settings, secrets));
        let mut replicas = AnyReplicas::default();
        match &pool {
            _ if copies.is_empty() => {}
            AnyPool::Postgres(primary) => {
                let of_kind =
                    |(pool, state)| if let AnyPool::Postgres(pool) = pool { Some((pool, state)) } else { None };
                let copies = copies.into_iter().filter_map(of_kind);
                replicas.postgres = Some(Arc::new(Replicas::new(primary.clone(), Arc::clone(&state), copies)));
            }
            AnyPool::MySql(primary) => {
                let of_kind = |(pool, state)| if let AnyPool::MySql(pool) = pool { Some((pool, state)) } else { None };
                let copies = copies.into_iter().filter_map(of_kind);
                replicas.mysql = Some(Arc::new(Replicas::new(primary.clone(), Arc::clone(&state), copies)));
            }
            AnyPool::Sqlite(_) => {
                let reason = "are for PostgreSQL, MySQL and MariaDB; SQLite has none".to_owned();
                let subject = ConfigSubject::Source(state.settings.name.clone());
                return Err(ConfigProblem { subject, option: "replicas", reason });
            }
        }
        Ok(Self { pool, state, replicas })
    }

    /// The password of the URL, for drivers that take it apart from the rest.
    pub(crate) fn password(&self) -> Option<String> {
        secrets(&self.state.settings.url).into_iter().nth(1)
    }

    /// The name that loaders call it by.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.state.settings.name
    }

    /// Contacts the database now.
    ///
    /// # Errors
    /// It does not answer; the text says why.
    pub async fn check(&self) -> Result<(), String> {
        match &self.pool {
            AnyPool::Postgres(pool) => pool::acquire_live(pool, &self.state).await.map(drop)?,
            AnyPool::MySql(pool) => pool::acquire_live(pool, &self.state).await.map(drop)?,
            AnyPool::Sqlite(pools) => pool::acquire_live(&pools.reads, &self.state).await.map(drop)?,
        }
        self.state.answered();
        Ok(())
    }

    /// Whether the database answered when it was last needed.
    ///
    /// # Errors
    /// It did not; the text says why.
    pub fn health(&self) -> Result<(), String> {
        self.state.health()
    }

    /// Closes all connections, waiting for the loads that use them. Loads that come later find the source unavailable.
    pub async fn close(&self) {
        if let Some(replicas) = &self.replicas.postgres {
            replicas.close().await;
        }
        if let Some(replicas) = &self.replicas.mysql {
            replicas.close().await;
        }
        match &self.pool {
            AnyPool::Postgres(pool) => pool.close().await,
            AnyPool::MySql(pool) => pool.close().await,
            AnyPool::Sqlite(pools) => pools.close().await,
        }
    }
}

/// The pool for one URL, and what of the URL no error may show; or the option that is wrong, and why.
async fn open_pool(settings: &SourceSettings) -> Result<(AnyPool, Vec<String>), (&'static str, String)> {
    let in_url = |reason| ("url", reason);
    let scheme = settings.url.split_once(':').map_or("", |(scheme, _)| scheme);
    check_certificates(&settings.url).map_err(in_url)?;
    match scheme {
        "postgres" | "postgresql" | "mysql" | "mariadb" if settings.create_with.is_some() => {
            Err(("create_with", "is for SQLite only".into()))
        }
        "postgres" | "postgresql" => {
            let (options, secrets) = postgres_options(settings).map_err(in_url)?;
            Ok((AnyPool::Postgres(pool_options(settings).connect_lazy_with(options)), secrets))
        }
        "mysql" | "mariadb" => {
            let options = mysql::connect::options(settings).map_err(in_url)?;
            let timeout = settings.statement_timeout;
            let pool = pool_options(settings)
                .after_connect(move |connection, _| Box::pin(mysql::connect::ready(connection, timeout)));
            Ok((AnyPool::MySql(pool.connect_lazy_with(options)), secrets(&settings.url)))
        }
        "sqlite" => {
            let options = sqlite_options(settings).map_err(in_url)?;
            if let Some(script) = &settings.create_with {
                sqlite::create::create(options.get_filename(), script)
                    .await
                    .map_err(|reason| ("create_with", format!("cannot create the database: {reason}")))?;
            }
            let reads = pool_options(settings).connect_lazy_with(options);
            Ok((AnyPool::Sqlite(SqlitePools { reads, writes: Arc::default() }), Vec::new()))
        }
        "" => Err(in_url(format!("has no scheme; it begins with {SCHEMES}"))),
        _ => Err(in_url(format!("the scheme `{scheme}` is unknown; supported are {SCHEMES}"))),
    }
}

const SCHEMES: &str = "postgres://, postgresql://, mysql://, mariadb:// and sqlite:";

/// Whether the certificates and keys that a URL names can be read. Otherwise the database would look as if it were down.
fn check_certificates(url: &str) -> Result<(), String> {
    const OPTIONS: &[&str] =
        &["sslrootcert", "sslcert", "sslkey", "ssl-root-cert", "ssl-ca", "sslca", "ssl-cert", "ssl-key"];
    let query = url.split_once('?').map_or("", |(_, query)| query);
    for (option, value) in query.split('&').filter_map(|pair| pair.split_once('=')) {
        if !OPTIONS.contains(&option) {
            continue;
        }
        let path = percent_decoded(value);
        // It may be the certificate itself.
        if path.contains("-----BEGIN") {
            continue;
        }
        let text = std::fs::read_to_string(&path).map_err(|error| format!("{option} names {path}: {error}"))?;
        if !text.contains("-----BEGIN") {
            return Err(format!("{option} names {path}, which is not in PEM form (-----BEGIN …)"));
        }
    }
    Ok(())
}

fn pool_options<DB: Database>(settings: &SourceSettings) -> PoolOptions<DB> {
    PoolOptions::new()
        .max_connections(settings.max_connections)
        .acquire_timeout(settings.acquire_timeout)
        // A ping before each load costs a round trip; a load that meets a dead connection is tried again instead. But a
        // connection that a firewall has forgotten does not look dead, so after a while of silence it has to answer first.
        .test_before_acquire(false)
        .before_acquire(|connection: &mut DB::Connection, use_of| {
            Box::pin(async move {
                if use_of.idle_for < SUSPECT_AFTER {
                    return Ok(true);
                }
                Ok(matches!(tokio::time::timeout(SUSPECT_PATIENCE, connection.ping()).await, Ok(Ok(()))))
            })
        })
        .idle_timeout(Duration::from_secs(10 * 60))
        .max_lifetime(Duration::from_secs(30 * 60))
}

fn postgres_options(settings: &SourceSettings) -> Result<(PgConnectOptions, Vec<String>), String> {
    // The message of sqlx does not show the URL, but an odd one may be cut in a way that shows a part of it.
    let options = PgConnectOptions::from_str(&settings.url)
        .map_err(|_| "cannot be read; it is postgres://user:password@host:port/database?sslmode=…".to_owned())?;
    let mut options = options
        .options([("statement_timeout", settings.statement_timeout.as_millis().to_string())])
        .disable_statement_logging();
    if !settings.url.contains("statement-cache-capacity") {
        options = options.statement_cache_capacity(STATEMENTS_PER_CONNECTION);
    }
    if options.get_application_name().is_none() {
        options = options.application_name("leasehold");
    }
    Ok((options, secrets(&settings.url)))
}

impl SourceSettings {
    /// Whether both are the same database, as the same user: only the password of the URL may be another, and what does not say
    /// which database it is.
    #[must_use]
    pub fn is_same_database(&self, other: &Self) -> bool {
        without_password(&self.url) == without_password(&other.url)
    }
}

/// A URL without its password.
fn without_password(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else { return url.to_owned() };
    let authority_end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let (authority, path) = rest.split_at(authority_end);
    let authority = match authority.rsplit_once('@') {
        Some((login, host)) => format!("{}@{host}", login.split(':').next().unwrap_or_default()),
        None => authority.to_owned(),
    };
    let (path, query) = path.split_once('?').unwrap_or((path, ""));
    let query: Vec<&str> = query.split('&').filter(|pair| !pair.starts_with("password=")).collect();
    format!("{scheme}://{authority}{path}?{}", query.join("&"))
}

/// The password, as it stands in the URL and as it is meant.
fn secrets(url: &str) -> Vec<String> {
    let Some((_, rest)) = url.split_once("://") else { return Vec::new() };
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let in_authority =
        authority.rsplit_once('@').and_then(|(login, _)| login.split_once(':')).map(|(_, password)| password);
    let query = rest.split_once('?').map_or("", |(_, query)| query);
    let in_query = query.split('&').filter_map(|pair| pair.strip_prefix("password="));
    let mut secrets = Vec::new();
    for secret in in_authority.into_iter().chain(in_query).filter(|secret| !secret.is_empty()) {
        let decoded = percent_decoded(secret);
        secrets.push(secret.to_owned());
        secrets.push(decoded);
    }
    secrets
}

pub(crate) fn percent_decoded(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((byte, tail)) = rest.split_first() {
        let escaped = tail.get(..2).and_then(|hex| std::str::from_utf8(hex).ok()).filter(|_| *byte == b'%');
        match escaped.and_then(|hex| u8::from_str_radix(hex, 16).ok()) {
            Some(escaped) => {
                bytes.push(escaped);
                rest = &tail[2..];
            }
            None => {
                bytes.push(*byte);
                rest = tail;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

fn sqlite_options(settings: &SourceSettings) -> Result<SqliteConnectOptions, String> {
    let options = SqliteConnectOptions::from_str(&settings.url)
        .map_err(|error| format!("cannot be read ({error}); it is sqlite:path/to/file.db"))?;
    let path = options.get_filename().to_string_lossy();
    if path.is_empty()
        || path.contains(":memory:")
        || path.starts_with("file:sqlx-in-memory")
        || settings.url.contains("mode=memory")
    {
        return Err("must name a file; each connection to a database in memory would see one of its own".into());
    }
    Ok(options
        .read_only(true)
        .statement_cache_capacity(STATEMENTS_PER_CONNECTION)
        .create_if_missing(false)
        .busy_timeout(settings.statement_timeout)
        .disable_statement_logging())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords_are_found_wherever_they_stand() {
        assert_eq!(secrets("postgres://me:s%40cret@host:1/db?x=1"), ["s%40cret", "s@cret"]);
        assert_eq!(secrets("postgres://host/db?user=me&password=hush"), ["hush", "hush"]);
        assert!(secrets("postgres://me@host/db").is_empty());
    }

    #[test]
    fn a_database_is_the_same_under_another_password() {
        let is_same = |one: &str, other: &str| {
            SourceSettings::new("main", one).is_same_database(&SourceSettings::new("other", other))
        };
        assert!(is_same("postgres://me:one@host:1/db?x=1", "postgres://me:t%20wo@host:1/db?x=1"));
        assert!(is_same("postgres://me@host/db", "postgres://me:new@host/db"));
        assert!(is_same("postgres://host/db?user=me&password=a", "postgres://host/db?user=me&password=b"));
        assert!(is_same("sqlite:a.db", "sqlite:a.db"));
        for (one, other) in [
            ("postgres://me:one@host/db", "postgres://you:one@host/db"),
            ("postgres://me:one@host/db", "postgres://me:one@host2/db"),
            ("postgres://me:one@host/db", "postgres://me:one@host/db2"),
            ("postgres://me:one@host/db", "postgres://me:one@host/db?options=-csearch_path%3Dx"),
            ("postgres://me:one@host/db", "mysql://me:one@host/db"),
            ("sqlite:a.db", "sqlite:b.db"),
        ] {
            assert!(!is_same(one, other), "{one} {other}");
        }
    }

    #[tokio::test]
    async fn bad_urls_are_told_without_secrets() {
        for (url, says) in [
            ("mysql://me:hush@host/db?ssl_mode=required", "has the unknown option `ssl_mode`"),
            ("mariadb://me:hush@host/db?ssl-mode=verify-ca", "verify_ca or verify_identity"),
            ("mysql://me:hush@host:port/db", "cannot be read"),
            ("redis://me:hush@host", "is unknown"),
            ("just a text", "no scheme"),
            ("postgres://me:hush@host:port/db", "cannot be read"),
            ("sqlite::memory:", "must name a file"),
            ("sqlite:x.db?mode=odd", "cannot be read"),
        ] {
            let problem = Source::open(SourceSettings::new("main", url)).await.expect_err(url);
            assert_eq!(problem.option, "url");
            assert!(problem.reason.contains(says), "{url}: {problem}");
            assert!(!problem.to_string().contains("hush"), "{problem}");
        }
        let none = SourceSettings { max_connections: 0, ..SourceSettings::new("main", "sqlite:x.db") };
        assert_eq!(Source::open(none).await.expect_err("no connections").option, "max_connections");
    }
}
