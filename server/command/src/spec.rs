//! The shape of a command's declaration.

use crate::context::{Context, Outcome};
use leasehold_protocol::Request;

/// What runs a command. Arity, authentication and memory have been checked.
pub type Handler = fn(&mut Context<'_>, Request<'_>) -> Outcome;

/// Everything there is to know about a command. One const value each.
#[derive(Debug)]
pub struct Spec {
    /// Lower case. For a subcommand its own word (`setname`).
    pub name: &'static str,
    /// One sentence without a full stop, for `COMMAND DOCS` and the README.
    pub summary: &'static str,
    /// Where in the documentation.
    pub group: Group,
    /// The Redis version that introduced it, or `leasehold 0.1.0` for our own.
    pub since: &'static str,
    /// In words of growth: `O(N) for N keys`.
    pub complexity: &'static str,
    /// Number of arguments, the name (and the subcommand's) included; negative: at least so many.
    pub arity: i32,
    /// What kind of command it is.
    pub flags: Flags,
    /// Where its keys stand.
    pub keys: Keys,
    /// The arguments behind the name, for `COMMAND DOCS`.
    pub arguments: &'static [Argument],
    /// Not empty: argument 1 names one of these, and `run` is used only when there is no argument 1.
    pub subcommands: &'static [Spec],
    /// Its handler.
    pub run: Handler,
}

/// One argument in `COMMAND DOCS`.
#[derive(Clone, Copy, Debug)]
pub struct Argument {
    /// As usage lines show it.
    pub name: &'static str,
    /// What it is.
    pub kind: ArgumentKind,
    /// The literal word before the value, or of a pure token.
    pub token: Option<&'static str>,
    /// May be left out.
    pub optional: bool,
    /// May be given more than once.
    pub multiple: bool,
    /// Alternatives (`OneOf`) or parts (`Block`).
    pub parts: &'static [Argument],
}

impl Argument {
    /// One value that must be given.
    #[must_use]
    pub const fn new(name: &'static str, kind: ArgumentKind) -> Self {
        Self { name, kind, token: None, optional: false, multiple: false, parts: &[] }
    }

    /// A key.
    #[must_use]
    pub const fn key(name: &'static str) -> Self {
        Self::new(name, ArgumentKind::Key)
    }

    /// Any bytes.
    #[must_use]
    pub const fn string(name: &'static str) -> Self {
        Self::new(name, ArgumentKind::String)
    }

    /// A whole number.
    #[must_use]
    pub const fn integer(name: &'static str) -> Self {
        Self::new(name, ArgumentKind::Integer)
    }

    /// A word without a value.
    #[must_use]
    pub const fn word(name: &'static str, token: &'static str) -> Self {
        Self::new(name, ArgumentKind::PureToken).with_token(token)
    }

    /// One of these.
    #[must_use]
    pub const fn one_of(name: &'static str, parts: &'static [Argument]) -> Self {
        Self { parts, ..Self::new(name, ArgumentKind::OneOf) }
    }

    /// All of these, together.
    #[must_use]
    pub const fn block(name: &'static str, parts: &'static [Argument]) -> Self {
        Self { parts, ..Self::new(name, ArgumentKind::Block) }
    }

    /// May be left out.
    #[must_use]
    pub const fn optional(self) -> Self {
        Self { optional: true, ..self }
    }

    /// May be given more than once.
    #[must_use]
    pub const fn multiple(self) -> Self {
        Self { multiple: true, ..self }
    }

    /// Whether the token stands before every repetition (`GET u8 0 GET u8 8`) or only before the first (`ID 3 4`).
    #[must_use]
    pub const fn repeats_token(&self) -> bool {
        self.multiple && self.token.is_some() && matches!(self.kind, ArgumentKind::Block | ArgumentKind::PureToken)
    }

    /// Behind this literal word.
    #[must_use]
    pub const fn with_token(self, token: &'static str) -> Self {
        Self { token: Some(token), ..self }
    }
}

