//! The flags of a meta command: words of one letter each, some with a token right behind it.
//!
//! All meta commands read the same flags, and each takes notice of those that concern it, as memcached does it: a flag of another
//! command is no mistake. What is wrong is found before anything is done.

use super::answer::Name;
use super::base64;
use crate::memcached::dispatch::BAD_FORMAT;
use leasehold_keyspace::Slot;
use leasehold_protocol::memcached::Request;
use leasehold_protocol::memcached::parser::{may_be_flag, signed, unsigned};
use std::borrow::Cow;

/// Most words of a command, its name included (memcached's `MFLAG_MAX_OPT_LENGTH`).
const WORDS_MAX: usize = 20;

/// Most bytes of an opaque token, its letter included (memcached's `MFLAG_MAX_OPAQUE_LENGTH`).
const OPAQUE_BYTES_MAX: usize = 32;

/// What the flags of a command say.
#[derive(Clone, Debug)]
pub(super) struct Asked<'a> {
    /// As it is stored.
    pub(super) key: Cow<'a, [u8]>,
    /// `b`: the key came as base64, and goes back as that.
    pub(super) is_binary: bool,
    /// `q`.
    pub(super) is_quiet: bool,
    /// `v`.
    pub(super) value_wanted: bool,
    /// `c`.
    pub(super) version_wanted: bool,
    /// `l`.
    pub(super) idle_wanted: bool,
    /// `u`.
    pub(super) is_unnoticed: bool,
    /// `I`.
    pub(super) invalidates: bool,
    /// `x`.
    pub(super) removes_value: bool,
    /// `N`.
    pub(super) vivify: Option<i64>,
    /// `R`, and the `T` that stands before it.
    pub(super) recache: Option<(i64, Option<i64>)>,
    /// `T`.
    pub(super) exptime: Option<i64>,
    /// `C`.
    pub(super) named: Option<u64>,
    /// `E`.
    pub(super) version: Option<u64>,
    /// `F`.
    pub(super) client_flags: u32,
    /// `M`.
    pub(super) mode: Option<u8>,
    /// `J`.
    pub(super) initial: u64,
    /// `D`.
    pub(super) delta: u64,
}

impl<'a> Asked<'a> {
    /// Whether `E` gives a version that is no newer than what is known of the key.
    pub(super) fn is_outdated(&self, slot: &Slot<'_>) -> bool {
        self.version.is_some_and(|version| slot.version_floor().is_some_and(|floor| version <= floor))
    }

    /// Whether `C` names another value than the one that a part of is to change, or one that is stale.
    pub(super) fn is_mismatch(&self, slot: &Slot<'_>) -> bool {
        // memcached compares nothing with 0.
        self.named.filter(|&named| named != 0).is_some_and(|named| !slot.is_named(named) || slot.is_revived())
    }

    /// What the flags of a request say, which begin at the word `first`.
    ///
    /// # Errors
    /// As [`Asked::parse`].
    pub(super) fn of(request: Request<'a>, first: usize) -> Result<Self, &'static [u8]> {
        let mut asked = Self::about(request);
        asked.read_flags(request, first)?;
        Ok(asked)
    }

    /// Asks for nothing about the key of a request. With [`Asked::read_flags`], as [`Asked::of`] without copying the result.
    #[inline]
    pub(super) fn about(request: Request<'a>) -> Self {
        Self::nothing(request.word(1).unwrap_or_default())
    }

    /// The key as replies name it.
    pub(super) fn name(&self) -> Name<'_> {
        Name { key: &self.key, is_binary: self.is_binary }
    }

    /// Reads the flags of a request, which begin at the word `first`.
    ///
    /// # Errors
    /// As [`Asked::parse`].
    pub(super) fn read_flags(&mut self, request: Request<'a>, first: usize) -> Result<(), &'static [u8]> {
        let words = request.words_from(first);
        let read = match request.len() {
            0..=WORDS_MAX => self.read(words.clone()),
            _ => Err(&b"CLIENT_ERROR options flags are too long"[..]),
        };
        match read {
            // A word that is no flag is worse than what stands before it.
            Err(_) if !are_flags(words) => Err(BAD_FORMAT),
            read => read,
        }
    }

    /// Reads the flags behind `key`.
    ///
    /// # Errors
    /// The line that answers them. Of several mistakes it tells of the last, unless one makes the rest unreadable.
    #[inline]
    pub(super) fn parse(key: &'a [u8], words: impl Iterator<Item = &'a [u8]>) -> Result<Self, &'static [u8]> {
        let mut asked = Self::nothing(key);
        asked.read(words)?;
        Ok(asked)
    }

