//! Dead letters: changes that their source refused for good, kept on disk until an operator replays or drops them.
//!
//! A file of frames, each a letter that came or the number of one that went; it is written anew when most of it is of letters that
//! went. A key has one letter at most: a later change of the key, refused or written, takes the place of the earlier one. Letters are
//! few, so each is brought to the disk at once, whatever the journal does.

use super::frames::{self, Ending};
use super::{JournalChange, JournalError, write_whole};
use bytes::Bytes;
use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

const CAME: u8 = 1;
const WENT: u8 = 0;

/// Frames of letters that went, at which the file is written anew, if they are the most.
const GONE_MAX: usize = 1_000;

/// A change that was parked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeadLetter {
    /// Its number in the journal.
    pub number: u64,
    /// The change.
    pub change: JournalChange,
    /// How often it was tried.
    pub attempts: u32,
    /// When it was parked, in ms since 1970.
    pub parked_at_ms: u64,
    /// What the source said last.
    pub reason: String,
}

/// All letters of a journal.
#[derive(Debug)]
pub struct Letters {
    path: PathBuf,
    file: File,
    len: u64,
    /// The number of the last frame.
    last: u64,
    frames: usize,
    by_number: BTreeMap<u64, DeadLetter>,
    by_key: HashMap<(u8, Bytes), u64>,
    /// A write has failed: the file is written anew before it is used again.
    is_doubtful: bool,
}

impl DeadLetter {
    fn encode(&self, out: &mut Vec<u8>) {
        out.push(CAME);
        out.extend_from_slice(&self.number.to_le_bytes());
        out.extend_from_slice(&self.parked_at_ms.to_le_bytes());
        out.extend_from_slice(&self.attempts.to_le_bytes());
        let reason_len = u32::try_from(self.reason.len()).expect("a database's message is shorter");
        out.extend_from_slice(&reason_len.to_le_bytes());
        out.extend_from_slice(self.reason.as_bytes());
        self.change.encode(out);
    }

    fn decode(payload: &[u8]) -> Option<Self> {
        let (number, rest) = payload.split_first_chunk()?;
        let (parked_at_ms, rest) = rest.split_first_chunk()?;
        let (attempts, rest) = rest.split_first_chunk()?;
        let (reason_len, rest) = rest.split_first_chunk()?;
        let (reason, change) = rest.split_at_checked(u32::from_le_bytes(*reason_len) as usize)?;
        Some(Self {
            number: u64::from_le_bytes(*number),
            parked_at_ms: u64::from_le_bytes(*parked_at_ms),
            attempts: u32::from_le_bytes(*attempts),
            reason: String::from_utf8(reason.to_vec()).ok()?,
            change: JournalChange::decode(change)?,
        })
    }
}

impl Letters {
    /// Opens the letters of a journal's directory, which this process has locked.
    ///
    /// # Errors
    /// The file cannot be used, or is damaged.
    pub fn open(directory: &std::path::Path) -> Result<Self, JournalError> {
        let path = directory.join("letters");
        let system = |error| JournalError::System(path.clone(), error);
        let file = File::options().create(true).truncate(false).read(true).write(true).open(&path).map_err(system)?;
        let bytes = std::fs::read(&path).map_err(system)?;
        let mut letters = Self {
            path: path.clone(),
            file,
            len: 0,
            last: 0,
            frames: 0,
            by_number: BTreeMap::new(),
            by_key: HashMap::new(),
            is_doubtful: false,
        };
        let mut strange = None;
        let (last, ending) = frames::scan(&bytes, 0, 0, |frame| {
            let at = frame.payload.start;
            letters.len = frame.payload.end as u64;
            letters.frames += 1;
            match bytes[frame.payload].split_first() {
                Some((&CAME, rest)) if DeadLetter::decode(rest).is_some() => {
                    DeadLetter::decode(rest).into_iter().for_each(|letter| letters.keep(letter));
                }
                Some((&WENT, number)) if number.len() == 8 => {
                    letters.forget(u64::from_le_bytes(number.try_into().expect("8 bytes")));
                }
                _ => strange = strange.or(Some(at as u64)),
            }
        });
        letters.last = last;
        if let Some(at) = strange {
            return Err(JournalError::Damaged(path, at, "this is no dead letter".into()));
        }
        match ending {
            Ending::Whole => Ok(letters),
            Ending::Torn { at } => {
                letters.file.set_len(at as u64).and_then(|()| letters.file.sync_all()).map_err(system)?;
                Ok(letters)
            }
            Ending::Damaged { at } => Err(JournalError::Damaged(
                path,
                at as u64,
                "the letter has a wrong checksum, and later ones follow".into(),
            )),
        }
    }

