//! From events of the log to groups: what each transaction changed in the table, told at its end.
//!
//! ```text
//! Gtid │ Begin ─► Table map ─► Rows … ─► Xid │ Commit ─► Group
//!                     └ the ids of rows events and what columns they have
//! Query ─► a definition of the table ─► Group: all
//! ```
//!
//! An event that may concern the table and cannot be read (rows without a key column, statements as text, compressed events, a table that does
//! not look as expected) makes its group one that may have changed anything: [`Group::is_unreadable`]. What rolled back is not in the log.

use super::statement::{Effect, effect};
use super::text::{Kind, NoText};
use leasehold_loader_api::feed::{Change, KeyValues};
use mysql_async::binlog::events::{
    Event, EventData, GtidEvent, OptionalMetaExtractor, QueryEvent, RotateEvent, RowsEventData, TableMapEvent,
};
use mysql_async::binlog::row::BinlogRow;
use std::collections::{HashSet, VecDeque};
use std::time::Instant;

/// Changes that are kept for telling them one by one; beyond that all is stale.
const CHANGES_MAX: usize = 100_000;

/// Types of events (`Log_event_type` of both servers; MySQL's end at 42, those of MariaDB alone begin at 160).
mod kind {
    pub(super) const QUERY: u8 = 2;
    pub(super) const STOP: u8 = 3;
    pub(super) const ROTATE: u8 = 4;
    pub(super) const INTVAR: u8 = 5;
    pub(super) const RAND: u8 = 13;
    pub(super) const USER_VAR: u8 = 14;
    pub(super) const FORMAT_DESCRIPTION: u8 = 15;
    pub(super) const XID: u8 = 16;
    pub(super) const TABLE_MAP: u8 = 19;
    pub(super) const WRITE_ROWS_V1: u8 = 23;
    pub(super) const DELETE_ROWS_V1: u8 = 25;
    pub(super) const HEARTBEAT: u8 = 27;
    pub(super) const IGNORABLE: u8 = 28;
    pub(super) const ROWS_QUERY: u8 = 29;
    pub(super) const WRITE_ROWS: u8 = 30;
    pub(super) const DELETE_ROWS: u8 = 32;
    pub(super) const GTID: u8 = 33;
    pub(super) const ANONYMOUS_GTID: u8 = 34;
    pub(super) const PREVIOUS_GTIDS: u8 = 35;
    pub(super) const TRANSACTION_CONTEXT: u8 = 36;
    pub(super) const VIEW_CHANGE: u8 = 37;
    pub(super) const XA_PREPARE: u8 = 38;
    pub(super) const PARTIAL_UPDATE_ROWS: u8 = 39;
    pub(super) const TRANSACTION_PAYLOAD: u8 = 40;
    pub(super) const HEARTBEAT_V2: u8 = 41;
    pub(super) const GTID_TAGGED: u8 = 42;
    pub(super) const ANNOTATE_ROWS: u8 = 160;
    pub(super) const BINLOG_CHECKPOINT: u8 = 161;
    pub(super) const MARIADB_GTID: u8 = 162;
    pub(super) const GTID_LIST: u8 = 163;
    pub(super) const START_ENCRYPTION: u8 = 164;
    /// Rows whose values are packed; the table's id is not.
    pub(super) const FIRST_COMPRESSED_ROWS: u8 = 166;
    pub(super) const LAST_COMPRESSED_ROWS: u8 = 171;
}

/// Flags of events.
const ARTIFICIAL: u16 = 0x20;
const IGNORABLE: u16 = 0x80;

/// Rows events that only say that tables are done with have this for an id.
const NO_TABLE: u64 = 0x00ff_ffff;

/// A place in the log: just behind an event. Files are numbered, and names grow longer when digits run out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct LogPosition {
    pub(super) file: String,
    pub(super) offset: u64,
}

impl LogPosition {
    /// Before all others.
    pub(super) fn nowhere() -> Self {
        Self { file: String::new(), offset: 0 }
    }

