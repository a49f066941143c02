//! The request parser: limits, resumption at every byte, and agreement with `redis-protocol` where both mean to agree.

#![allow(missing_docs, clippy::unwrap_used)]

use leasehold_protocol::{Limits, Parsed, Parser, ProtocolError, first_key};
use proptest::prelude::*;
use redis_protocol::resp2::decode::decode;
use redis_protocol::resp2::types::OwnedFrame;

/// All requests in `input`, fed in pieces that end at `cuts`, or the error that ended it. Returns what was left over too.
fn parse_all(input: &[u8], cuts: &[usize], limits: &Limits) -> (Vec<Vec<Vec<u8>>>, Result<usize, ProtocolError>) {
    let mut parser = Parser::new();
    let mut requests = Vec::new();
    let mut buffer: Vec<u8> = Vec::new();
    let mut fed = 0;
    for &cut in cuts.iter().chain([&input.len()]) {
        buffer.extend_from_slice(&input[fed..cut.max(fed)]);
        fed = cut.max(fed);
        loop {
            match parser.parse(&buffer, limits) {
                Err(error) => return (requests, Err(error)),
                Ok(Parsed::Incomplete) => break,
                Ok(Parsed::Complete { consumed }) => {
                    requests.push(parser.request(&buffer).args_from(0).map(<[u8]>::to_vec).collect());
                    buffer.drain(..consumed);
                }
            }
        }
    }
    (requests, Ok(buffer.len()))
}

fn one(input: &[u8]) -> Result<Vec<Vec<u8>>, ProtocolError> {
    let (mut requests, end) = parse_all(input, &[], &Limits::DEFAULT);
    end?;
    assert_eq!(requests.len(), 1, "{:?}", String::from_utf8_lossy(input));
    Ok(requests.remove(0))
}

fn words(request: &[Vec<u8>]) -> Vec<&str> {
    request.iter().map(|arg| std::str::from_utf8(arg).unwrap()).collect()
}

#[test]
fn arrays_and_inline_lines_are_requests() {
    assert_eq!(words(&one(b"*2\r\n$3\r\nGET\r\n$7\r\nuser:42\r\n").unwrap()), ["GET", "user:42"]);
    assert_eq!(words(&one(b"PING\r\n").unwrap()), ["PING"]);
    assert_eq!(words(&one(b"  SET  a\t\"b c\"  \n").unwrap()), ["SET", "a", "b c"]);
    assert_eq!(one(b"*1\r\n$0\r\n\r\n").unwrap(), [b""]);
}

#[test]
fn empty_requests_are_complete_and_have_no_arguments() {
    for input in [&b"*0\r\n"[..], b"*-1\r\n", b"\r\n", b"\n", b"   \r\n"] {
        assert!(one(input).unwrap().is_empty(), "{input:?}");
    }
}

