//! `leasehold trace`: records what a running server is asked for, for `leasehold simulate`.
//!
//! The server tells events on a sample of its keys (`TRACE`); here they become reads with sizes, a line "key size" for each:
//! a hit has the size of its entry, a miss that of the value that is stored after it. A miss that nobody stores has no size
//! and is left out, and so is a write without a read.

use crate::inquiry::Connection;
use anyhow::{Context, bail};
use clap::Args;
use std::collections::HashSet;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// Records the reads of a running server, on a sample of its keys, for leasehold simulate.
///
/// The file has a line "key size" for each read, where key is a number that stands for the key in this file only. Its first
/// line says how many keys were sampled; simulate scales memory limits by that.
#[derive(Debug, Args)]
pub(crate) struct Recording {
    /// Where the server listens.
    #[arg(long, value_name = "HOST", default_value = "127.0.0.1")]
    host: String,

    /// Its port.
    #[arg(long, value_name = "N")]
    port: u16,

    /// How long to record.
    #[arg(long, value_name = "N", default_value_t = 60)]
    seconds: u64,

    /// The file to write; there must be none yet.
    #[arg(long, value_name = "FILE")]
    out: PathBuf,

    /// Record one key in so many; without it, so that there are about 100,000.
    #[arg(long, value_name = "N")]
    rate: Option<u64>,

    /// A file with the server's password.
    #[arg(long, value_name = "FILE")]
    password_file: Option<PathBuf>,
}

/// How the first line of a file begins. The rate follows.
pub(crate) const HEADER: &str = "# leasehold trace, 1 key in ";

/// A server that needs longer for an answer is not well.
const PATIENCE: Duration = Duration::from_secs(10);

/// The length of a key in the file. Sizes are what key and value have beyond that, so that an entry of a simulation is as large
/// as the real one.
const KEY_LEN: u64 = 16;

/// Time from one question to the next while the server has nothing more to tell.
const PAUSE: Duration = Duration::from_millis(50);

/// What came of a recording.
#[derive(Debug, Default)]
struct Recorded {
    reads: u64,
    /// Misses that nobody stored.
    without_size: u64,
    dropped: u64,
    /// Misses that wait for a value.
    missed: HashSet<String>,
}

/// Runs it, and says on `out` what came of it.
///
/// # Errors
/// The server does not answer, or refuses; the file exists, or cannot be written.
pub(crate) fn run(recording: &Recording, out: &mut impl Write) -> anyhow::Result<()> {
    let mut server = Connection::open(&recording.host, recording.port, PATIENCE)?;
    if let Some(file) = &recording.password_file {
        server.authenticate(file)?;
    }
    let file =
        File::create_new(&recording.out).with_context(|| format!("{} cannot be made", recording.out.display()))?;
    let rate = match recording.rate {
        Some(rate) => server.ask(&["TRACE", "START", "RATE", &rate.to_string()])?,
        None => server.ask(&["TRACE", "START"])?,
    };
    let rate = rate.integer()?;
    let mut file = BufWriter::new(file);
    writeln!(file, "{HEADER}{rate}")?;
    let end = Instant::now() + Duration::from_secs(recording.seconds);
    let mut recorded = Recorded::default();
    loop {
        // What waits after the end is still of the time before it, or nearly.
        let is_over = Instant::now() >= end;
        let waiting = read(&mut server, &mut recorded, &mut file)?;
        if is_over {
            break;
        }
        if waiting == 0 {
            std::thread::sleep(PAUSE.min(end.saturating_duration_since(Instant::now())));
        }
    }
    server.ask(&["TRACE", "STOP"])?;
    file.flush()?;
    let Recorded { reads, without_size, dropped, missed } = recorded;
    let without_size = without_size + missed.len() as u64;
    writeln!(
        out,
        "{reads} reads of 1 key in {rate}; {without_size} misses that nobody stored are left out; {dropped} events were dropped"
    )?;
    if dropped > 0 {
        writeln!(out, "the server had more to tell than was read: try --rate {}", 4 * rate)?;
    }
    if reads == 0 {
        bail!("there was nothing to record");
    }
    Ok(())
}

/// Takes what waits, up to one reply; how much is left.
fn read(server: &mut Connection, recorded: &mut Recorded, file: &mut impl Write) -> anyhow::Result<i64> {
    let [dropped, waiting, lines] = server.ask(&["TRACE", "READ"])?.three()?;
    recorded.dropped += dropped.integer()?.unsigned_abs();
    for line in lines.text()?.lines() {
        note(recorded, line, file)?;
    }
    waiting.integer()
}

fn note(recorded: &mut Recorded, line: &str, file: &mut impl Write) -> anyhow::Result<()> {
    let mut words = line.split(' ');
    let (Some(kind), Some(key), Some(bytes)) = (words.next(), words.next(), words.next()) else {
        bail!("the server tells an event as {line:?}");
    };
    let is_read = match kind {
        "H" => true,
        "S" => recorded.missed.remove(key),
        _ => {
            recorded.without_size += u64::from(!recorded.missed.insert(key.to_owned()));
            false
        }
    };
    if is_read {
        let bytes: u64 = bytes.parse().with_context(|| format!("the server tells an event as {line:?}"))?;
        writeln!(file, "{key} {}", bytes.saturating_sub(KEY_LEN))?;
        recorded.reads += 1;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_have_the_size_of_their_entry_and_others_are_left_out() {
        let mut recorded = Recorded::default();
        let mut file = Vec::new();
        for line in ["S a 100", "H a 100", "M b 0", "M c 0", "M b 0", "S b 30", "S b 40", "H b 10"] {
            note(&mut recorded, line, &mut file).expect("an event");
        }
        assert_eq!(String::from_utf8_lossy(&file), "a 84\nb 14\nb 0\n");
        assert_eq!((recorded.reads, recorded.without_size, recorded.missed.len()), (3, 1, 1));
        assert!(note(&mut recorded, "H a", &mut file).is_err());
    }
}
