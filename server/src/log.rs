//! The log: lines for people or JSON, to standard output or a file, with a level that can change at any time.

use crate::config::{Config, LogFormat, LogLevel};
use std::fs::OpenOptions;
use std::io::{self, IsTerminal};
use std::path::Path;
use std::sync::Mutex;
use tracing_subscriber::fmt::writer::BoxMakeWriter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer, Registry, reload};

/// Changes the level of the running log.
#[derive(Clone, Debug)]
pub(crate) struct LogControl {
    handle: reload::Handle<EnvFilter, Registry>,
}

impl LogControl {
    /// Takes effect for the next event.
    pub(crate) fn set_level(&self, level: LogLevel) {
        // It fails only when the subscriber is gone, and then nobody logs any more.
        let _ = self.handle.reload(filter(level));
    }

    /// The control of a log that nobody writes.
    #[cfg(test)]
    pub(crate) fn for_tests() -> Self {
        let (_, handle) = reload::Layer::new(filter(LogLevel::Nothing));
        Self { handle }
    }
}

/// Starts the log of the process.
///
/// # Errors
/// The file cannot be opened, or the process has a log already.
pub(crate) fn start(config: &Config) -> io::Result<LogControl> {
    let (level, handle) = reload::Layer::new(filter(config.live.log_level));
    let writer = match &config.log_file {
        None => BoxMakeWriter::new(io::stdout),
        Some(path) => BoxMakeWriter::new(Mutex::new(open(path)?)),
    };
    let lines = tracing_subscriber::fmt::layer().with_writer(writer);
    let lines = match config.log_format {
        LogFormat::Json => lines.json().flatten_event(true).boxed(),
        LogFormat::Text => lines.with_ansi(config.log_file.is_none() && io::stdout().is_terminal()).boxed(),
    };
    tracing_subscriber::registry().with(level).with(lines).try_init().map_err(io::Error::other)?;
    Ok(LogControl { handle })
}

fn open(path: &Path) -> io::Result<std::fs::File> {
    let opened = OpenOptions::new().create(true).append(true).open(path);
    opened.map_err(|error| io::Error::new(error.kind(), format!("logfile {}: {error}", path.display())))
}

/// Redis's levels in terms of ours. The database driver logs each statement at debug, which only `debug` shows.
fn filter(level: LogLevel) -> EnvFilter {
    EnvFilter::new(match level {
        LogLevel::Debug => "debug",
        LogLevel::Verbose => "info,leasehold=debug,leasehold_loader_sql=debug",
        LogLevel::Notice => "info,sqlx=warn",
        LogLevel::Warning => "warn",
        LogLevel::Nothing => "off",
    })
}