    fn read(&mut self, words: impl Iterator<Item = &'a [u8]>) -> Result<(), &'static [u8]> {
        // Of the bytes from `@` on: no letter is below.
        let (mut seen, mut mistake, mut opaque) = (0u64, None, None);
        for word in words {
            let (&letter, token) = word.split_first().expect("a word has a byte");
            if !may_be_flag(letter) {
                return Err(BAD_FORMAT);
            }
            let bit = if letter < b'@' { 0 } else { bit(letter) };
            if seen & bit != 0 {
                return Err(b"CLIENT_ERROR duplicate flag");
            }
            seen |= bit;
            if letter == b'O' && word.len() > OPAQUE_BYTES_MAX {
                opaque = Some(&b"CLIENT_ERROR opaque token too long"[..]);
            }
            match self.take(letter, token) {
                Ok(()) => {}
                // memcached has this line for whatever it has no other for.
                Err(line) if line == BAD_FORMAT => mistake = mistake.or(Some(line)),
                Err(INVALID) => return Err(INVALID),
                Err(line) => mistake = Some(line),
            }
        }
        match mistake.or(opaque) {
            Some(line) => Err(line),
            None => Ok(()),
        }
    }

    fn nothing(key: &'a [u8]) -> Self {
        Self {
            key: Cow::Borrowed(key),
            is_binary: false,
            is_quiet: false,
            value_wanted: false,
            version_wanted: false,
            idle_wanted: false,
            is_unnoticed: false,
            invalidates: false,
            removes_value: false,
            vivify: None,
            recache: None,
            exptime: None,
            named: None,
            version: None,
            client_flags: 0,
            mode: None,
            initial: 0,
            delta: 1,
        }
    }

    fn take(&mut self, letter: u8, token: &[u8]) -> Result<(), &'static [u8]> {
        const BAD_TOKEN: &[u8] = b"CLIENT_ERROR bad token in command line format";
        match letter {
            b'b' => {
                let bytes = base64::decode(&self.key).ok_or(&b"CLIENT_ERROR error decoding key"[..])?;
                (self.key, self.is_binary) = (Cow::Owned(bytes), true);
            }
            b'q' => self.is_quiet = true,
            b'v' => self.value_wanted = true,
            b'c' => self.version_wanted = true,
            b'l' => self.idle_wanted = true,
            b'u' => self.is_unnoticed = true,
            b'I' => self.invalidates = true,
            b'x' => self.removes_value = true,
            b'N' => self.vivify = Some(signed(token).ok_or(BAD_TOKEN)?),
            b'R' => self.recache = Some((signed(token).ok_or(BAD_TOKEN)?, self.exptime)),
            b'T' => self.exptime = Some(signed(token).ok_or(BAD_TOKEN)?),
            b'C' => self.named = Some(unsigned(token).ok_or(BAD_TOKEN)?),
            // memcached takes 0 for none.
            b'E' => self.version = Some(unsigned(token).ok_or(BAD_TOKEN)?).filter(|&version| version > 0),
            b'F' => {
                let flags = unsigned(token).and_then(|flags| u32::try_from(flags).ok());
                self.client_flags = flags.ok_or(BAD_FORMAT)?;
            }
            // What stands behind the first letter is not looked at. Without one it is a mode that no command has.
            b'M' => self.mode = Some(token.first().copied().unwrap_or(b' ')),
            b'J' => self.initial = unsigned(token).ok_or(&b"CLIENT_ERROR invalid numeric initial value"[..])?,
            b'D' => self.delta = unsigned(token).ok_or(&b"CLIENT_ERROR invalid numeric delta value"[..])?,
            // What is answered is looked up when the answer is written; `P` and `L` are words between a client and its proxy.
            b'O' | b'k' | b's' | b't' | b'f' | b'h' | b'P' | b'L' => {}
            _ => return Err(INVALID),
        }
        Ok(())
    }
}

/// The flags of an `mg` that asks for what a look at a fresh value tells, and changes nothing: the letters, as bits from `@` on.
#[derive(Clone, Copy, Debug)]
pub(super) struct Plain(u64);

impl Plain {
    const LETTERS: u64 = bit(b'v') | bit(b'k') | bit(b'O') | Self::TOLD | Self::SILENT;
    /// Told behind the code.
    const TOLD: u64 = bit(b's') | bit(b't') | bit(b'f') | bit(b'h');
    /// Without a word in the reply.
    const SILENT: u64 = bit(b'q') | bit(b'u');

    /// `None`: other flags, or a mistake; [`Asked`] knows.
    #[inline]
    pub(super) fn of(request: Request<'_>) -> Option<Self> {
        let mut seen = 0;
        for word in request.words_from(2) {
            let (&letter, token) = word.split_first()?;
            let is_whole = token.is_empty() || letter == b'O' && word.len() <= OPAQUE_BYTES_MAX;
            if !(b'@'..=b'\x7f').contains(&letter) || bit(letter) & Self::LETTERS & !seen == 0 || !is_whole {
                return None;
            }
            seen |= bit(letter);
        }
        Some(Self(seen))
    }

    #[inline]
    pub(super) fn has(self, letter: u8) -> bool {
        self.0 & bit(letter) != 0
    }