    /// Whether this is in a file before that one.
    pub(super) fn is_in_file_before(&self, file: &str) -> bool {
        (self.file.len(), self.file.as_str()) < (file.len(), file)
    }

    /// Whether what ends here is in what ends there.
    pub(super) fn is_within(&self, other: &Self) -> bool {
        if self.file == other.file { self.offset <= other.offset } else { self.is_in_file_before(&other.file) }
    }
}

/// What a transaction, or a definition, changed in the table.
#[derive(Debug)]
pub(super) struct Group {
    pub(super) end: LogPosition,
    /// Its number on MySQL: the server's UUID, and tag if there is one, and the count.
    pub(super) gtid: Option<(String, u64)>,
    pub(super) arrived: Instant,
    pub(super) changes: Vec<Change>,
    /// Perhaps all rows.
    pub(super) is_all: bool,
    /// The same, because of something that cannot be read.
    pub(super) is_unreadable: bool,
}

/// The columns of the table as the log has them.
#[derive(Debug)]
pub(super) struct Layout {
    columns: usize,
    key: Vec<KeyColumn>,
    /// Tables whose updates and deletes change ours without a trace in the log.
    parents: HashSet<(String, String)>,
    /// Events before this may be of a table with other columns.
    valid_after: LogPosition,
    /// Columns in the log, once seen; MariaDB has hidden ones behind those that it shows.
    seen_columns: Option<u64>,
}

#[derive(Debug)]
pub(super) struct KeyColumn {
    /// Its place among the columns.
    pub(super) place: usize,
    pub(super) name: String,
    pub(super) kind: Kind,
}

impl Layout {
    pub(super) fn new(
        columns: usize,
        key: Vec<KeyColumn>,
        parents: HashSet<(String, String)>,
        valid_after: LogPosition,
    ) -> Self {
        Self { columns, key, parents, valid_after, seen_columns: None }
    }

    /// Whether the table of the log looks like this.
    fn fits(&mut self, map: &TableMapEvent<'_>) -> bool {
        let columns = map.columns_count();
        if columns < self.columns as u64 || self.seen_columns.is_some_and(|seen| seen != columns) {
            return false;
        }
        let has_kinds = self
            .key
            .iter()
            .all(|column| matches!(map.get_column_type(column.place), Ok(Some(found)) if column.kind.fits(found)));
        // With binlog_row_metadata = FULL the names are there too.
        let Ok(metadata) = OptionalMetaExtractor::new(map.iter_optional_meta()) else { return false };
        let names: Result<Vec<String>, _> =
            metadata.iter_column_name().map(|name| name.map(|name| name.name().into_owned())).collect();
        let Ok(names) = names else { return false };
        let has_names = names.is_empty()
            || self.key.iter().all(|column| names.get(column.place).is_some_and(|name| *name == column.name));
        let fits = has_kinds && has_names;
        if fits {
            self.seen_columns = Some(columns);
        }
        fits
    }
}

/// Reads events one after another.
pub(super) struct LogReader {
    schema: String,
    table: String,
    /// `None`: the table has been altered, and must be looked at again.
    pub(super) layout: Option<Layout>,
    /// Behind the last event.
    pub(super) at: LogPosition,
    /// Whether the log has said if its events end with a checksum. From then on the decoder takes it off.
    pub(super) knows_checksums: bool,
    /// Of the transaction that is being read.
    changes: Vec<Change>,
    is_all: bool,
    is_unreadable: bool,
    gtid: Option<(String, u64)>,
    /// A compressed transaction has begun, and not ended.
    is_packed: bool,
    /// Those that have ended, in the order of the log.
    pub(super) groups: VecDeque<Group>,
    /// Transactions in files before this one can all be read (MariaDB).
    pub(super) checkpoint: String,
}