    /// Keeps a letter for good, instead of an earlier one of the same key.
    ///
    /// # Errors
    /// It could not be written; nothing has changed.
    pub fn park(&mut self, letter: DeadLetter) -> io::Result<()> {
        self.write(|out| letter.encode(out))?;
        self.keep(letter);
        Ok(())
    }

    /// As [`Letters::park`] for many, with one write.
    ///
    /// # Errors
    /// They could not be written; they are there as long as the process is.
    pub fn park_all(&mut self, letters: Vec<DeadLetter>) -> io::Result<()> {
        if letters.is_empty() {
            return Ok(());
        }
        letters.into_iter().for_each(|letter| self.keep(letter));
        self.write_anew()
    }

    /// Forgets a letter for good. Whether there was one.
    ///
    /// # Errors
    /// It could not be written; the letter is still there.
    pub fn remove(&mut self, number: u64) -> io::Result<bool> {
        if !self.by_number.contains_key(&number) {
            return Ok(false);
        }
        self.write(|out| {
            out.push(WENT);
            out.extend_from_slice(&number.to_le_bytes());
        })?;
        self.forget(number);
        Ok(true)
    }

    /// Forgets letters for good, all with one write.
    ///
    /// # Errors
    /// It could not be written; the letters are still there.
    pub fn remove_all(&mut self, numbers: &[u64]) -> io::Result<()> {
        if numbers.is_empty() {
            return Ok(());
        }
        if let [number] = numbers {
            return self.remove(*number).map(drop);
        }
        let mut gone = Vec::new();
        for number in numbers {
            gone.extend(self.by_number.get(number).cloned());
            self.forget(*number);
        }
        let written = self.write_anew();
        if written.is_err() {
            gone.into_iter().for_each(|letter| self.keep(letter));
        }
        written
    }

    /// The letter of a key.
    #[must_use]
    pub fn of_key(&self, db: u8, key: &Bytes) -> Option<&DeadLetter> {
        self.by_number.get(self.by_key.get(&(db, key.clone()))?)
    }

    /// Whether there is one of this number.
    #[must_use]
    pub fn has(&self, number: u64) -> bool {
        self.by_number.contains_key(&number)
    }

    /// All letters, in the order of their numbers.
    pub fn iter(&self) -> impl Iterator<Item = &DeadLetter> {
        self.by_number.values()
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.by_number.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.by_number.is_empty()
    }

    fn keep(&mut self, letter: DeadLetter) {
        let key = (letter.change.db, letter.change.key.clone());
        if let Some(earlier) = self.by_key.insert(key, letter.number) {
            self.by_number.remove(&earlier);
        }
        self.by_number.insert(letter.number, letter);
    }

    fn forget(&mut self, number: u64) {
        if let Some(letter) = self.by_number.remove(&number) {
            self.by_key.remove(&(letter.change.db, letter.change.key));
        }
    }

