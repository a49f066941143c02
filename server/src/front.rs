//! What a connection speaks, for life: RESP or memcached's text protocol. (A RESP connection of another node may become a link.)
//!
//! The loop that reads, executes and writes is the same for both and made twice by the compiler, so that neither pays for the other:
//! which one runs is asked once a turn of a connection.

use crate::peer::frame::Dialect;
use crate::stage::Stage;
use leasehold_command::{Client, Context, Outcome, execute, load_ahead, memcached};
use leasehold_protocol::memcached::{self as text, Fault, reply};
use leasehold_protocol::{Limits, Parsed, Parser, ProtocolError, Reply, Request, RespVersion};

/// The protocol of a listener and its connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Protocol {
    Resp,
    Memcached,
    /// What another node sends on: frames of both. A connection of RESP becomes it by `CLUSTER LINK`.
    Link,
}

/// A half received request of a connection.
#[derive(Debug)]
pub(crate) enum Unfinished {
    Resp(Parser),
    Memcached(text::Parser),
}

/// What a thread executes the connections of one protocol with.
pub(crate) struct Lane<F: Front> {
    pub(crate) stage: Stage<F>,
    // As configured at the start.
    pub(crate) limits: F::Limits,
    pub(crate) limits_unauthenticated: F::Limits,
    /// A copy of a live setting.
    pub(crate) password_required: bool,
}

/// See [`Lane`].
pub(crate) struct Lanes {
    pub(crate) resp: Lane<Resp>,
    pub(crate) memcached: Lane<Memcached>,
}

impl Lanes {
    /// After a panic: nothing that was parsed counts.
    pub(crate) fn reset(&mut self) {
        self.resp.stage = Stage::new();
        self.memcached.stage = Stage::new();
    }
}

/// How the loop of a connection meets a protocol.
pub(crate) trait Front: Sized + 'static {
    type Parser: Default;
    type Limits;
    type Request<'a>: Copy;

    /// Whether a complete request may leave its parser inside data that is passed over.
    const PASSES_OVER: bool;

    fn lane(lanes: &mut Lanes) -> &mut Lane<Self>;

    /// Keeps a request that is half received.
    fn keep(parser: Self::Parser) -> Unfinished;

    /// What was kept; `None`: of another protocol.
    fn resume(unfinished: Unfinished) -> Option<Self::Parser>;

    fn parse(parser: &mut Self::Parser, input: &[u8], limits: &Self::Limits) -> Result<Parsed, ProtocolError>;

    /// What was parsed, unless it asks for nothing.
    fn request<'a>(parser: &'a Self::Parser, input: &'a [u8]) -> Option<Self::Request<'a>>;

    fn is_inside_request(parser: &Self::Parser) -> bool;

    /// Of a parser that is inside a request although one is complete: what parses on.
    fn rest(parser: &mut Self::Parser) -> Self::Parser;

    /// What is a key for nearly all commands, of the request that was parsed.
    fn first_key<'a>(parser: &'a Self::Parser, input: &'a [u8]) -> Option<&'a [u8]>;

    /// What is a key for nearly all commands.
    fn key<'r>(request: &'r Self::Request<'_>) -> Option<&'r [u8]>;

    /// Whether what a client opens with is another protocol.
    fn is_foreign(client: &Client, input: &[u8]) -> bool;

    fn execute(context: &mut Context<'_>, request: Self::Request<'_>) -> Outcome;

    /// Executes a request that is whole in `bytes`.
    fn execute_bytes(context: &mut Context<'_>, bytes: &[u8], limits: &Self::Limits) -> Outcome {
        let mut parser = Self::Parser::default();
        let parsed = Self::parse(&mut parser, bytes, limits);
        match Self::request(&parser, bytes).filter(|_| matches!(parsed, Ok(Parsed::Complete { .. }))) {
            Some(request) => Self::execute(context, request),
            None => {
                Self::complain(context.reply, ProtocolError::RequestTooLong);
                Outcome::Replied
            }
        }
    }

    /// See [`load_ahead`].
    fn load_ahead(context: &mut Context<'_>, request: Self::Request<'_>, keys_left: &mut usize) -> bool;

    /// The text of a reply that is an error, from its code on.
    fn error_of(reply: &[u8]) -> Option<&[u8]>;

    /// The last words to a client that broke the protocol.
    fn complain(reply: &mut Reply, error: ProtocolError);

    /// What a request is written in, for another node.
    fn dialect(version: RespVersion) -> Dialect;
}

/// See [`Protocol::Resp`].
pub(crate) struct Resp;

impl Front for Resp {
    type Parser = Parser;
    type Limits = Limits;
    type Request<'a> = Request<'a>;
    const PASSES_OVER: bool = false;

    #[inline]
    fn lane(lanes: &mut Lanes) -> &mut Lane<Self> {
        &mut lanes.resp
    }

    fn keep(parser: Parser) -> Unfinished {
        Unfinished::Resp(parser)
    }

