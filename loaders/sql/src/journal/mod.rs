//! The journal of writes that are behind: changes that were answered and are not in their source yet, in files on disk.
//!
//! ```text
//! DIR/identity                         who this journal is
//! DIR/00000000000000000001.journal     segments: appended to one after the other, deleted oldest first
//! DIR/letters                          dead letters, see [`Letters`]
//! DIR/reserve                          room for the begin of a segment, given up when the disk has no other: a journal that has filled
//!                                      its disk must be opened to be flushed
//! ```
//!
//! One thread appends ([`Journal::append`]): a group of changes with one write and one sync, then all of them are answered. Numbers of
//! changes grow and are never given twice, not even to a change that was refused: each start takes a new range of 2^40, and begins at a
//! place in it that is drawn, so that a copy of the directory gives other numbers and is found out by the source's position.
//!
//! What a crash leaves half written at the very end was answered by nobody, and is cut off. Anything else that cannot be read is an
//! error that names the file and the place. It knows nothing of sources: what is flushed the caller says ([`Journal::release`]).

mod change;
mod frames;
mod letters;
mod segment;
#[cfg(test)]
mod tests;

pub use change::JournalChange;
pub use letters::{DeadLetter, Letters};

use frames::Ending;
use segment::{Contents, Header, Identity, Segment, ordinal_of, path_of, sync_directory};
use std::collections::VecDeque;
use std::fs::File;
use std::hash::{BuildHasher, RandomState};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

/// Numbers of a range: with a million a second, those behind the beginning last for 6 days at least. A run that used them up would
/// go on in the next range, so starts are only a hint.
const RANGE_BITS: u32 = 40;

/// The beginning is drawn from the first half of a range.
const BEGIN_BITS: u32 = RANGE_BITS - 1;

/// A page or two for each of a few files and names.
const RESERVE_BYTES: usize = 64 << 10;

/// When a change counts as written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fsync {
    /// It is on the disk.
    Always,
    /// The system has it; the disk a second later.
    EverySecond,
    /// The system has it, and brings it to the disk when it likes.
    Never,
}

/// A journal, as the operator says.
#[derive(Clone, Debug)]
pub struct JournalSettings {
    /// The directory, made if it is not there.
    pub directory: PathBuf,
    /// When a change counts as written.
    pub fsync: Fsync,
    /// A segment that has so many bytes is followed by the next.
    pub segment_bytes: u64,
    /// All segments together take at most so many.
    pub bytes_max: u64,
}

/// Why a journal cannot be used.
#[derive(Debug)]
pub enum JournalError {
    /// The system refuses a file or directory.
    System(PathBuf, io::Error),
    /// Another process uses the directory.
    InUse(PathBuf),
    /// A file is not as it was written; where, and what is wrong.
    Damaged(PathBuf, u64, String),
}

impl std::fmt::Display for JournalError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::System(path, error) => write!(f, "{}: {error}", path.display()),
            Self::InUse(path) => write!(f, "{}: another process uses this journal", path.display()),
            Self::Damaged(path, at, what) => write!(f, "{}: damaged at byte {at}: {what}", path.display()),
        }
    }
}

impl std::error::Error for JournalError {}

/// Why a group of changes was not written.
#[derive(Debug, PartialEq, Eq)]
pub enum AppendError {
    /// The journal has as many bytes as it may.
    Full,
    /// The system refused: none of the changes will ever be seen. The next group may do.
    Refused(String),
    /// The disk failed, and nothing more could be written: the changes may come back after a restart.
    Unknown(String),
}

/// See the module.
#[derive(Debug)]
pub struct Journal {
    settings: JournalSettings,
    identity: Identity,
    /// Held as long as the journal is open.
    _lock: File,
    active: Segment,
    /// Why nothing may be appended to the active segment any more.
    finished: Option<String>,
    /// Older segments, oldest first.
    sealed: VecDeque<Sealed>,
    /// The last number that was given.
    last: u64,
    /// Above every number of earlier starts, and below those of this one.
    range_start: u64,
    /// What was written since the last sync, where writes are answered before they are synced.
    unsynced: Vec<u8>,
    /// A write has found no room on the disk since the active segment was last emptied.
    is_short: bool,
    syncs: u64,
}

