//! The words that say how long a value lives: `EX`, `PX`, `EXAT`, `PXAT`, and the one bare word a command allows instead
//! (`KEEPTTL` where a value is stored, `PERSIST` where it is read).
//!
//! Words are collected before numbers are looked at, because a syntax error wins over a bad number, as in Redis.

use crate::argument::{TimeUnit, is_word};
use crate::error::ReplyError;
use crate::spec::{Argument, ArgumentKind};
use leasehold_keyspace::{Expiry, Turn};
use leasehold_protocol::Request;

/// What the options of a request say, numbers not yet parsed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Lifetime<'a> {
    #[default]
    Unsaid,
    /// The bare word.
    Bare,
    Until(TimeUnit, &'a [u8]),
}

impl<'a> Lifetime<'a> {
    /// Reads the option at `index` if it is about the lifetime; gives the index behind it. `bare` is the command's bare word.
    ///
    /// # Errors
    /// [`ReplyError::Syntax`] for a second lifetime of another kind, and for a unit without a number.
    pub(crate) fn take(&mut self, bare: &str, request: Request<'a>, index: usize) -> Result<Option<usize>, ReplyError> {
        let word = request.arg(index);
        if let Some(unit) = TimeUnit::from_word(word) {
            let allowed = match self {
                Self::Unsaid => true,
                // As in Redis the same unit may come again, and the last number counts.
                Self::Until(before, _) => *before == unit,
                Self::Bare => false,
            };
            let time = request.get(index + 1).filter(|_| allowed).ok_or(ReplyError::Syntax)?;
            *self = Self::Until(unit, time);
            return Ok(Some(index + 2));
        }
        if is_word(word, bare) {
            if matches!(self, Self::Until(..)) {
                return Err(ReplyError::Syntax);
            }
            *self = Self::Bare;
            return Ok(Some(index + 1));
        }
        Ok(None)
    }

    /// For a value that is stored; the bare word is `KEEPTTL`.
    ///
    /// # Errors
    /// Those of [`TimeUnit::deadline_ms`].
    pub(crate) fn expiry(self, turn: &Turn, command: &'static str) -> Result<Expiry, ReplyError> {
        match self {
            Self::Unsaid => Ok(Expiry::Never),
            Self::Bare => Ok(Expiry::Keep),
            Self::Until(unit, time) => unit.deadline_ms(time, turn, command).map(Expiry::At),
        }
    }
}

const SECONDS: Argument = Argument::integer("seconds").with_token("EX");
const MILLISECONDS: Argument = Argument::integer("milliseconds").with_token("PX");
const UNIX_SECONDS: Argument = Argument::new("unix-time-seconds", ArgumentKind::UnixTime).with_token("EXAT");
const UNIX_MILLISECONDS: Argument = Argument::new("unix-time-milliseconds", ArgumentKind::UnixTime).with_token("PXAT");

/// The lifetime of a value that is stored.
pub(crate) const EXPIRATION: Argument = Argument::one_of(
    "expiration",
    &[SECONDS, MILLISECONDS, UNIX_SECONDS, UNIX_MILLISECONDS, Argument::word("keepttl", "KEEPTTL")],
)
.optional();

/// The new lifetime of a value that is read.
pub(super) const EXPIRATION_OR_PERSIST: Argument = Argument::one_of(
    "expiration",
    &[SECONDS, MILLISECONDS, UNIX_SECONDS, UNIX_MILLISECONDS, Argument::word("persist", "PERSIST")],
)
.optional();