    fn write(&mut self, payload: impl FnOnce(&mut Vec<u8>)) -> io::Result<()> {
        let gone = self.frames - self.by_number.len();
        if self.is_doubtful || gone > GONE_MAX.max(self.by_number.len()) {
            self.write_anew()?;
        }
        let mut bytes = Vec::new();
        frames::encode(&mut bytes, self.last + 1, self.last, payload);
        if let Err(error) = self.file.write_all_at(&bytes, self.len).and_then(|()| self.file.sync_data()) {
            // What is in it now, nobody knows.
            self.is_doubtful = true;
            let _ = self.file.set_len(self.len);
            return Err(error);
        }
        self.last += 1;
        self.len += bytes.len() as u64;
        self.frames += 1;
        Ok(())
    }

    /// Another file, with the letters that are there.
    fn write_anew(&mut self) -> io::Result<()> {
        let mut bytes = Vec::new();
        let mut last = 0;
        for letter in self.by_number.values() {
            frames::encode(&mut bytes, last + 1, last, |out| letter.encode(out));
            last += 1;
        }
        write_whole(&self.path, &bytes)?;
        self.file = File::options().read(true).write(true).open(&self.path)?;
        (self.last, self.len, self.frames, self.is_doubtful) = (last, bytes.len() as u64, self.by_number.len(), false);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn letter(number: u64, key: &'static str) -> DeadLetter {
        let change = JournalChange {
            loader: "user".into(),
            db: 0,
            key: Bytes::from_static(key.as_bytes()),
            value: number.is_multiple_of(2).then(|| Bytes::from(number.to_string())),
        };
        DeadLetter { number, change, attempts: 3, parked_at_ms: 7, reason: format!("refused {number}") }
    }

    fn numbers(letters: &Letters) -> Vec<u64> {
        letters.iter().map(|letter| letter.number).collect()
    }

    #[test]
    fn letters_outlive_the_process_and_go_when_told() {
        let directory = tempfile::tempdir().expect("a directory");
        let mut letters = Letters::open(directory.path()).expect("empty");
        for (number, key) in [(5, "a"), (6, "b"), (9, "c")] {
            letters.park(letter(number, key)).expect("written");
        }
        letters.park(letter(12, "a")).expect("written");
        assert!(letters.remove(6).expect("written") && !letters.remove(6).expect("written"));
        drop(letters);
        let letters = Letters::open(directory.path()).expect("as it was left");
        assert_eq!(numbers(&letters), [9, 12]);
        assert_eq!(letters.of_key(0, &Bytes::from_static(b"a")), Some(&letter(12, "a")));
        assert_eq!(letters.of_key(0, &Bytes::from_static(b"b")), None);
    }

    #[test]
    fn a_file_of_letters_that_is_cut_anywhere_keeps_the_whole_ones() {
        let directory = tempfile::tempdir().expect("a directory");
        let mut letters = Letters::open(directory.path()).expect("empty");
        letters.park(letter(1, "a")).expect("written");
        let before = letters.len;
        letters.park(letter(2, "b")).expect("written");
        drop(letters);
        let path = directory.path().join("letters");
        let whole = std::fs::read(&path).expect("there");
        for end in before as usize..whole.len() {
            std::fs::write(&path, &whole[..end]).expect("ours");
            let mut letters = Letters::open(directory.path()).expect("the last is torn");
            assert_eq!(numbers(&letters), [1], "cut at {end}");
            letters.park(letter(3, "c")).expect("written");
            drop(letters);
            assert_eq!(numbers(&Letters::open(directory.path()).expect("whole")), [1, 3], "cut at {end}");
        }
    }

    #[test]
    fn the_file_does_not_grow_with_letters_that_went() {
        let directory = tempfile::tempdir().expect("a directory");
        let mut letters = Letters::open(directory.path()).expect("empty");
        letters.park(letter(1, "kept")).expect("written");
        for number in 2..3_000 {
            letters.park(letter(number, "again")).expect("written");
        }
        assert!(letters.len < 200_000, "{} bytes", letters.len);
        drop(letters);
        assert_eq!(numbers(&Letters::open(directory.path()).expect("whole")), [1, 2_999]);
    }
}
