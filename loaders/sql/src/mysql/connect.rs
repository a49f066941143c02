//! Connects to MySQL and MariaDB, and readies a connection for loads.
//!
//! Two things that a server's settings may hold would make loads wrong: without `autocommit` a connection reads from the
//! snapshot of its first statement for ever, and in another time zone the times of TIMESTAMP columns are others. Both are set for
//! the session. All else, `sql_mode` too, is left as the server has it, so that SQL means here what it means to its owners.

use crate::settings::SourceSettings;
use sqlx::mysql::{MySqlConnectOptions, MySqlConnection};
use sqlx::{AssertSqlSafe, ConnectOptions, Row};
use std::str::FromStr;
use std::time::Duration;

/// Prepared statements that a connection keeps. The server keeps `max_prepared_stmt_count` of them for all its clients, 16,382 by
/// default.
const STATEMENTS_PER_CONNECTION: usize = 200;

/// What may stand behind the `?` of a URL. What sqlx does not know it ignores, and a misspelt `ssl-mode` must not be.
const URL_OPTIONS: &[&str] = &[
    "ssl-mode",
    "sslmode",
    "ssl-ca",
    "sslca",
    "ssl-cert",
    "sslcert",
    "ssl-key",
    "sslkey",
    "socket",
    "collation",
    "statement-cache-capacity",
];

/// How to connect to the database of these settings.
///
/// # Errors
/// The URL cannot be used; in words for the operator, without secrets.
pub(crate) fn options(settings: &SourceSettings) -> Result<MySqlConnectOptions, String> {
    let query = settings.url.split_once('?').map_or("", |(_, query)| query);
    for name in query.split('&').filter_map(|pair| pair.split('=').next()).filter(|name| !name.is_empty()) {
        if !URL_OPTIONS.contains(&name) {
            return Err(format!("has the unknown option `{name}`; known are {}", URL_OPTIONS.join(", ")));
        }
    }
    // The message of sqlx does not show the URL, but an odd one may be cut in a way that shows a part of it.
    let mut options = MySqlConnectOptions::from_str(&settings.url).map_err(|_| {
        "cannot be read; it is mysql://user:password@host:port/database?ssl-mode=…, with disabled, preferred, required, verify_ca or \
         verify_identity"
            .to_owned()
    })?;
    if !query.contains("statement-cache-capacity") {
        options = options.statement_cache_capacity(STATEMENTS_PER_CONNECTION);
    }
    Ok(options
        .charset("utf8mb4")
        .timezone(Some("+00:00".to_owned()))
        .pipes_as_concat(false)
        .no_engine_substitution(false)
        .disable_statement_logging())
}

/// Readies a new connection: each statement sees the newest data, and the server ends it after `timeout`.
pub(crate) async fn ready(connection: &mut MySqlConnection, timeout: Duration) -> Result<(), sqlx::Error> {
    let limit = if is_mariadb(connection).await? {
        format!("max_statement_time = {:.6}", timeout.as_secs_f64())
    } else {
        // For SELECT only, which loaders are.
        format!("max_execution_time = {}", timeout.as_millis())
    };
    sqlx::raw_sql(AssertSqlSafe(format!("SET autocommit = 1, {limit}"))).execute(connection).await?;
    Ok(())
}

/// What to do where the driver's own words are for programmers.
pub(crate) fn advice(error: &sqlx::Error) -> Option<&'static str> {
    match error {
        // The other way to hide a password from the network, RSA, is not built in: it does not tell who the server is.
        sqlx::Error::Configuration(reason) if reason.to_string().contains("mysql-rsa") => Some(
            "the server wants the password over TLS (caching_sha2_password), and the connection has none; write ssl-mode=required, or \
             better verify_identity, in the URL, and have the server speak TLS",
        ),
        _ => None,
    }
}

/// Whether the server is MariaDB, which has names of its own for some things.
pub(crate) async fn is_mariadb(connection: &mut MySqlConnection) -> Result<bool, sqlx::Error> {
    let row = sqlx::raw_sql("SELECT VERSION()").fetch_one(connection).await?;
    Ok(row.try_get::<String, _>(0)?.contains("MariaDB"))
}
