//! The keys of `[feeds.NAME]`.

use super::super::FeedConfig;
use super::super::spec::{Change, Default, Kind, Spec, Value};
use super::{DAY, HOUR, MINUTE, MS, SECOND, span};
use leasehold_loader_sql::Via;
use std::time::Duration;

/// The words of `via`.
pub(crate) const VIA_NAMES: &[&str] = &["outbox", "updated_at", "versions", "data_version", "logical", "binlog"];
/// What they mean, in the same order.
pub(crate) const VIAS: [Via; VIA_NAMES.len()] =
    [Via::Outbox, Via::UpdatedAt, Via::Versions, Via::DataVersion, Via::Logical, Via::Binlog];

/// The keys of `[feeds.NAME]`.
pub(crate) const FEED: &[Spec<FeedConfig>] = &[
    Spec {
        name: "source",
        kind: Kind::Text,
        default: Default::Required { example: "main" },
        change: Change::Start,
        doc: "The name of the [sources.NAME] to read. The primary, where there are replicas.",
        write: |feed, value| feed.source = value.text(),
        read: |feed| Value::Text(feed.source.clone()),
    },
    Spec {
        name: "loaders",
        kind: Kind::Lines,
        default: Default::Required { example: "user" },
        change: Change::Start,
        doc: "The loaders whose keys become stale by what the feed tells; one may be written without brackets. Where all do, so does every key \
              that begins like theirs.",
        write: |feed, value| feed.loaders = value.lines(),
        read: |feed| Value::Lines(feed.loaders.clone()),
    },
    Spec {
        name: "via",
        kind: Kind::Choice(VIA_NAMES),
        default: Default::Text("outbox"),
        change: Change::Start,
        doc: "How changes are learned: from a table that triggers write to (`leasehold sql outbox` prints them); from a column \
              with the time of the last change (sees no deletes); from a table with a version for all; from SQLite's count of \
              commits; from PostgreSQL's log, by a publication; from the binary log of MySQL or MariaDB. A version and a count \
              make all keys of the loaders stale.",
        write: |feed, value| feed.settings.via = value.choice(&VIAS),
        read: |feed| Value::from_choice(&VIAS, feed.settings.via),
    },
    Spec {
        name: "table",
        kind: Kind::Text,
        default: Default::Absent { example: "users" },
        change: Change::Start,
        doc: "The table whose rows change, or with via = \"versions\" the table of versions: TABLE or SCHEMA.TABLE, as the database \
              spells it.",
        write: |feed, value| feed.settings.table = value.text(),
        read: |feed| Value::from_text(Some(&feed.settings.table).filter(|table| !table.is_empty()).map(String::as_str)),
    },
    Spec {
        name: "key",
        kind: Kind::Lines,
        default: Default::Absent { example: "id" },
        change: Change::Start,
        doc: "The columns that make up keys. Each goes to the placeholder of its name in the patterns of the loaders, or \
              \"COLUMN=PLACEHOLDER\" says to which. For outbox, updated_at, logical and binlog.",
        write: |feed, value| feed.key = value.lines(),
        read: |feed| if feed.key.is_empty() { Value::Absent } else { Value::Lines(feed.key.clone()) },
    },
    Spec {
        name: "outbox",
        kind: Kind::Text,
        default: Default::Text("leasehold_outbox"),
        change: Change::Start,
        doc: "The table that the triggers write to; several feeds may share one.",
        write: |feed, value| feed.settings.outbox = value.text(),
        read: |feed| Value::Text(feed.settings.outbox.clone()),
    },
    Spec {
        name: "retention",
        kind: span(Duration::ZERO, DAY),
        default: Default::Text("1h"),
        change: Change::Start,
        doc: "For the outbox in PostgreSQL and MySQL: older rows are deleted by the feed, if it may. 0 = by somebody else. If rows go that it has not \
              read, it notices, and all it covers is stale.",
        write: |feed, value| feed.settings.retention = value.duration(),
        read: |feed| Value::Duration(feed.settings.retention),
    },
    Spec {
        name: "updated_column",
        kind: Kind::Text,
        default: Default::Text("updated_at"),
        change: Change::Start,
        doc: "For updated_at: the column with the time of the last change. It needs an index, and must not lie in the future.",
        write: |feed, value| feed.settings.updated_column = value.text(),
        read: |feed| Value::Text(feed.settings.updated_column.clone()),
    },
    Spec {
        name: "overlap",
        kind: span(Duration::ZERO, HOUR),
        default: Default::Text("10s"),
        change: Change::Start,
        doc: "For updated_at, and the outbox of MySQL: how much later than it was written a row may be committed. At least as long as the longest \
              transaction that writes to the table; what comes later is not seen.",
        write: |feed, value| feed.settings.overlap = value.duration(),
        read: |feed| Value::Duration(feed.settings.overlap),
    },
    Spec {
        name: "resource",
        kind: Kind::Text,
        default: Default::Absent { example: "users" },
        change: Change::Start,
        doc: "For versions: the row of the table of versions that counts for these loaders.",
        write: |feed, value| feed.settings.resource = value.text(),
        read: |feed| {
            Value::from_text(Some(&feed.settings.resource).filter(|name| !name.is_empty()).map(String::as_str))
        },
    },
    Spec {
        name: "resource_column",
        kind: Kind::Text,
        default: Default::Text("name"),
        change: Change::Start,
        doc: "For versions: the column, of a text type, that names the resource.",
        write: |feed, value| feed.settings.resource_column = value.text(),
        read: |feed| Value::Text(feed.settings.resource_column.clone()),
    },
    Spec {
        name: "version_column",
        kind: Kind::Text,
        default: Default::Text("version"),
        change: Change::Start,
        doc: "For versions: the column with the version. Any other value than before is a new version.",
        write: |feed, value| feed.settings.version_column = value.text(),
        read: |feed| Value::Text(feed.settings.version_column.clone()),
    },
    Spec {
        name: "publication",
        kind: Kind::Text,
        default: Default::Text("leasehold"),
        change: Change::Start,
        doc: "For logical: the publication that has the table (`leasehold sql publication` prints it). It needs wal_level = logical, and a user with \
              REPLICATION; the slot is temporary, so no log piles up while the cache is away.",
        write: |feed, value| feed.settings.publication = value.text(),
        read: |feed| Value::Text(feed.settings.publication.clone()),
    },
    Spec {
        name: "server_id",
        kind: Kind::Integer { min: 1, max: u32::MAX as u64, auto: true },
        default: Default::Text("auto"),
        change: Change::Start,
        doc: "For binlog: the feed's number among the replicas of the server; no two may have the same. \"auto\" = one by chance, from 2^31 on.",
        write: |feed, value| {
            feed.settings.server_id = if value == Value::Auto { None } else { u32::try_from(value.integer()).ok() }
        },
        read: |feed| feed.settings.server_id.map_or(Value::Auto, |id| Value::Integer(id.into())),
    },
    Spec {
        name: "poll",
        kind: Kind::Duration { min: MS, max: MINUTE, unit: None, auto: true },
        default: Default::Text("auto"),
        change: Change::Start,
        doc: "Time between two looks. \"auto\" = 1 s; PostgreSQL's outbox is read when NOTIFY tells of a commit besides, MySQL's every 100 ms, and an \
              SQLite file is asked every 10 ms whether it has changed. The log of a database comes by itself: a look finds out whether all of it has come.",
        write: |feed, value| feed.settings.poll = if value == Value::Auto { None } else { Some(value.duration()) },
        read: |feed| feed.settings.poll.map_or(Value::Auto, Value::Duration),
    },
    Spec {
        name: "window",
        kind: span(Duration::ZERO, SECOND),
        default: Default::Text("10ms"),
        change: Change::Start,
        doc: "The least time between two reads: what changes within it is read together, and each key invalidated once.",
        write: |feed, value| feed.settings.window = value.duration(),
        read: |feed| Value::Duration(feed.settings.window),
    },
    Spec {
        name: "stale_after",
        kind: span(Duration::from_millis(100), DAY),
        default: Default::Text("10s"),
        change: Change::Start,
        doc: "If the feed could not be read for so long, all keys of its loaders become stale, and again each time so much more has passed: \
              no value is fresh for longer than that while nobody tells of changes.",
        write: |feed, value| feed.stale_after = value.duration(),
        read: |feed| Value::Duration(feed.stale_after),
    },
];