impl LogReader {
    pub(super) fn new(schema: &str, table: &str, layout: Layout, at: LogPosition) -> Self {
        Self {
            schema: schema.to_owned(),
            table: table.to_owned(),
            layout: Some(layout),
            at,
            knows_checksums: false,
            changes: Vec::new(),
            is_all: false,
            is_unreadable: false,
            gtid: None,
            is_packed: false,
            groups: VecDeque::new(),
            checkpoint: String::new(),
        }
    }

    /// Takes the next event. `maps`: the table map of a table's id.
    pub(super) fn take<'m>(&mut self, event: &Event, maps: impl Fn(u64) -> Option<&'m TableMapEvent<'static>>) {
        let type_ = event.header().event_type_raw();
        self.move_to(event, type_);
        match type_ {
            kind::XID => self.end(),
            kind::QUERY => match event.read_event::<QueryEvent<'_>>() {
                Ok(query) => self.take_statement(query.query_raw(), &query.schema()),
                Err(_) => self.is_unreadable = true,
            },
            kind::WRITE_ROWS_V1..=kind::DELETE_ROWS_V1
            | kind::WRITE_ROWS..=kind::DELETE_ROWS
            | kind::PARTIAL_UPDATE_ROWS => match event.read_data() {
                Ok(Some(EventData::RowsEvent(rows))) => self.take_rows(&rows, maps(rows.table_id())),
                _ => self.is_unreadable = true,
            },
            kind::FIRST_COMPRESSED_ROWS..=kind::LAST_COMPRESSED_ROWS => {
                let id = event.data().iter().take(6).rev().fold(0, |id, byte| id << 8 | u64::from(*byte));
                self.is_unreadable |= maps(id).is_none_or(|map| self.is_ours(map) || self.is_parent(map));
            }
            kind::GTID | kind::GTID_TAGGED => {
                self.begin();
                self.gtid = event.read_event::<GtidEvent>().ok().map(|gtid| (gtid_name(&gtid), gtid.gno()));
            }
            kind::MARIADB_GTID | kind::ANONYMOUS_GTID => self.begin(),
            // One phase: the transaction is committed with it. Else nobody can tell until XA COMMIT, which then is for all.
            kind::XA_PREPARE if event.data().first() == Some(&1) => self.end(),
            kind::XA_PREPARE => self.forget(),
            kind::TRANSACTION_PAYLOAD => self.is_packed = true,
            kind::BINLOG_CHECKPOINT => {
                if let Some(name) = event.data().get(4..) {
                    self.checkpoint = String::from_utf8_lossy(name).into_owned();
                }
            }
            kind::STOP
            | kind::ROTATE
            | kind::INTVAR
            | kind::RAND
            | kind::USER_VAR
            | kind::FORMAT_DESCRIPTION
            | kind::TABLE_MAP
            | kind::HEARTBEAT
            | kind::HEARTBEAT_V2
            | kind::IGNORABLE
            | kind::ROWS_QUERY
            | kind::PREVIOUS_GTIDS
            | kind::TRANSACTION_CONTEXT
            | kind::VIEW_CHANGE
            | kind::ANNOTATE_ROWS
            | kind::GTID_LIST
            | kind::START_ENCRYPTION => {}
            _ if event.header().flags_raw() & IGNORABLE != 0 => {}
            // An incident, a LOAD DATA as text, or something newer than this.
            _ => {
                self.is_unreadable = true;
                self.end();
            }
        }
    }

    /// Whether nothing of a transaction has been read that is not over.
    fn is_clean(&self) -> bool {
        self.changes.is_empty() && !self.is_all && !self.is_unreadable
    }

    fn move_to(&mut self, event: &Event, type_: u8) {
        let header = event.header();
        let (offset, flags) = (u64::from(header.log_pos()), header.flags_raw());
        match type_ {
            kind::ROTATE => {
                if let Ok(rotate) = event.read_event::<RotateEvent<'_>>() {
                    let name = rotate.name_raw();
                    let checksum = if self.knows_checksums { 0 } else { checksum_bytes(event) };
                    let name = &name[..name.len().saturating_sub(checksum)];
                    let file = String::from_utf8_lossy(name).into_owned();
                    self.at = LogPosition { file, offset: rotate.position() };
                }
            }
            // The first is sent again for those who begin in the middle.
            kind::FORMAT_DESCRIPTION => self.knows_checksums = true,
            kind::HEARTBEAT if event.data() != self.at.file.as_bytes() => {}
            _ if offset == 0 || flags & ARTIFICIAL != 0 => {}
            _ => {
                // Offsets have 32 bits there, and a file that ends with a large transaction may be longer.
                const ROUND: u64 = 1 << 32;
                let mut whole = self.at.offset - self.at.offset % ROUND + offset;
                if whole + ROUND / 2 < self.at.offset {
                    whole += ROUND;
                }
                self.at.offset = self.at.offset.max(whole);
            }
        }
    }

    /// A transaction begins. What is left of the one before is told rather than lost.
    fn begin(&mut self) {
        self.is_unreadable |= std::mem::take(&mut self.is_packed);
        if self.is_clean() { self.forget() } else { self.end() }
    }

    fn forget(&mut self) {
        (self.is_all, self.is_unreadable, self.gtid) = (false, false, None);
        self.changes.clear();
    }

    /// The transaction is committed.
    fn end(&mut self) {
        self.is_packed = false;
        if self.is_clean() {
            return self.forget();
        }
        let mut group = Group {
            end: self.at.clone(),
            gtid: self.gtid.take(),
            arrived: Instant::now(),
            changes: std::mem::take(&mut self.changes),
            is_all: std::mem::take(&mut self.is_all),
            is_unreadable: std::mem::take(&mut self.is_unreadable),
        };
        if group.is_all || group.is_unreadable {
            group.changes.clear();
        }
        let waiting: usize = self.groups.iter().map(|group| group.changes.len()).sum();
        if waiting + group.changes.len() > CHANGES_MAX || self.groups.len() >= CHANGES_MAX {
            group.changes.clear();
            group.is_all = true;
            group.is_unreadable |= self.groups.drain(..).any(|group| group.is_unreadable);
        }
        self.groups.push_back(group);
    }

    fn take_statement(&mut self, sql: &[u8], current: &str) {
        let parents = self.layout.iter().flat_map(|layout| layout.parents.iter());
        let parents = parents.map(|(schema, table)| (schema.as_str(), table.as_str()));
        let tables: Vec<_> = std::iter::once((self.schema.as_str(), self.table.as_str())).chain(parents).collect();
        match effect(sql, current, &tables) {
            Effect::None => {}
            Effect::Ends => self.end(),
            Effect::Alters => {
                self.layout = None;
                self.is_all = true;
                self.end();
            }
            Effect::Unreadable => self.is_unreadable = true,
            Effect::EndsUnreadable => {
                self.is_unreadable = true;
                self.end();
            }
        }
    }

    fn is_ours(&self, map: &TableMapEvent<'_>) -> bool {
        map.table_name().eq_ignore_ascii_case(&self.table) && map.database_name().eq_ignore_ascii_case(&self.schema)
    }

    fn is_parent(&self, map: &TableMapEvent<'_>) -> bool {
        let is_it = |(schema, table): &(String, String)| {
            map.table_name().eq_ignore_ascii_case(table) && map.database_name().eq_ignore_ascii_case(schema)
        };
        // While nobody knows the parents, any table may be one; what comes then is for all rows anyway.
        self.layout.as_ref().is_none_or(|layout| layout.parents.iter().any(is_it))
    }

    fn take_rows(&mut self, rows: &RowsEventData<'_>, map: Option<&TableMapEvent<'static>>) {
        let Some(map) = map else {
            self.is_unreadable |= rows.table_id() != NO_TABLE;
            return;
        };
        if !self.is_ours(map) {
            let is_insert = matches!(rows, RowsEventData::WriteRowsEvent(_) | RowsEventData::WriteRowsEventV1(_));
            self.is_all |= !is_insert && self.is_parent(map);
            return;
        }
        let Some(layout) = &mut self.layout else {
            self.is_all = true;
            return;
        };
        if self.at.is_within(&layout.valid_after) {
            self.is_all = true;
            return;
        }
        if !layout.fits(map) {
            self.layout = None;
            self.is_unreadable = true;
            return;
        }
        match changes_of(&layout.key, rows, map) {
            Ok(changes) if self.changes.len() + changes.len() <= CHANGES_MAX => self.changes.extend(changes),
            Ok(_) => {
                self.changes.clear();
                self.is_all = true;
            }
            Err(NoText) => self.is_unreadable = true,
        }
    }
}

