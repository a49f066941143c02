//! memcached's request parser: words, data, faults, limits, and resumption at every byte.

#![allow(missing_docs, clippy::unwrap_used)]

use leasehold_protocol::memcached::{Fault, Limits, Parser, Request, Storage, first_key};
use leasehold_protocol::{Parsed, ProtocolError};
use proptest::prelude::*;

/// What a request holds, without the input.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Held {
    words: Vec<String>,
    data: Option<String>,
    storage: Storage,
    fault: Option<Fault>,
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn hold(request: Request<'_>) -> Held {
    assert_eq!(request.words_from(0).len(), request.len());
    assert_eq!(request.word(request.len()), None);
    let (data, storage, fault) = (request.data().map(text), request.storage(), request.fault());
    Held { words: request.words_from(0).map(text).collect(), data, storage, fault }
}

const SMALL: Limits =
    Limits { line_bytes_max: 64, multiget_bytes_max: 256, words_max: 64, key_bytes_max: 20, entry_bytes_max: 120 };

/// All requests in `input`, fed in pieces that end at `cuts`, or the error that ended it; and what was left over.
fn parse_all(input: &[u8], cuts: &[usize], limits: &Limits) -> (Vec<Held>, Result<usize, ProtocolError>) {
    let mut parser = Parser::new();
    let (mut requests, mut buffer, mut fed) = (Vec::new(), Vec::new(), 0);
    for &cut in cuts.iter().chain([&input.len()]) {
        buffer.extend_from_slice(&input[fed..cut.max(fed)]);
        fed = cut.max(fed);
        loop {
            match parser.parse(&buffer, limits) {
                Err(error) => return (requests, Err(error)),
                Ok(Parsed::Incomplete) => break,
                Ok(Parsed::Complete { consumed }) => {
                    let request = parser.request(&buffer);
                    // How a block is cut that is passed over is nobody's business.
                    if request.fault() != Some(Fault::Skipped) {
                        requests.push(hold(request));
                    }
                    buffer.drain(..consumed);
                }
            }
        }
    }
    (requests, Ok(buffer.len()))
}

fn one(input: &str) -> Held {
    let (mut requests, end) = parse_all(input.as_bytes(), &[], &Limits::DEFAULT);
    assert_eq!((requests.len(), end), (1, Ok(0)), "{input:?}");
    requests.remove(0)
}

#[test]
fn words_stand_between_spaces_and_a_line_ends_with_lf() {
    for (input, words) in [
        ("get a\r\n", &["get", "a"][..]),
        ("get a\n", &["get", "a"]),
        ("get   a\tb  \r\n", &["get", "a\tb"]),
        // A line that begins with a space names no command.
        ("  get a\r\n", &["", "get", "a"]),
        ("   \n", &[""]),
        (" set a 0 0 1\r\n", &["", "set", "a", "0", "0", "1"]),
        ("get a\r\r\n", &["get", "a\r"]),
        ("get \u{1}\0é\r\n", &["get", "\u{1}\0é"]),
        (
            "a-word-of-more-than-eight-bytes and-another-one\r\n",
            &["a-word-of-more-than-eight-bytes", "and-another-one"],
        ),
    ] {
        let held = one(input);
        assert_eq!(
            (&held.words[..], held.data, held.fault),
            (&words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>()[..], None, None),
            "{input:?}"
        );
    }
}

#[test]
fn storage_lines_have_numbers_and_a_block_behind_them() {
    let numbers = |flags, exptime, unique| Storage { flags, exptime, unique };
    for (input, data, storage) in [
        ("set a 1 2 3\r\nabc\r\n", "abc", numbers(1, 2, 0)),
        ("add a 4294967295 -1 0 noreply\r\n\r\n", "", numbers(u32::MAX, -1, 0)),
        ("replace a +1 +2 2\r\n\r\n\r\n", "\r\n", numbers(1, 2, 0)),
        ("set a 0 0 01 2 3\r\nx\r\n", "x", numbers(0, 0, 0)),
        ("append a 0 0 1\nx\r\n", "x", numbers(0, 0, 0)),
        ("prepend a 0 0 1\r\nx\r\n", "x", numbers(0, 0, 0)),
        ("cas a 0 0 1 18446744073709551615 noreply\r\nx\r\n", "x", numbers(0, 0, u64::MAX)),
        ("lease-set a 77 5 6 1\r\nx\r\n", "x", numbers(5, 6, 77)),
        ("ms a 2 S100 T0\r\nxy\r\n", "xy", Storage::default()),
    ] {
        let held = one(input);
        assert_eq!((held.data.as_deref(), held.storage, held.fault), (Some(data), storage, None), "{input:?}");
    }
}

