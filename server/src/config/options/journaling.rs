//! The keys of `[journal]`.

use super::super::JournalConfig;
use super::super::spec::{Change, Default, Kind, NO_MOST, Spec, Value};
use super::{KB, MINUTE, integer, span};
use leasehold_loader_sql::Fsync;
use std::path::PathBuf;
use std::time::Duration;

const FSYNC_NAMES: &[&str] = &["always", "everysec", "no"];
const FSYNCS: [Fsync; FSYNC_NAMES.len()] = [Fsync::Always, Fsync::EverySecond, Fsync::Never];

/// The keys of `[journal]`.
pub(crate) const JOURNAL: &[Spec<JournalConfig>] = &[
    Spec {
        name: "dir",
        kind: Kind::Path,
        default: Default::Absent { example: "/var/lib/leasehold/journal" },
        change: Change::Start,
        doc: "The directory of the journal, for loaders with write = \"behind\". It is made if it is not there, and belongs to one server.",
        write: |journal, value| journal.directory = value.text_or_none().map(PathBuf::from),
        read: |journal| Value::from_text(journal.directory.as_deref().and_then(|path| path.to_str())),
    },
    Spec {
        name: "fsync",
        kind: Kind::Choice(FSYNC_NAMES),
        default: Default::Text("always"),
        change: Change::Start,
        doc: "When a write is answered. always: it is on the disk; writes that come together share one sync. everysec: the system has it, and \
              the disk within a second. no: the system has it. A killed process loses nothing in any of them; a machine that loses power may in \
              the last two.",
        write: |journal, value| journal.fsync = value.choice(&FSYNCS),
        read: |journal| Value::from_choice(&FSYNCS, journal.fsync),
    },
    Spec {
        name: "segment_bytes",
        kind: Kind::Bytes { min: 4 * KB, max: 1 << 30, auto: false },
        default: Default::Text("64mb"),
        change: Change::Start,
        doc: "A file of the journal that has so many bytes is followed by the next. A file goes when all in it is flushed.",
        write: |journal, value| journal.segment_bytes = value.integer(),
        read: |journal| Value::Integer(journal.segment_bytes),
    },
    Spec {
        name: "max_bytes",
        kind: Kind::Bytes { min: 16 * KB, max: NO_MOST, auto: false },
        default: Default::Text("1gb"),
        change: Change::Start,
        doc: "Files of the journal together; what is pending is in memory, too, beside maxmemory. While there is no room, writes go through: \
              they wait for their source.",
        write: |journal, value| journal.bytes_max = value.integer(),
        read: |journal| Value::Integer(journal.bytes_max),
    },
    Spec {
        name: "max_pending",
        kind: integer(1, 100_000_000),
        default: Default::Text("1000000"),
        change: Change::Start,
        doc: "Keys with a change that is not flushed, of all loaders together. While there are so many, writes go through.",
        write: |journal, value| journal.pending_max = value.usize(),
        read: |journal| Value::from_usize(journal.pending_max),
    },
    Spec {
        name: "flush_interval",
        kind: span(Duration::ZERO, MINUTE),
        default: Default::Text("100ms"),
        change: Change::Start,
        doc: "How long a change waits before it is flushed, so that later ones of its key take its place and others share its transaction.",
        write: |journal, value| journal.flush_interval = value.duration(),
        read: |journal| Value::Duration(journal.flush_interval),
    },
    Spec {
        name: "flush_batch",
        kind: integer(1, 10_000),
        default: Default::Text("500"),
        change: Change::Start,
        doc: "The most changes in one transaction.",
        write: |journal, value| journal.flush_batch = value.usize(),
        read: |journal| Value::from_usize(journal.flush_batch),
    },
    Spec {
        name: "max_attempts",
        kind: integer(1, 1_000),
        default: Default::Text("3"),
        change: Change::Start,
        doc: "How often a change is tried that its source refuses for what is in it; after that it is a dead letter (WB LIST). What fails \
              because the source is away, or takes no change at all, is tried for ever.",
        write: |journal, value| journal.attempts_max = value.u32(),
        read: |journal| Value::Integer(journal.attempts_max.into()),
    },
    Spec {
        name: "max_dead_letters",
        kind: integer(1, 1_000_000),
        default: Default::Text("10000"),
        change: Change::Start,
        doc: "Dead letters at one time. While there are so many, a loader whose change is refused goes on trying it, and flushes nothing else.",
        write: |journal, value| journal.letters_max = value.usize(),
        read: |journal| Value::from_usize(journal.letters_max),
    },
];