/// How long the checksum is at the end of the first event, which names the file before anything says whether there are checksums: MariaDB
/// sends one, MySQL none, whatever their logs have.
fn checksum_bytes(event: &Event) -> usize {
    const CRC: crc::Crc<u32> = crc::Crc::<u32>::new(&crc::CRC_32_ISO_HDLC);
    let (header, data) = (event.header(), event.data());
    let Some((body, checksum)) = data.split_last_chunk::<4>() else { return 0 };
    // As it is on the wire: time, type, server, size, position, flags.
    let mut digest = CRC.digest();
    digest.update(&header.timestamp().to_le_bytes());
    digest.update(&[header.event_type_raw()]);
    digest.update(&header.server_id().to_le_bytes());
    digest.update(&header.event_size().to_le_bytes());
    digest.update(&header.log_pos().to_le_bytes());
    digest.update(&header.flags_raw().to_le_bytes());
    digest.update(body);
    if digest.finalize().to_le_bytes() == *checksum { checksum.len() } else { 0 }
}

/// The name that a set of GTIDs has for the server, and tag if there is one, of this GTID.
fn gtid_name(gtid: &GtidEvent) -> String {
    let hex: String = gtid.sid().iter().map(|byte| format!("{byte:02x}")).collect();
    let uuid = [0..8, 8..12, 12..16, 16..20, 20..32].map(|group| &hex[group]).join("-");
    gtid.tag().map_or(uuid.clone(), |tag| format!("{uuid}:{tag}"))
}