#[test]
fn nothing_is_read_from_a_line_that_is_too_short_or_tells_no_length() {
    for input in [
        "\r\n",
        "\n",
        " \n",
        "x\r\n",
        "mn\n",
        "set a 0 0\r\n",
        "set a 0 0 x\r\n",
        "set a 0 0 -1\r\n",
        "set a 0 0 +1\r\n",
        "set a 0 0 2147483646\r\n",
        "set a x 0 noreply\r\n",
        "cas a 0 0 x 1\r\n",
        "ms a\r\n",
        "ms a x\r\n",
        "ms a 1 !\r\n",
        "ms a 1 T0 :\r\n",
        "lease-set a 1 0 0\r\n",
    ] {
        let held = one(input);
        assert_eq!((held.data, held.fault), (None, Some(Fault::Unreadable)), "{input:?}");
    }
}

#[test]
fn the_block_of_a_line_that_is_wrong_is_passed_over() {
    let long = "k".repeat(251);
    for line in [
        "set a x 0 3",
        "set a -1 0 3",
        "set a 4294967296 0 3 noreply",
        "set a 0 1x 3",
        "cas a 0 0 3",
        "cas a 0 0 3 -1",
        "cas a 0 0 3 +1",
        "lease-set a x 0 0 3",
        &format!("set {long} 0 0 3"),
        &format!("ms {long} 3 T0"),
    ] {
        let input = format!("{line}\r\nabc\r\nversion\r\n");
        let (requests, end) = parse_all(input.as_bytes(), &[], &Limits::DEFAULT);
        assert_eq!((requests[0].fault, requests[0].data.as_ref()), (Some(Fault::LineFormat), None), "{line}");
        assert_eq!((requests.len(), &requests[1].words[..], end), (2, &["version".to_owned()][..], Ok(0)), "{line}");
    }
}

#[test]
fn a_key_may_be_too_long_and_no_other_word() {
    let long = "k".repeat(251);
    for (line, fault) in [
        (format!("get a {long}"), Some(Fault::LineFormat)),
        (format!("gat 0 a {long}"), Some(Fault::LineFormat)),
        (format!("gat {long} a"), None),
        (format!("lease-get a {long}"), Some(Fault::LineFormat)),
        (format!("mg {long}"), Some(Fault::LineFormat)),
        (format!("mg a O{long}"), None),
        (format!("incr {long} 1"), Some(Fault::LineFormat)),
        (format!("incr a {long}"), None),
        (format!("flush_all {long}"), None),
    ] {
        assert_eq!(one(&format!("{line}\r\n")).fault, fault, "{line}");
    }
}

#[test]
fn a_block_without_its_end_is_gone_and_the_rest_is_a_request() {
    let (requests, end) = parse_all(b"set a 0 0 5\r\nab\r\nversion\r\n", &[], &Limits::DEFAULT);
    assert_eq!((requests[0].fault, requests[0].data.as_ref()), (Some(Fault::DataChunk), None));
    assert_eq!((&requests[1].words[..], end), (&["sion".to_owned()][..], Ok(0)));
}