    /// Whether the reply has words behind the code.
    #[inline]
    pub(super) fn has_words(self) -> bool {
        self.0 & !(bit(b'v') | Self::SILENT) != 0
    }
}

/// Of the bytes from `@` to DEL.
const fn bit(letter: u8) -> u64 {
    1 << (letter & 63)
}

const INVALID: &[u8] = b"CLIENT_ERROR invalid flag";

/// Whether all words may be flags; else the line is none of a command.
pub(super) fn are_flags<'w>(mut words: impl Iterator<Item = &'w [u8]>) -> bool {
    words.all(|word| word.first().is_some_and(|&byte| may_be_flag(byte)))
}

#[cfg(test)]
mod tests {
    use super::Asked;

    fn line(flags: &str) -> &'static str {
        let words = flags.split(' ').filter(|word| !word.is_empty()).map(str::as_bytes);
        Asked::parse(b"YQ==", words).map_or_else(|line| std::str::from_utf8(line).expect("text"), |_| "")
    }

    /// Each as memcached 1.6.45 answers it.
    #[test]
    fn mistakes_are_told_as_memcached_tells_them() {
        for (flags, told) in [
            ("v k s t f c h l u O1 q N1 T0 R0 P1 L1 C1", ""),
            ("v1 kfoo c99 q1", ""),
            ("v v", "CLIENT_ERROR duplicate flag"),
            ("T1 T2", "CLIENT_ERROR duplicate flag"),
            ("\u{7f}", "CLIENT_ERROR bad command line format"),
            ("é", "CLIENT_ERROR bad command line format"),
            ("v v !", "CLIENT_ERROR duplicate flag"),
            ("! v v", "CLIENT_ERROR bad command line format"),
            (":", "CLIENT_ERROR bad command line format"),
            ("_", "CLIENT_ERROR invalid flag"),
            ("z", "CLIENT_ERROR invalid flag"),
            ("S100", "CLIENT_ERROR invalid flag"),
            ("W", "CLIENT_ERROR invalid flag"),
            ("5", "CLIENT_ERROR invalid flag"),
            ("T", "CLIENT_ERROR bad token in command line format"),
            ("T5x", "CLIENT_ERROR bad token in command line format"),
            ("T+5", "CLIENT_ERROR bad token in command line format"),
            ("T-5", ""),
            ("T99999999999999999999", "CLIENT_ERROR bad token in command line format"),
            ("N", "CLIENT_ERROR bad token in command line format"),
            ("Rx", "CLIENT_ERROR bad token in command line format"),
            ("C-1", "CLIENT_ERROR bad token in command line format"),
            ("C+1", "CLIENT_ERROR bad token in command line format"),
            ("C18446744073709551615", ""),
            ("C18446744073709551616", "CLIENT_ERROR bad token in command line format"),
            ("E-1", "CLIENT_ERROR bad token in command line format"),
            ("E7", ""),
            ("x I", ""),
            ("F", "CLIENT_ERROR bad command line format"),
            ("Fx", "CLIENT_ERROR bad command line format"),
            ("F4294967295", ""),
            ("M", ""),
            ("MSET", ""),
            ("D", "CLIENT_ERROR invalid numeric delta value"),
            ("D-1", "CLIENT_ERROR invalid numeric delta value"),
            ("Jx", "CLIENT_ERROR invalid numeric initial value"),
            ("b", ""),
            ("O", ""),
            ("O1234567890123456789012345678901", ""),
            ("O12345678901234567890123456789012", "CLIENT_ERROR opaque token too long"),
            // Of several the last; what ends the reading wins.
            ("Fx Tx", "CLIENT_ERROR bad token in command line format"),
            ("Tx Fx", "CLIENT_ERROR bad token in command line format"),
            ("Cx Dx", "CLIENT_ERROR invalid numeric delta value"),
            ("Tx Cx z", "CLIENT_ERROR invalid flag"),
        ] {
            assert_eq!(line(flags), told, "{flags}");
        }
    }

    #[test]
    fn a_key_in_base64_is_stored_as_what_it_stands_for() {
        let asked = Asked::parse(b"YWE=", [&b"b"[..]].into_iter()).expect("no mistake");
        assert_eq!((&*asked.key, asked.is_binary), (&b"aa"[..], true));
        let refused = Asked::parse(b"YWE", [&b"b"[..]].into_iter()).map(|_| ());
        assert_eq!(refused, Err(&b"CLIENT_ERROR error decoding key"[..]));
    }

    #[test]
    fn a_recache_time_knows_the_ttl_that_is_set_before_it() {
        let words = |flags: &'static str| flags.split(' ').map(str::as_bytes);
        assert_eq!(Asked::parse(b"k", words("T60 R30")).expect("no mistake").recache, Some((30, Some(60))));
        assert_eq!(Asked::parse(b"k", words("R30 T60")).expect("no mistake").recache, Some((30, None)));
    }
}