#[derive(Debug)]
struct Sealed {
    ordinal: u64,
    bytes: u64,
    /// The last number in it.
    last: u64,
}

impl Journal {
    /// Opens a journal, or makes a new one; `each` is told what is in it, in order.
    ///
    /// # Errors
    /// The directory cannot be used, or what is in it is not as it was written.
    pub fn open(settings: JournalSettings, mut each: impl FnMut(u64, JournalChange)) -> Result<Self, JournalError> {
        let directory = settings.directory.clone();
        let system = |path: &Path| {
            let path = path.to_owned();
            move |error| JournalError::System(path, error)
        };
        std::fs::create_dir_all(&directory).map_err(system(&directory))?;
        let lock = lock(&directory)?;
        let mut ordinals = Vec::new();
        for entry in std::fs::read_dir(&directory).map_err(system(&directory))? {
            let path = entry.map_err(system(&directory))?.path();
            if path.extension().is_some_and(|extension| extension == "draft") {
                std::fs::remove_file(&path).map_err(system(&path))?;
            }
            ordinals.extend(ordinal_of(&path));
        }
        ordinals.sort_unstable();
        let identity = identity(&directory, ordinals.is_empty())?;
        let mut sealed: VecDeque<Sealed> = VecDeque::with_capacity(ordinals.len() + 1);
        let mut waiting: Option<Contents> = None;
        let mut last = 0;
        for ordinal in ordinals {
            let path = path_of(&directory, ordinal);
            let damaged = |at, what: &str| Err(JournalError::Damaged(path.clone(), at, what.to_owned()));
            let Some(contents) = Contents::read(&path).map_err(system(&path))? else {
                return damaged(0, "this is no header of a segment");
            };
            let header = contents.header;
            if header.identity != identity || header.ordinal != ordinal {
                return damaged(8, "the segment is of another journal, or has another name");
            }
            // The oldest has none before it: those were deleted as they were flushed.
            if let Some(earlier) = waiting.take() {
                if earlier.header.ordinal + 1 != ordinal {
                    return damaged(24, "the segment before this one is missing");
                }
                sealed.push_back(read_sealed(&directory, &earlier, header.earlier_end, &mut each)?);
            }
            last = last.max(header.floor);
            waiting = Some(contents);
        }
        let (mut ordinal, mut earlier_end) = (1, 0);
        if let Some(contents) = waiting {
            let of_last = read_last(&directory, &contents, &mut each)?;
            (ordinal, earlier_end) = (of_last.ordinal + 1, of_last.bytes);
            sealed.push_back(of_last);
        }
        last = sealed.iter().map(|sealed| sealed.last).fold(last, u64::max);
        let range_start = ((last >> RANGE_BITS) + 1) << RANGE_BITS;
        last = range_start + (drawn() >> (u64::BITS - BEGIN_BITS));
        let header = Header { identity, ordinal, floor: last, earlier_end };
        let active = create_segment(&directory, &header).map_err(system(&path_of(&directory, ordinal)))?;
        keep_reserve(&directory);
        let (finished, unsynced, is_short) = (None, Vec::new(), false);
        Ok(Self {
            settings,
            identity,
            _lock: lock,
            active,
            finished,
            sealed,
            last,
            range_start,
            unsynced,
            is_short,
            syncs: 0,
        })
    }

    /// Who this journal is: 32 hexadecimal digits, the same over all starts.
    #[must_use]
    pub fn identity(&self) -> String {
        self.identity.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// Bytes of all files.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.active.len + self.sealed.iter().map(|sealed| sealed.bytes).sum::<u64>()
    }

