//! One file of the journal, to which frames are appended.
//!
//! ```text
//! 0        8    24        32      40            48   52
//! ├────────┼────┼─────────┼───────┼─────────────┼─────┼────────┐
//! │ magic  │ id │ ordinal │ floor │ earlier end │ crc │ frames │
//! ```
//!
//! The ordinal names the file, and the next file has the next one. `floor` is below every number in the file. The earlier end, 0 for the
//! first file, is how much of the file before counts: what a write or a sync that failed left behind there does not.
//!
//! A sync that has failed is not tried again on the same file: the system may have dropped what it could not write, and would
//! then answer that all is well. The file is finished then, and the next one says where it ends.

use super::frames::{self, Ending, Frame};
use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

const MAGIC: &[u8; 8] = b"LHWRITE1";
pub(super) const HEADER_BYTES: u64 = 52;

/// Who a journal is: drawn when its directory is made, so that a source can tell journals apart.
pub(super) type Identity = [u8; 16];

/// What a file says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) identity: Identity,
    pub(super) ordinal: u64,
    pub(super) floor: u64,
    pub(super) earlier_end: u64,
}

impl Header {
    fn encode(&self) -> Vec<u8> {
        let mut bytes = MAGIC.to_vec();
        bytes.extend_from_slice(&self.identity);
        for number in [self.ordinal, self.floor, self.earlier_end] {
            bytes.extend_from_slice(&number.to_le_bytes());
        }
        let crc = frames::checksum(&bytes);
        bytes.extend_from_slice(&crc.to_le_bytes());
        bytes
    }

    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let header = bytes.get(..HEADER_BYTES as usize)?;
        let (said, crc) = header.split_at(HEADER_BYTES as usize - 4);
        if !said.starts_with(MAGIC) || frames::checksum(said).to_le_bytes() != crc {
            return None;
        }
        let number = |at: usize| u64::from_le_bytes(said[at..at + 8].try_into().expect("8 bytes"));
        let identity = said[8..24].try_into().expect("16 bytes");
        Some(Self { identity, ordinal: number(24), floor: number(32), earlier_end: number(40) })
    }
}

/// A file that was read.
pub(super) struct Contents {
    pub(super) bytes: Vec<u8>,
    pub(super) header: Header,
}

/// The file of this ordinal.
pub(super) fn path_of(directory: &Path, ordinal: u64) -> PathBuf {
    directory.join(format!("{ordinal:020}.journal"))
}

/// The ordinal that a file's name says, if it is one of the journal.
pub(super) fn ordinal_of(path: &Path) -> Option<u64> {
    let name = path.file_name()?.to_str()?.strip_suffix(".journal")?;
    (name.len() == 20).then(|| name.parse().ok()).flatten()
}

impl Contents {
    /// Reads a file; `None`: it has no header that could be true.
    pub(super) fn read(path: &Path) -> io::Result<Option<Self>> {
        let bytes = std::fs::read(path)?;
        Ok(Header::decode(&bytes).map(|header| Self { header, bytes }))
    }

    /// Its frames up to `end`, and the last number.
    pub(super) fn scan(&self, end: usize, each: impl FnMut(Frame)) -> (u64, Ending) {
        let bytes = self.bytes.get(..end).unwrap_or(&self.bytes);
        frames::scan(bytes, HEADER_BYTES as usize, self.header.floor, each)
    }
}

/// A file that frames are appended to.
#[derive(Debug)]
pub(super) struct Segment {
    file: File,
    pub(super) ordinal: u64,
    /// All that was written whole.
    pub(super) len: u64,
    /// What is on the disk, as far as it has been asked.
    pub(super) synced: u64,
    #[cfg(test)]
    pub(super) faults: Faults,
}

/// Troubles of a disk that tests ask for.
#[cfg(test)]
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Faults {
    /// The file cannot grow beyond so many bytes.
    pub(super) len_max: Option<u64>,
    pub(super) no_cut: bool,
    pub(super) no_sync: bool,
}

impl Segment {
    /// Makes a file, which is there for good when this returns.
    pub(super) fn create(directory: &Path, header: &Header) -> io::Result<Self> {
        let path = path_of(directory, header.ordinal);
        let draft = path.with_extension("draft");
        let mut file = File::create(&draft)?;
        let made = file.write_all(&header.encode()).and_then(|()| file.sync_all());
        let made = made.and_then(|()| std::fs::rename(&draft, &path)).and_then(|()| sync_directory(directory));
        if let Err(error) = made {
            // Either is worth nothing now; what cannot be removed is passed over, or written anew.
            let _ = std::fs::remove_file(&draft);
            let _ = std::fs::remove_file(&path);
            return Err(error);
        }
        Ok(Self {
            file,
            ordinal: header.ordinal,
            len: HEADER_BYTES,
            synced: HEADER_BYTES,
            #[cfg(test)]
            faults: Faults::default(),
        })
    }

    /// Appends bytes, all or none. An error says whether the file may still be used.
    pub(super) fn append(&mut self, bytes: &[u8]) -> Result<(), (io::Error, bool)> {
        match self.write(bytes) {
            Ok(()) => {
                self.len += bytes.len() as u64;
                Ok(())
            }
            Err(error) => {
                let is_as_before = self.cut().is_ok();
                Err((error, is_as_before))
            }
        }
    }

    /// Takes out all frames: none of them is needed any more.
    pub(super) fn empty(&mut self) -> io::Result<()> {
        self.file.set_len(HEADER_BYTES)?;
        (self.len, self.synced) = (HEADER_BYTES, HEADER_BYTES);
        Ok(())
    }

    /// Brings what was written to the disk.
    pub(super) fn sync(&mut self) -> io::Result<()> {
        #[cfg(test)]
        if self.faults.no_sync {
            return Err(io::Error::from_raw_os_error(5));
        }
        self.file.sync_data()?;
        self.synced = self.len;
        Ok(())
    }

    fn write(&self, bytes: &[u8]) -> io::Result<()> {
        #[cfg(test)]
        if let Some(len_max) = self.faults.len_max {
            let room = usize::try_from(len_max.saturating_sub(self.len)).expect("a test's file");
            if room < bytes.len() {
                self.file.write_all_at(&bytes[..room], self.len)?;
                return Err(io::Error::from(io::ErrorKind::StorageFull));
            }
        }
        self.file.write_all_at(bytes, self.len)
    }

    /// Takes back what a write left that failed.
    fn cut(&self) -> io::Result<()> {
        #[cfg(test)]
        if self.faults.no_cut {
            return Err(io::Error::from_raw_os_error(5));
        }
        self.file.set_len(self.len)
    }
}

/// Makes names in a directory last.
pub(super) fn sync_directory(directory: &Path) -> io::Result<()> {
    File::open(directory)?.sync_all()
}