fn changes_of(key: &[KeyColumn], rows: &RowsEventData<'_>, map: &TableMapEvent<'_>) -> Result<Vec<Change>, NoText> {
    let in_old: Vec<bool> = rows.columns_before_image().map(|bits| bits.iter().by_vals().collect()).unwrap_or_default();
    let in_new: Vec<bool> = rows.columns_after_image().map(|bits| bits.iter().by_vals().collect()).unwrap_or_default();
    // Where in an image each key column stands, if it is there.
    let places = |image: &[bool]| -> Vec<Option<usize>> {
        let place = |column: &KeyColumn| {
            let (before, from) = image.split_at_checked(column.place)?;
            from.first()?.then(|| before.iter().filter(|is_there| **is_there).count())
        };
        key.iter().map(place).collect()
    };
    let (old_places, new_places) = (places(&in_old), places(&in_new));
    let values = |row: &BinlogRow, places: &[Option<usize>], before: Option<&KeyValues>| -> Result<KeyValues, NoText> {
        let value = |(index, (column, place)): (usize, (&KeyColumn, &Option<usize>))| match place {
            Some(place) => column.kind.text(row.as_ref(*place).ok_or(NoText)?),
            // An image without a column is of a row that has kept it.
            None => before.and_then(|before| before.get(index)).cloned().ok_or(NoText),
        };
        key.iter().zip(places).enumerate().map(value).collect()
    };
    let mut changes = Vec::new();
    for row in rows.rows(map) {
        let (old, new) = row.map_err(|_| NoText)?;
        let old = old.map(|row| values(&row, &old_places, None)).transpose()?;
        let new = new.map(|row| values(&row, &new_places, old.as_ref())).transpose()?;
        changes.push(Change::Row { old, new });
    }
    Ok(changes)
}