    /// The last number that was given. Numbers of this start lie above what [`Journal::open`] told.
    #[must_use]
    pub fn last(&self) -> u64 {
        self.last
    }

    /// Above every number of earlier starts, and below those of this one.
    #[must_use]
    pub fn range_start(&self) -> u64 {
        self.range_start
    }

    /// How often changes were brought to the disk since it was opened.
    #[must_use]
    pub fn syncs(&self) -> u64 {
        self.syncs
    }

    /// Whether changes were answered that are not on the disk.
    #[must_use]
    pub fn is_unsynced(&self) -> bool {
        !self.unsynced.is_empty()
    }

    /// Writes a group of changes, all or none; the number of the first, those of the others follow.
    ///
    /// # Errors
    /// See [`AppendError`]; the changes have no numbers then.
    pub fn append<'c>(&mut self, changes: impl Iterator<Item = &'c JournalChange>) -> Result<u64, AppendError> {
        let before = self.last;
        let mut number = before;
        let mut bytes = Vec::new();
        for change in changes {
            number += 1;
            frames::encode(&mut bytes, number, before, |out| change.encode(out));
        }
        if self.bytes() + bytes.len() as u64 > self.settings.bytes_max {
            return Err(AppendError::Full);
        }
        if self.finished.is_some() || self.active.len >= self.settings.segment_bytes {
            self.roll()?;
        }
        // Whatever comes of it, these are given.
        self.last = number;
        if let Err((error, is_as_before)) = self.active.append(&bytes) {
            let text = format!("the journal cannot be written: {error}");
            self.is_short = true;
            if !is_as_before {
                self.finished = Some(text.clone());
                self.roll()?;
            }
            return Err(AppendError::Refused(text));
        }
        match self.settings.fsync {
            Fsync::Always => {
                self.syncs += 1;
                if let Err(error) = self.active.sync() {
                    let text = format!("the journal cannot be synced: {error}");
                    self.finished = Some(text.clone());
                    self.roll()?;
                    return Err(AppendError::Refused(text));
                }
            }
            Fsync::EverySecond => self.unsynced.extend_from_slice(&bytes),
            Fsync::Never => {}
        }
        Ok(before + 1)
    }

    /// Brings to the disk what was answered already; about once a second.
    ///
    /// # Errors
    /// The disk failed, and another segment could not be written either: a crash of the machine would lose what was answered
    /// since the last sync.
    pub fn sync(&mut self) -> Result<(), AppendError> {
        if self.unsynced.is_empty() {
            return Ok(());
        }
        self.syncs += 1;
        if let Err(error) = self.active.sync() {
            let text = format!("the journal cannot be synced: {error}");
            tracing::error!(error = text, "what was not on the disk is written to another segment");
            self.finished = Some(text);
            return self.roll();
        }
        self.unsynced.clear();
        Ok(())
    }

    /// Records below `number` are needed no more: segments that have no others are deleted.
    ///
    /// # Errors
    /// A file cannot be deleted; it is tried again next time.
    pub fn release(&mut self, number: u64) -> io::Result<()> {
        /// Less may stay until there is more.
        const WORTH_A_CUT: u64 = 1 << 20;
        let is_worth_it = self.is_short || self.active.len >= WORTH_A_CUT.min(self.settings.segment_bytes);
        if number > self.last && is_worth_it && self.finished.is_none() {
            // Without another file: on a full disk there would be no room for its header.
            self.active.empty()?;
            self.unsynced.clear();
            if std::mem::take(&mut self.is_short) {
                keep_reserve(&self.settings.directory);
            }
        }
        let directory = &self.settings.directory;
        let mut is_changed = false;
        while let Some(oldest) = self.sealed.front().filter(|oldest| oldest.last < number) {
            match std::fs::remove_file(path_of(directory, oldest.ordinal)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => self.sealed.pop_front(),
            };
            is_changed = true;
        }
        // The order of deletions must last, or a newer one would be missing before an older.
        if is_changed { sync_directory(directory) } else { Ok(()) }
    }

    /// Goes on in a new segment. What was answered and not synced in one that failed is written again.
    fn roll(&mut self) -> Result<(), AppendError> {
        let was_finished = self.finished.is_some();
        if !was_finished && !self.unsynced.is_empty() {
            let ordinal = self.active.ordinal;
            self.sync()?;
            if self.active.ordinal != ordinal {
                return Ok(());
            }
        }
        let rolled = self.seal().and_then(|()| self.write_again());
        rolled.map_err(|error| {
            let text = format!("the journal has no new segment: {error}");
            if was_finished { AppendError::Unknown(text) } else { AppendError::Refused(text) }
        })
    }

    /// The active segment ends with what counts of it, and an empty one follows.
    fn seal(&mut self) -> io::Result<()> {
        let counts_synced_only = self.finished.is_some() && self.settings.fsync != Fsync::Never;
        let end = if counts_synced_only { self.active.synced } else { self.active.len };
        // Those that are written again keep their numbers.
        let floor = first_number(&self.unsynced).map_or(self.last, |first| first - 1);
        let ordinal = self.active.ordinal + 1;
        let header = Header { identity: self.identity, ordinal, floor, earlier_end: end };
        let next = create_segment(&self.settings.directory, &header)?;
        let before = std::mem::replace(&mut self.active, next);
        self.sealed.push_back(Sealed { ordinal: before.ordinal, bytes: end, last: self.last });
        self.finished = None;
        Ok(())
    }

    fn write_again(&mut self) -> io::Result<()> {
        if self.unsynced.is_empty() {
            return Ok(());
        }
        let written = self.active.append(&self.unsynced).map_err(|(error, _)| error);
        if let Err(error) = written.and_then(|()| self.active.sync()) {
            self.finished = Some(error.to_string());
            return Err(error);
        }
        self.unsynced.clear();
        Ok(())
    }
}

