//! Every error a client can cause, with its text. The texts are Redis's where Redis has the error.

use leasehold_cluster::{Address, Slot};
use std::fmt;

/// The client's fault, or the node's state: an error reply, and the connection goes on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ReplyError {
    /// No such command; the text lists the arguments as Redis does.
    UnknownCommand {
        /// As the client wrote it.
        name: Vec<u8>,
        /// The first arguments, as far as the text may show them.
        arguments: Vec<Vec<u8>>,
    },
    /// The command has no such subcommand.
    UnknownSubcommand {
        /// As the client wrote it.
        name: Vec<u8>,
        /// In upper case.
        command: String,
    },
    /// Too few arguments, too many, or not in pairs.
    WrongArity {
        /// In lower case, `a|b` for subcommands.
        command: String,
    },
    /// A word that the command does not know here, or that contradicts an earlier one.
    Syntax,
    /// An argument or a value is not the canonical text of an i64.
    NotAnInteger,
    /// An argument or a value is not a number.
    NotAFloat,
    /// Behind `VER` or `MINVER`.
    NotAVersion,
    /// Behind `WAIT`, `LEASE`, `STALEFOR` and their kind.
    NotMilliseconds,
    /// A token of a lease is not a 63-bit number.
    NotAToken,
    /// `INCR` and its kind: the sum is not an i64.
    Overflow,
    /// `DECRBY` by the one number that has no negative.
    DecrementOverflow,
    /// `INCRBYFLOAT`: the sum is infinite or not a number.
    NotFinite,
    /// A value would grow over `proto-max-bulk-len`.
    ValueTooLong,
    /// The values of many keys, or the keys themselves, would be longer than `client-output-buffer-limit`.
    ReplyTooLong,
    /// `SETRANGE` before the start of a value.
    OffsetOutOfRange,
    /// `MSETEX` with a number of keys that is none.
    Numkeys,
    /// `MSETEX` with fewer arguments than the number of keys says.
    KeyValuePairs,
    /// `LCS` with both `LEN` and `IDX`.
    LcsLenAndIdx,
    /// `LCS` of values whose table would be too large.
    LcsTooLong,
    /// The offset of a bit is not a number, or beyond the longest value.
    BitOffset,
    /// `SETBIT` to neither 0 nor 1.
    BitValue,
    /// `BITPOS` of neither 0 nor 1.
    BitWanted,
    /// `BITOP NOT` of several keys.
    BitopNot,
    /// A type of `BITFIELD` that is none.
    BitfieldType,
    /// A word behind `OVERFLOW` that is none.
    BitfieldOverflow,
    /// A write in `BITFIELD_RO`.
    BitfieldReadOnly,
    /// A time to live that is not positive, or too far away.
    InvalidExpire {
        /// In lower case.
        command: &'static str,
    },
    /// The command needs the key to exist.
    NoSuchKey,
    /// A position outside of what it counts.
    OutOfRange,
    /// `SELECT` and its kind beyond the last database.
    DbIndexOutOfRange,
    /// The keys are another node's.
    Moved {
        /// Of the keys.
        slot: Slot,
        /// Where the client finds them.
        address: Address,
    },
    /// The keys of one command are in more than one slot.
    CrossSlot,
    /// A command about several nodes, where there is but one.
    NoCluster,
    /// `SELECT` of a database other than 0 where there are several nodes.
    SelectInCluster,
    /// `COPY` to a database other than 0 where there are several nodes.
    CopyInCluster,
    /// The memory limit is reached and nothing may be evicted.
    OutOfMemory,
    /// The client has not authenticated.
    NoAuth,
    /// `AUTH` with another password than the configured one.
    WrongPassword,
    /// `HELLO` with a version other than 2 and 3.
    NoProto,
    /// Any other text, with its code.
    Text(String),
}

impl ReplyError {
    /// An error with the code `ERR`.
    #[must_use]
    pub fn err(text: impl fmt::Display) -> Self {
        Self::Text(format!("ERR {text}"))
    }
}