    fn resume(unfinished: Unfinished) -> Option<Parser> {
        if let Unfinished::Resp(parser) = unfinished { Some(parser) } else { None }
    }

    #[inline]
    fn parse(parser: &mut Parser, input: &[u8], limits: &Limits) -> Result<Parsed, ProtocolError> {
        parser.parse(input, limits)
    }

    #[inline]
    fn request<'a>(parser: &'a Parser, input: &'a [u8]) -> Option<Request<'a>> {
        // A blank line, `*0`.
        Some(parser.request(input)).filter(|request| request.len() > 0)
    }

    #[inline]
    fn is_inside_request(parser: &Parser) -> bool {
        parser.is_inside_request()
    }

    #[cold]
    fn rest(_: &mut Parser) -> Parser {
        Parser::new()
    }

    #[inline]
    fn first_key<'a>(parser: &'a Parser, input: &'a [u8]) -> Option<&'a [u8]> {
        parser.request(input).get(1)
    }

    fn key<'r>(request: &'r Request<'_>) -> Option<&'r [u8]> {
        request.get(1)
    }

    #[inline]
    fn is_foreign(_: &Client, _: &[u8]) -> bool {
        false
    }

    #[inline]
    fn execute(context: &mut Context<'_>, request: Request<'_>) -> Outcome {
        execute(context, request)
    }

    fn load_ahead(context: &mut Context<'_>, request: Request<'_>, keys_left: &mut usize) -> bool {
        load_ahead(context, request, keys_left)
    }

    #[inline]
    fn error_of(reply: &[u8]) -> Option<&[u8]> {
        reply.strip_prefix(b"-")
    }

    fn complain(reply: &mut Reply, error: ProtocolError) {
        reply.error(&format_args!("ERR Protocol error: {error}"));
    }

    fn dialect(version: RespVersion) -> Dialect {
        match version {
            RespVersion::V2 => Dialect::Resp2,
            RespVersion::V3 => Dialect::Resp3,
        }
    }
}

/// See [`Protocol::Memcached`].
pub(crate) struct Memcached;

impl Front for Memcached {
    type Parser = text::Parser;
    type Limits = text::Limits;
    type Request<'a> = text::Request<'a>;
    const PASSES_OVER: bool = true;

    #[inline]
    fn lane(lanes: &mut Lanes) -> &mut Lane<Self> {
        &mut lanes.memcached
    }

    fn keep(parser: text::Parser) -> Unfinished {
        Unfinished::Memcached(parser)
    }

    fn resume(unfinished: Unfinished) -> Option<text::Parser> {
        if let Unfinished::Memcached(parser) = unfinished { Some(parser) } else { None }
    }

    #[inline]
    fn parse(parser: &mut text::Parser, input: &[u8], limits: &text::Limits) -> Result<Parsed, ProtocolError> {
        parser.parse(input, limits)
    }

    #[inline]
    fn request<'a>(parser: &'a text::Parser, input: &'a [u8]) -> Option<text::Request<'a>> {
        Some(parser.request(input)).filter(|request| request.fault() != Some(Fault::Skipped))
    }

    #[inline]
    fn is_inside_request(parser: &text::Parser) -> bool {
        parser.is_inside_request()
    }

    fn rest(parser: &mut text::Parser) -> text::Parser {
        parser.take_rest()
    }

    #[inline]
    fn first_key<'a>(parser: &'a text::Parser, input: &'a [u8]) -> Option<&'a [u8]> {
        parser.request(input).word(1)
    }

    fn key<'r>(request: &'r text::Request<'_>) -> Option<&'r [u8]> {
        request.word(1)
    }

    /// A TLS handshake, or memcached's binary protocol: neither has lines, so its client would wait for ever.
    fn is_foreign(client: &Client, input: &[u8]) -> bool {
        client.ticket == 0 && matches!(input.first(), Some(0x16 | 0x80))
    }

    #[inline]
    fn execute(context: &mut Context<'_>, request: text::Request<'_>) -> Outcome {
        memcached::execute(context, request)
    }

    fn load_ahead(context: &mut Context<'_>, request: text::Request<'_>, keys_left: &mut usize) -> bool {
        memcached::load_ahead(context, request, keys_left)
    }

    #[inline]
    fn error_of(reply: &[u8]) -> Option<&[u8]> {
        // ERROR, CLIENT_ERROR, SERVER_ERROR: no other reply begins with these two bytes.
        matches!(reply, [b'E', b'R', ..] | [b'C', b'L', ..] | [b'S', b'E', ..]).then_some(reply)
    }

    fn complain(reply: &mut Reply, error: ProtocolError) {
        // Who speaks another protocol would not understand.
        if error != ProtocolError::CrossProtocol {
            reply::error(reply.buffer_mut(), "CLIENT_ERROR", &error.to_string());
        }
    }

    fn dialect(_: RespVersion) -> Dialect {
        Dialect::Memcached
    }
}
