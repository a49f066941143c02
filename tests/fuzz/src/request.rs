//! Fuzz target: any bytes, cut anywhere, through the request parser; `redis-protocol` is the oracle where both mean to agree.
//!
//! The first byte says where the input is cut. Held to: no panic, the cut changes nothing, an argument lies within the input,
//! limits hold, and an array of bulk strings is the same request to both parsers. By design they differ on inline lines, other RESP
//! types, empty and nil arrays, nil bulk strings, trailers that are not CR LF, and lengths with a sign.

#![no_main]

use leasehold_protocol::{Limits, Parsed, Parser, ProtocolError};
use libfuzzer_sys::fuzz_target;
use redis_protocol::resp2::decode::decode;
use redis_protocol::resp2::types::OwnedFrame;

/// Small bounds, so that a short input can reach them.
const LIMITS: Limits =
    Limits { inline_bytes_max: 256, args_max: 64, bulk_bytes_max: 1024, request_bytes_max: 4096, stranger: false };

type Requests = Vec<Vec<Vec<u8>>>;

fn parse(input: &[u8], cut: usize) -> (Requests, Result<usize, ProtocolError>) {
    let mut parser = Parser::new();
    let mut requests = Vec::new();
    let mut buffer = Vec::new();
    for piece in [&input[..cut], &input[cut..]] {
        buffer.extend_from_slice(piece);
        loop {
            match parser.parse(&buffer, &LIMITS) {
                Err(error) => return (requests, Err(error)),
                Ok(Parsed::Incomplete) => break,
                Ok(Parsed::Complete { consumed }) => {
                    assert!(0 < consumed && consumed <= buffer.len());
                    let request = parser.request(&buffer);
                    assert!(request.bytes_total() <= LIMITS.request_bytes_max);
                    requests.push(request.args_from(0).map(<[u8]>::to_vec).collect());
                    buffer.drain(..consumed);
                }
            }
        }
    }
    (requests, Ok(buffer.len()))
}

fuzz_target!(|data: &[u8]| {
    let Some((&cut, input)) = data.split_first() else { return };
    let whole = parse(input, 0);
    assert_eq!(whole, parse(input, usize::from(cut) % (input.len() + 1)));

    let first = whole.0.first().filter(|request| !request.is_empty());
    // The oracle recurses without a bound; a request has no arrays in it, so its answer to those is of no interest.
    if input.first() != Some(&b'*') || input.windows(3).any(|window| window == b"\n*1" || window == b"\n*2") {
        return;
    }
    if let Ok(Some((OwnedFrame::Array(frames), _))) = decode(input)
        && !frames.is_empty()
    {
        let theirs: Option<Vec<Vec<u8>>> = frames
            .into_iter()
            .map(|frame| if let OwnedFrame::BulkString(bytes) = frame { Some(bytes) } else { None })
            .collect();
        match (theirs, first) {
            (Some(theirs), Some(first)) => assert_eq!(&theirs, first),
            (None, first) => assert!(first.is_none()),
            (Some(_), None) => {}
        }
    }
});