#[test]
fn inline_quotes_follow_the_rules_of_a_shell() {
    assert_eq!(
        one(br#"SET k "\x41\n\t\"\\""#.iter().chain(b"\r\n").copied().collect::<Vec<_>>().as_slice()).unwrap()[2],
        b"A\n\t\"\\"
    );
    assert_eq!(words(&one(b"SET k 'it\\'s'\r\n").unwrap())[2], "it's");
    assert_eq!(words(&one(b"SET k ''\r\n").unwrap())[2], "");
    for unbalanced in [&b"SET k \"abc\r\n"[..], b"SET k 'abc\r\n", b"SET \"a\"b\r\n", b"SET 'a'b\r\n", b"SET \"a\\\r\n"]
    {
        assert_eq!(one(unbalanced), Err(ProtocolError::UnbalancedQuotes), "{unbalanced:?}");
    }
}

#[test]
fn malformed_headers_are_named() {
    for (input, error) in [
        (&b"*x\r\n"[..], ProtocolError::InvalidMultibulkLength),
        (b"*\r\n", ProtocolError::InvalidMultibulkLength),
        (b"*1048577\r\n", ProtocolError::InvalidMultibulkLength),
        (b"*99999999999999999999\r\n", ProtocolError::InvalidMultibulkLength),
        (b"*1\r\nGET\r\n", ProtocolError::ExpectedDollar(b'G')),
        (b"*1\r\n*1\r\n", ProtocolError::ExpectedDollar(b'*')),
        (b"*1\r\n$-1\r\n", ProtocolError::InvalidBulkLength),
        (b"*1\r\n$+3\r\nGET\r\n", ProtocolError::InvalidBulkLength),
        (b"*1\r\n$536870913\r\n", ProtocolError::InvalidBulkLength),
        (b"*1\r\n$3\r\nGETxx", ProtocolError::MissingBulkTerminator),
        (b"*1\r\n$3\rx", ProtocolError::InvalidBulkLength),
        (b"POST / HTTP/1.1\r\n", ProtocolError::CrossProtocol),
        (b"host: localhost\r\n", ProtocolError::CrossProtocol),
    ] {
        assert_eq!(parse_all(input, &[], &Limits::DEFAULT).1, Err(error), "{:?}", String::from_utf8_lossy(input));
    }
}

#[test]
fn a_line_without_end_is_refused_at_the_inline_limit() {
    let line = vec![b'a'; Limits::DEFAULT.inline_bytes_max + 2];
    assert_eq!(parse_all(&line, &[], &Limits::DEFAULT).1, Err(ProtocolError::TooBigInline));
    let mut header = b"*1\r\n$".to_vec();
    header.extend(std::iter::repeat_n(b'1', Limits::DEFAULT.inline_bytes_max));
    assert_eq!(parse_all(&header, &[], &Limits::DEFAULT).1, Err(ProtocolError::TooBigBulkCount));
    let mut header = b"*".to_vec();
    header.extend(std::iter::repeat_n(b'1', Limits::DEFAULT.inline_bytes_max));
    assert_eq!(parse_all(&header, &[], &Limits::DEFAULT).1, Err(ProtocolError::TooBigMultibulkCount));
}

#[test]
fn ten_thousand_nested_arrays_are_an_error_and_no_recursion() {
    let nested = b"*1\r\n".repeat(10_000);
    assert_eq!(parse_all(&nested, &[], &Limits::DEFAULT).1, Err(ProtocolError::ExpectedDollar(b'*')));
}

#[test]
fn an_announced_argument_is_awaited_and_its_missing_bytes_are_known() {
    let limits = Limits::DEFAULT;
    let mut parser = Parser::new();
    let input = b"*2\r\n$3\r\nGET\r\n$536870912\r\nabc";
    assert_eq!(parser.parse(input, &limits), Ok(Parsed::Incomplete));
    assert!(parser.is_inside_request());
    assert_eq!(parser.bytes_wanted(input.len()), 536_870_912 - 3 + 2);
}

#[test]
fn a_request_as_a_whole_has_a_limit() {
    let limits = Limits { request_bytes_max: 100, ..Limits::DEFAULT };
    let (_, end) = parse_all(b"*2\r\n$60\r\n", &[], &limits);
    assert_eq!(end, Ok(9));
    let mut input = b"*2\r\n$60\r\n".to_vec();
    input.extend([b'a'; 60]);
    input.extend(b"\r\n$60\r\n");
    assert_eq!(parse_all(&input, &[], &limits).1, Err(ProtocolError::RequestTooLong));
}

#[test]
fn a_stranger_may_send_little() {
    let limits = Limits::DEFAULT.unauthenticated();
    assert_eq!(parse_all(b"*11\r\n", &[], &limits).1, Err(ProtocolError::UnauthenticatedMultibulkLength));
    assert_eq!(parse_all(b"*1\r\n$16385\r\n", &[], &limits).1, Err(ProtocolError::UnauthenticatedBulkLength));
    assert_eq!(parse_all(b"*10\r\n$16384\r\n", &[], &limits).1, Ok(b"*10\r\n$16384\r\n".len()));
}

#[test]
fn small_configured_limits_are_not_those_of_strangers() {
    let limits = Limits { args_max: 10, bulk_bytes_max: 16 * 1024, ..Limits::DEFAULT };
    assert_eq!(parse_all(b"*11\r\n", &[], &limits).1, Err(ProtocolError::InvalidMultibulkLength));
    assert_eq!(parse_all(b"*1\r\n$16385\r\n", &[], &limits).1, Err(ProtocolError::InvalidBulkLength));
}

fn encode(request: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = format!("*{}\r\n", request.len()).into_bytes();
    for arg in request {
        bytes.extend(format!("${}\r\n", arg.len()).bytes());
        bytes.extend(arg);
        bytes.extend(b"\r\n");
    }
    bytes
}

fn request() -> impl Strategy<Value = Vec<Vec<u8>>> {
    prop::collection::vec(prop::collection::vec(any::<u8>(), 0..40), 1..12)
}

proptest! {
    /// A pipeline comes out as it went in, wherever the network cuts it.
    #[test]
    fn requests_survive_any_cut(requests in prop::collection::vec(request(), 1..6), cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..20)) {
        let input: Vec<u8> = requests.iter().flat_map(|request| encode(request)).collect();
        let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(input.len())).collect();
        cuts.sort_unstable();
        let (parsed, end) = parse_all(&input, &cuts, &Limits::DEFAULT);
        prop_assert_eq!(end, Ok(0));
        prop_assert_eq!(parsed, requests);
    }

    /// What is cut differently is parsed alike, valid or not.
    #[test]
    fn cuts_change_nothing(input in fragments(), cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..20)) {
        let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(input.len() + 1)).collect();
        cuts.sort_unstable();
        prop_assert_eq!(parse_all(&input, &[], &Limits::DEFAULT), parse_all(&input, &cuts, &Limits::DEFAULT));
    }

    /// An array of bulk strings that the oracle reads, we read; what the oracle refuses, we do not take for a request.
    /// By design we differ on: inline lines, other RESP types, empty and nil arrays and nil bulk strings (no request or an
    /// error here, values there), trailers that are not CR LF and `$+4` (the oracle does not look).
    #[test]
    fn agrees_with_the_oracle_on_arrays_of_bulk_strings(input in fragments()) {
        prop_assume!(input.first() == Some(&b'*'));
        let ours = parse_all(&input, &[], &Limits::DEFAULT);
        let first = ours.0.first().filter(|request| !request.is_empty());
        match decode(&input) {
            Ok(Some((OwnedFrame::Array(frames), _))) if !frames.is_empty() => {
                let theirs: Option<Vec<Vec<u8>>> = frames
                    .into_iter()
                    .map(|frame| match frame { OwnedFrame::BulkString(bytes) => Some(bytes), _ => None })
                    .collect();
                if let (Some(theirs), Some(first)) = (&theirs, first) {
                    prop_assert_eq!(theirs, first);
                } else if theirs.is_none() {
                    prop_assert!(first.is_none());
                }
            }
            Ok(_) => {}
            Err(_) => prop_assert!(first.is_none() || ours.0.len() > 1 || ours.1.is_err()),
        }
    }
}

