//! `leasehold sql`: prints SQL that an operator runs, or does not.

use anyhow::anyhow;
use clap::{Args, Subcommand, ValueEnum};
use leasehold_loader_sql::{FeedColumn, OutboxDatabase, outbox_sql, position_sql, publication_sql};
use std::io::Write;

/// Prints SQL for databases that Leasehold loads from. It runs none of it.
#[derive(Debug, Args)]
pub(crate) struct Printing {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    Outbox(Outbox),
    Publication(Publication),
    Journal(Journal),
}

/// The table and the triggers that feeds with via = "outbox" read: each change of a row is written down, with its key before and
/// after, within the transaction that makes it. May be run again, for another table or other columns.
#[derive(Debug, Args)]
struct Outbox {
    /// The table whose changes are to be seen: TABLE or SCHEMA.TABLE, as the database spells it.
    #[arg(long, value_name = "NAME")]
    table: String,

    /// The columns that make up keys, separated by commas.
    #[arg(long, value_name = "COLUMNS", value_delimiter = ',', default_value = "id")]
    key: Vec<String>,

    /// The kind of database.
    #[arg(long, value_enum, default_value_t = Database::Postgres)]
    database: Database,

    /// The outbox table.
    #[arg(long, value_name = "NAME", default_value = "leasehold_outbox")]
    outbox: String,
}

/// The publication that feeds with via = "logical" read, in PostgreSQL, with the rights and settings they need.
#[derive(Debug, Args)]
struct Publication {
    /// The table whose changes are to be seen: TABLE or SCHEMA.TABLE, as the database spells it.
    #[arg(long, value_name = "NAME")]
    table: String,

    /// The columns that make up keys, separated by commas.
    #[arg(long, value_name = "COLUMNS", value_delimiter = ',', required = true)]
    key: Vec<String>,

    /// The publication.
    #[arg(long, value_name = "NAME", default_value = "leasehold")]
    publication: String,

    /// The user that Leasehold logs in as.
    #[arg(long, value_name = "NAME")]
    user: String,
}

/// The table in which a source keeps how far the journal of a server is: loaders with write = "behind" need it, so that nothing is
/// written twice. Without it they do not start. May be run again.
#[derive(Debug, Args)]
struct Journal {
    /// The kind of database.
    #[arg(long, value_enum, default_value_t = Database::Postgres)]
    database: Database,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Database {
    Postgres,
    Mysql,
    Sqlite,
}

/// Prints what was asked for.
///
/// # Errors
/// A name that cannot be used.
pub(crate) fn run(printing: &Printing, out: &mut impl Write) -> anyhow::Result<()> {
    let columns = |key: &[String]| key.iter().map(|text| FeedColumn::parse(text)).collect::<Result<Vec<_>, _>>();
    let sql = match &printing.what {
        What::Outbox(Outbox { table, key, database, outbox }) => {
            columns(key).and_then(|columns| outbox_sql(database.kind(), table, &columns, outbox))
        }
        What::Publication(Publication { table, key, publication, user }) => {
            columns(key).and_then(|columns| publication_sql(table, &columns, publication, user))
        }
        What::Journal(Journal { database }) => Ok(position_sql(database.kind()).to_owned()),
    };
    Ok(out.write_all(sql.map_err(|reason| anyhow!(reason))?.as_bytes())?)
}

impl Database {
    fn kind(self) -> OutboxDatabase {
        match self {
            Self::Postgres => OutboxDatabase::Postgres,
            Self::Mysql => OutboxDatabase::Mysql,
            Self::Sqlite => OutboxDatabase::Sqlite,
        }
    }
}