/// The number of the first frame of whole ones.
fn first_number(frames: &[u8]) -> Option<u64> {
    let mut first = None;
    frames::scan(frames, 0, 0, |frame| first = first.or(Some(frame.number)));
    first
}

/// Takes the directory for this process.
fn lock(directory: &Path) -> Result<File, JournalError> {
    let path = directory.join("lock");
    let system = |error| JournalError::System(path.clone(), error);
    let file = File::options().create(true).truncate(false).write(true).open(&path).map_err(system)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(std::fs::TryLockError::WouldBlock) => Err(JournalError::InUse(directory.to_owned())),
        Err(std::fs::TryLockError::Error(error)) => Err(system(error)),
    }
}

/// Reads who the journal is, or draws it for a new one.
fn identity(directory: &Path, is_new: bool) -> Result<Identity, JournalError> {
    let path = directory.join("identity");
    let system = |error| JournalError::System(path.clone(), error);
    match File::open(&path) {
        Ok(mut file) => {
            let mut text = String::new();
            file.read_to_string(&mut text).map_err(system)?;
            let number = (text.len() == 33).then(|| u128::from_str_radix(text.trim_end(), 16).ok()).flatten();
            let damaged = || JournalError::Damaged(path.clone(), 0, "32 hexadecimal digits are expected".into());
            Ok(number.ok_or_else(damaged)?.to_be_bytes())
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound && is_new => {
            let number = (u128::from(drawn()) << 64) | u128::from(drawn());
            write_whole(&path, format!("{number:032x}\n").as_bytes()).map_err(system)?;
            Ok(number.to_be_bytes())
        }
        Err(error) => Err(system(error)),
    }
}

/// A new segment, for which the reserve is given up if the disk has no other room.
fn create_segment(directory: &Path, header: &Header) -> io::Result<Segment> {
    match Segment::create(directory, header) {
        Err(error) if matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded) => {
            std::fs::remove_file(directory.join("reserve")).map_err(|_| error)?;
            Segment::create(directory, header)
        }
        created => created,
    }
}