/// The types `COMMAND DOCS` knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ArgumentKind {
    /// A key.
    Key,
    /// Any bytes.
    String,
    /// A whole number.
    Integer,
    /// A floating-point number.
    Double,
    /// A glob pattern.
    Pattern,
    /// Seconds or milliseconds since 1970.
    UnixTime,
    /// A literal word without a value.
    PureToken,
    /// One of the parts.
    OneOf,
    /// All parts, in order.
    Block,
}

/// Which page of the documentation a command belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Group {
    /// About the connection itself.
    Connection,
    /// About the node.
    Server,
    /// On keys of any type.
    Generic,
    /// On strings.
    String,
    /// On the bits of strings.
    Bitmap,
    /// The right to fill a key.
    Lease,
    /// Reading through to a source.
    Loader,
    /// About several nodes.
    Cluster,
}

/// Where the keys stand among the arguments.
#[derive(Clone, Copy, Debug)]
pub enum Keys {
    /// There are none.
    None,
    /// First and last position and the step, as Redis counts: the name is 0, a negative last counts from the end.
    Range {
        /// Position of the first key.
        first: i32,
        /// Position of the last key.
        last: i32,
        /// From one key to the next.
        step: i32,
    },
    /// `numkeys` at this position, the keys behind it, `step` apart (2 when each key is followed by its value).
    Counted {
        /// Position of the number of keys.
        numkeys: usize,
        /// From one key to the next.
        step: usize,
    },
    /// From argument 1 on, up to the options, which stand last and are read from the end: of each group one at most, each a word and
    /// the number of its values. One key at least stands before them, whatever its name.
    BeforeOptions(&'static [&'static [(&'static str, usize)]]),
}

impl Keys {
    /// One key, argument 1.
    pub const ONE: Self = Self::Range { first: 1, last: 1, step: 1 };
    /// All arguments are keys.
    pub const ALL: Self = Self::Range { first: 1, last: -1, step: 1 };
}

/// A set of command flags; the words are Redis's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flags(pub u32);

impl Flags {
    /// No flag.
    pub const NONE: Self = Self(0);
    /// Changes the keyspace.
    pub const WRITE: Self = Self(1);
    /// Reads the keyspace and leaves it as it is.
    pub const READONLY: Self = Self(1 << 1);
    /// May need memory: refused when the limit is reached and nothing may be evicted.
    pub const DENYOOM: Self = Self(1 << 2);
    /// For operators.
    pub const ADMIN: Self = Self(1 << 3);
    /// Takes the same short time whatever the data.
    pub const FAST: Self = Self(1 << 4);
    /// Allowed before authentication.
    pub const NO_AUTH: Self = Self(1 << 5);
    /// May park the client.
    pub const BLOCKING: Self = Self(1 << 6);
    /// Not for scripts.
    pub const NOSCRIPT: Self = Self(1 << 7);
    /// Allowed while data is loaded at start.
    pub const LOADING: Self = Self(1 << 8);
    /// Allowed on a replica that lost its primary.
    pub const STALE: Self = Self(1 << 9);
    /// Key positions depend on other arguments.
    pub const MOVABLEKEYS: Self = Self(1 << 10);
    /// Allowed while a script runs.
    pub const ALLOW_BUSY: Self = Self(1 << 11);
    /// Slow for everybody or destructive: in the category `@dangerous`, and no word of `COMMAND INFO`.
    pub const DANGEROUS: Self = Self(1 << 12);

    /// Its keys have nothing to do with each other, so each node may run it for its own; the reply is the sum of numbers.
    pub const SUMMED: Self = Self(1 << 13);
    /// As `SUMMED`; the reply is OK if all are.
    pub const ALL_OK: Self = Self(1 << 14);
    /// As `SUMMED`; the reply is an array with an element for each key.
    pub const LISTED: Self = Self(1 << 15);
    /// As `LISTED`; an element may be an error.
    pub const LISTED_WITH_ERRORS: Self = Self(1 << 16);

    /// All flags of both.
    #[must_use]
    pub const fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Whether all flags of `other` are set.
    #[must_use]
    pub const fn has(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }
}
