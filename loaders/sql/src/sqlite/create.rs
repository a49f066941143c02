//! Creates a SQLite database from a script, all or nothing.
//!
//! The script runs on a file of another name beside the database, which is renamed when it is complete and on disk. A crash half
//! way leaves no database, and the next start begins anew.

use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection, SqliteJournalMode, SqliteSynchronous};
use sqlx::{AssertSqlSafe, ConnectOptions, Connection};
use std::io;
use std::path::{Path, PathBuf};

/// Creates the database file if there is none.
///
/// # Errors
/// The script or the file system refuses.
pub(crate) async fn create(path: &Path, script: &str) -> Result<(), String> {
    if path.try_exists().map_err(|error| error.to_string())? {
        return Ok(());
    }
    // Of this process alone: two processes that start at once create a file each, and the rename decides.
    let unfinished = suffixed(path, &format!(".{}.unfinished", std::process::id()));
    remove(&unfinished)?;
    let created =
        run(&unfinished, script).await.and_then(|()| publish(&unfinished, path).map_err(|error| error.to_string()));
    if created.is_err() {
        remove(&unfinished)?;
    }
    created
}

async fn run(path: &Path, script: &str) -> Result<(), String> {
    let options = SqliteConnectOptions::new()
        .filename(path)
        .create_if_missing(true)
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(SqliteSynchronous::Full)
        .disable_statement_logging();
    let mut connection = SqliteConnection::connect_with(&options).await.map_err(|error| error.to_string())?;
    let outcome = run_script(&mut connection, script).await.map_err(|error| error.to_string());
    // Closing writes the log back into the file and removes it.
    let closed = connection.close().await.map_err(|error| error.to_string());
    outcome.and(closed)
}

async fn run_script(connection: &mut SqliteConnection, script: &str) -> Result<(), sqlx::Error> {
    let mut transaction = connection.begin().await?;
    // The script comes from a file of the operator and from nowhere else.
    sqlx::raw_sql(AssertSqlSafe(script.to_owned())).execute(&mut *transaction).await?;
    transaction.commit().await
}

/// Gives the finished file its name, unless another process was faster.
fn publish(unfinished: &Path, path: &Path) -> io::Result<()> {
    std::fs::File::open(unfinished)?.sync_all()?;
    match std::fs::hard_link(unfinished, path) {
        Ok(()) => std::fs::remove_file(unfinished)?,
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => std::fs::remove_file(unfinished)?,
        // A file system without links.
        Err(_) => std::fs::rename(unfinished, path)?,
    }
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    std::fs::File::open(directory)?.sync_all()
}

/// Removes a database file with its logs.
fn remove(path: &Path) -> Result<(), String> {
    for path in [path.to_owned(), suffixed(path, "-wal"), suffixed(path, "-shm"), suffixed(path, "-journal")] {
        match std::fs::remove_file(&path) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(format!("{}: {error}", path.display())),
        }
    }
    Ok(())
}

fn suffixed(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}