/// Bytes that look like RESP more often than chance would have it.
fn fragments() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop_oneof![
        4 => request().prop_map(|request| encode(&request)),
        1 => (0usize..5).prop_map(|count| format!("*{count}\r\n").into_bytes()),
        1 => (-2i64..9).prop_map(|len| format!("${len}\r\n").into_bytes()),
        1 => prop::collection::vec(prop::sample::select(b"*$+-:\r\n0123456789 \"'\\xab".to_vec()), 0..12),
        1 => prop::collection::vec(any::<u8>(), 0..6),
    ];
    prop::collection::vec(piece, 0..6).prop_map(|pieces| pieces.concat())
}

#[test]
fn the_first_key_is_found_where_the_request_has_the_usual_form() {
    for (input, key) in [
        (&b"*2\r\n$3\r\nGET\r\n$6\r\nuser:4\r\n"[..], Some(&b"user:4"[..])),
        (b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$1\r\nv\r\n*1\r\n", Some(b"k")),
        (b"*2\r\n$3\r\nGET\r\n$6\r\nuser", None),
        (b"*1\r\n$4\r\nPING\r\n", None),
        (b"*2\r\n$3\r\nGET\r\n$65536\r\n", None),
        (b"GET k\r\n", None),
        (b"*", None),
        (b"", None),
    ] {
        assert_eq!(first_key(input), key, "{}", String::from_utf8_lossy(input));
    }
}