impl fmt::Display for ReplyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UnknownCommand { name, arguments } => {
                // As Redis: at most 128 bytes of the name and of the arguments together.
                let name = String::from_utf8_lossy(&name[..name.len().min(128)]);
                let mut list = String::new();
                for argument in arguments {
                    if list.len() >= 128 {
                        break;
                    }
                    let shown = argument.len().min(128 - list.len());
                    list.push_str(&format!("'{}' ", String::from_utf8_lossy(&argument[..shown])));
                }
                write!(f, "ERR unknown command '{name}', with args beginning with: {list}")
            }
            Self::UnknownSubcommand { name, command } => {
                let name = String::from_utf8_lossy(&name[..name.len().min(128)]);
                write!(f, "ERR unknown subcommand '{name}'. Try {command} HELP.")
            }
            Self::WrongArity { command } => {
                write!(f, "ERR wrong number of arguments for '{command}' command")
            }
            Self::Syntax => f.write_str("ERR syntax error"),
            Self::NotAnInteger => f.write_str("ERR value is not an integer or out of range"),
            Self::NotAFloat => f.write_str("ERR value is not a valid float"),
            Self::NotAVersion => f.write_str("ERR version is not an unsigned 64-bit integer"),
            Self::NotMilliseconds => f.write_str("ERR time is not a whole number of milliseconds from 0"),
            Self::NotAToken => f.write_str("ERR token is not a number"),
            Self::Overflow => f.write_str("ERR increment or decrement would overflow"),
            Self::DecrementOverflow => f.write_str("ERR decrement would overflow"),
            Self::NotFinite => f.write_str("ERR increment would produce NaN or Infinity"),
            Self::ValueTooLong => f.write_str("ERR string exceeds maximum allowed size (proto-max-bulk-len)"),
            Self::ReplyTooLong => f.write_str("ERR reply exceeds maximum allowed size (client-output-buffer-limit)"),
            Self::OffsetOutOfRange => f.write_str("ERR offset is out of range"),
            Self::Numkeys => f.write_str("ERR invalid numkeys value"),
            Self::KeyValuePairs => f.write_str("ERR wrong number of key-value pairs"),
            Self::LcsLenAndIdx => f.write_str("ERR If you want both the length and indexes, please just use IDX."),
            Self::LcsTooLong => {
                f.write_str("ERR Insufficient memory, transient memory for LCS exceeds proto-max-bulk-len")
            }
            Self::BitOffset => f.write_str("ERR bit offset is not an integer or out of range"),
            Self::BitValue => f.write_str("ERR bit is not an integer or out of range"),
            Self::BitWanted => f.write_str("ERR The bit argument must be 1 or 0."),
            Self::BitopNot => f.write_str("ERR BITOP NOT must be called with a single source key."),
            Self::BitfieldType => f.write_str(
                "ERR Invalid bitfield type. Use something like i16 u8. Note that u64 is not supported but i64 is.",
            ),
            Self::BitfieldOverflow => f.write_str("ERR Invalid OVERFLOW type specified"),
            Self::BitfieldReadOnly => f.write_str("ERR BITFIELD_RO only supports the GET subcommand"),
            Self::InvalidExpire { command } => write!(f, "ERR invalid expire time in '{command}' command"),
            Self::NoSuchKey => f.write_str("ERR no such key"),
            Self::OutOfRange => f.write_str("ERR index out of range"),
            Self::DbIndexOutOfRange => f.write_str("ERR DB index is out of range"),
            Self::Moved { slot, address } => write!(f, "MOVED {slot} {address}"),
            Self::CrossSlot => f.write_str("CROSSSLOT Keys in request don't hash to the same slot"),
            Self::NoCluster => f.write_str("ERR This instance has cluster support disabled"),
            Self::SelectInCluster => f.write_str("ERR SELECT is not allowed in cluster mode"),
            Self::CopyInCluster => f.write_str("ERR Copying to another database is not allowed in cluster mode"),
            Self::OutOfMemory => f.write_str("OOM command not allowed when used memory > 'maxmemory'."),
            Self::NoAuth => f.write_str("NOAUTH Authentication required."),
            Self::WrongPassword => f.write_str("WRONGPASS invalid username-password pair or user is disabled."),
            Self::NoProto => f.write_str("NOPROTO unsupported protocol version"),
            Self::Text(text) => f.write_str(text),
        }
    }
}

impl std::error::Error for ReplyError {}
