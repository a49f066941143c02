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
    pub group: Group,
    /// The Redis version that introduced it, or `leasehold 0.1.0` for our own.
    pub since: &'static str,
    pub complexity: &'static str,
    /// Number of arguments, the name (and the subcommand's) included; negative: at least so many.
    pub arity: i32,
    pub flags: Flags,
    pub keys: Keys,
    /// The arguments behind the name, for `COMMAND DOCS`.
    pub arguments: &'static [Argument],
    /// Not empty: argument 1 names one of these, and `run` is used only when there is no argument 1.
    pub subcommands: &'static [Spec],
    pub run: Handler,
}

/// One argument in `COMMAND DOCS`.
#[derive(Clone, Copy, Debug)]
pub struct Argument {
    pub name: &'static str,
    pub kind: ArgumentKind,
    /// The literal word before the value, or of a pure token.
    pub token: Option<&'static str>,
    pub optional: bool,
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

    /// Behind this literal word.
    #[must_use]
    pub const fn with_token(self, token: &'static str) -> Self {
        Self { token: Some(token), ..self }
    }
}

/// The types `COMMAND DOCS` knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ArgumentKind {
    Key,
    String,
    Integer,
    Double,
    Pattern,
    UnixTime,
    PureToken,
    OneOf,
    Block,
}

/// Which page of the documentation a command belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Group {
    Connection,
    Server,
    Generic,
    String,
    Bitmap,
    Lease,
    Loader,
}

/// Where the keys stand among the arguments.
#[derive(Clone, Copy, Debug)]
pub enum Keys {
    None,
    /// First and last position and the step, as Redis counts: the name is 0, a negative last counts from the end.
    Range {
        first: i32,
        last: i32,
        step: i32,
    },
    /// `numkeys` at this position, the keys behind it, `step` apart (2 when each key is followed by its value).
    Counted {
        numkeys: usize,
        step: usize,
    },
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
    pub const NONE: Self = Self(0);
    pub const WRITE: Self = Self(1);
    pub const READONLY: Self = Self(1 << 1);
    /// May need memory: refused when the limit is reached and nothing may be evicted.
    pub const DENYOOM: Self = Self(1 << 2);
    pub const ADMIN: Self = Self(1 << 3);
    pub const FAST: Self = Self(1 << 4);
    /// Allowed before authentication.
    pub const NO_AUTH: Self = Self(1 << 5);
    /// May park the client.
    pub const BLOCKING: Self = Self(1 << 6);
    pub const NOSCRIPT: Self = Self(1 << 7);
    pub const LOADING: Self = Self(1 << 8);
    pub const STALE: Self = Self(1 << 9);
    /// Key positions depend on other arguments.
    pub const MOVABLEKEYS: Self = Self(1 << 10);
    pub const ALLOW_BUSY: Self = Self(1 << 11);
    /// Slow for everybody or destructive: in the category `@dangerous`, and no word of `COMMAND INFO`.
    pub const DANGEROUS: Self = Self(1 << 12);

    #[must_use]
    pub const fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    #[must_use]
    pub const fn has(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }
}