/// Takes room for hard times. There may be none now; then there is next time.
fn keep_reserve(directory: &Path) {
    let path = directory.join("reserve");
    let is_whole = std::fs::metadata(&path).is_ok_and(|found| found.len() == RESERVE_BYTES as u64);
    if !is_whole && let Err(error) = std::fs::write(&path, vec![0; RESERVE_BYTES]) {
        tracing::warn!(file = %path.display(), %error, "the journal has no reserve of disk");
        let _ = std::fs::remove_file(&path);
    }
}

/// A number that nobody can foretell, nor draw again.
fn drawn() -> u64 {
    RandomState::new().hash_one(std::time::SystemTime::now())
}

/// Writes a file that is there with all its bytes or not at all.
fn write_whole(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let draft = path.with_extension("draft");
    let mut file = File::create(&draft)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    std::fs::rename(&draft, path)?;
    path.parent().map_or(Ok(()), sync_directory)
}

/// A segment that another follows: all of it up to its end must be there.
fn read_sealed(
    directory: &Path,
    contents: &Contents,
    end: u64,
    each: &mut impl FnMut(u64, JournalChange),
) -> Result<Sealed, JournalError> {
    let (read, ending) = read_segment(directory, contents, end as usize, each)?;
    let path = path_of(directory, read.ordinal);
    if (contents.bytes.len() as u64) < end {
        let text = format!("the file ends here, and had {end} bytes");
        return Err(JournalError::Damaged(path, contents.bytes.len() as u64, text));
    }
    match ending {
        Ending::Whole => Ok(Sealed { bytes: end, ..read }),
        Ending::Torn { at } | Ending::Damaged { at } => {
            Err(JournalError::Damaged(path, at as u64, "the record has a wrong checksum".into()))
        }
    }
}

/// The last segment: what is torn at its end is cut off.
fn read_last(
    directory: &Path,
    contents: &Contents,
    each: &mut impl FnMut(u64, JournalChange),
) -> Result<Sealed, JournalError> {
    let (read, ending) = read_segment(directory, contents, usize::MAX, each)?;
    let path = path_of(directory, read.ordinal);
    match ending {
        Ending::Whole => Ok(read),
        Ending::Damaged { at } => {
            let text = "the record has a wrong checksum, and later ones follow it".to_owned();
            Err(JournalError::Damaged(path, at as u64, text))
        }
        Ending::Torn { at } => {
            let system = |error| JournalError::System(path.clone(), error);
            let file = File::options().write(true).open(&path).map_err(system)?;
            let torn_bytes = contents.bytes.len() - at;
            tracing::warn!(file = %path.display(), at, torn_bytes, "cut off what a crash left of the last write");
            file.set_len(at as u64).and_then(|()| file.sync_all()).map_err(system)?;
            Ok(Sealed { bytes: at as u64, ..read })
        }
    }
}

fn read_segment(
    directory: &Path,
    contents: &Contents,
    end: usize,
    each: &mut impl FnMut(u64, JournalChange),
) -> Result<(Sealed, Ending), JournalError> {
    let mut strange = None;
    let (last, ending) =
        contents.scan(end, |frame| match JournalChange::decode(&contents.bytes[frame.payload.clone()]) {
            Some(change) if strange.is_none() => each(frame.number, change),
            Some(_) => {}
            None => strange = strange.or(Some(frame.payload.start as u64)),
        });
    let ordinal = contents.header.ordinal;
    match strange {
        Some(at) => {
            Err(JournalError::Damaged(path_of(directory, ordinal), at, "the record is no change of a key".into()))
        }
        None => Ok((Sealed { ordinal, bytes: contents.bytes.len() as u64, last }, ending)),
    }
}