#[test]
fn a_block_that_is_too_large_is_passed_over_without_being_held() {
    let mut parser = Parser::new();
    let limits = Limits::DEFAULT;
    let line = b"set a 0 0 2000000\r\n";
    assert_eq!(parser.parse(line, &limits), Ok(Parsed::Complete { consumed: line.len() }));
    assert_eq!(parser.request(line).fault(), Some(Fault::TooLarge));
    assert!(parser.is_inside_request());
    let mut rest = parser.take_rest();
    assert!(!parser.is_inside_request());
    assert_eq!(parser.request(line).word(1), Some(&b"a"[..]), "the request is still there");
    let piece = [b'\n'; 1000];
    for _ in 0..2000 {
        assert_eq!(rest.parse(&piece, &limits), Ok(Parsed::Complete { consumed: 1000 }));
        assert_eq!(rest.request(&piece).fault(), Some(Fault::Skipped));
    }
    assert_eq!(rest.parse(b"\r\nversion\r\n", &limits), Ok(Parsed::Complete { consumed: 2 }));
    assert!(!rest.is_inside_request());
}

#[test]
fn only_lines_of_many_keys_may_be_long() {
    let line = |verb: &str, bytes: usize| format!("{verb} {}", "k ".repeat(bytes))[..bytes].to_owned();
    for verb in ["get", "gets", "gat", "gats"] {
        assert_eq!(parse_all(line(verb, 100).as_bytes(), &[], &SMALL).1, Ok(100));
        assert_eq!(parse_all(line(verb, 257).as_bytes(), &[], &SMALL).1, Err(ProtocolError::LineTooLong));
        assert_eq!(
            parse_all(line(verb, 150).as_bytes(), &[], &SMALL).1,
            Err(ProtocolError::LineTooLong),
            "too many words"
        );
    }
    assert_eq!(parse_all(line("set", 64).as_bytes(), &[], &SMALL).1, Ok(64));
    assert_eq!(parse_all(line("set", 65).as_bytes(), &[], &SMALL).1, Err(ProtocolError::LineTooLong));
    assert_eq!(parse_all(&[b'x'; 65], &[], &SMALL).1, Err(ProtocolError::LineTooLong));
}

#[test]
fn a_request_that_is_not_whole_waits_for_the_rest() {
    for input in ["", "g", "get a", "set a 0 0 3\r\n", "set a 0 0 3\r\nab", "set a 0 0 3\r\nabc\r"] {
        let (requests, end) = parse_all(input.as_bytes(), &[], &Limits::DEFAULT);
        assert_eq!((requests.len(), end), (0, Ok(input.len())), "{input:?}");
    }
}

#[test]
fn the_first_key_is_easily_seen() {
    for (input, key) in
        [("get abc\r\n", Some("abc")), ("set k 0 0 1\r\nx\r\n", Some("k")), ("get a", None), ("quit\r\n", None)]
    {
        assert_eq!(first_key(input.as_bytes()).map(text), key.map(str::to_owned), "{input:?}");
    }
}

fn piece() -> impl Strategy<Value = String> {
    prop_oneof![
        Just("get a bb ccc\r\n".to_owned()),
        Just("gets   a  \n".to_owned()),
        Just("set a 1 2 3\r\nabc\r\n".to_owned()),
        Just("set a 1 2 3 noreply\r\nabcd\r\n".to_owned()),
        Just("cas a 1 2 3 4\r\na\nb\r\n".to_owned()),
        Just("ms key 2 T0\r\n\r\n\r\n".to_owned()),
        Just("lease-set k 1 2 3 4\r\nabcd\r\n".to_owned()),
        Just("set a 0 0 99\r\n".to_owned()),
        Just("set kkkkkkkkkkkkkkkkkkkkk 0 0 1\r\n".to_owned()),
        Just("set a x 0 9\r\n".to_owned()),
        Just(" ms a 1 !\r\n".to_owned()),
        "[ a-c0-9\r\n]{0,12}",
        "[ g\n]{0,80}",
    ]
}

proptest! {
    #[test]
    fn where_the_input_is_cut_changes_nothing(
        pieces in prop::collection::vec(piece(), 1..12),
        cuts in prop::collection::vec(0..600usize, 0..8),
    ) {
        let input = pieces.concat().into_bytes();
        let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(input.len())).collect();
        cuts.sort_unstable();
        let whole = parse_all(&input, &[], &SMALL);
        prop_assert_eq!(&parse_all(&input, &cuts, &SMALL), &whole);
        let bytes: Vec<usize> = (0..input.len()).collect();
        prop_assert_eq!(&parse_all(&input, &bytes, &SMALL), &whole);
    }
}
