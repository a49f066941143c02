//! Fuzz target: any bytes, cut anywhere, through the parser of memcached's requests.
//!
//! The first two bytes say where the input is cut. Held to: no panic, the cuts change nothing, words and data lie within the input and
//! within the limits, a block of data is as long as its line says, and what is passed over is never held.

#![no_main]

use leasehold_protocol::memcached::{Fault, Limits, Parser, Storage};
use leasehold_protocol::{Parsed, ProtocolError};
use libfuzzer_sys::fuzz_target;

/// Small bounds, so that a short input can reach them.
const LIMITS: Limits =
    Limits { line_bytes_max: 128, multiget_bytes_max: 512, words_max: 100, key_bytes_max: 40, entry_bytes_max: 256 };

#[derive(Debug, PartialEq, Eq)]
struct Held {
    words: Vec<Vec<u8>>,
    data: Option<Vec<u8>>,
    storage: Storage,
    fault: Option<Fault>,
}

fn parse(input: &[u8], cuts: [usize; 2]) -> (Vec<Held>, Result<usize, ProtocolError>) {
    let mut parser = Parser::new();
    let (mut requests, mut buffer) = (Vec::new(), Vec::new());
    for piece in [&input[..cuts[0]], &input[cuts[0]..cuts[1]], &input[cuts[1]..]] {
        buffer.extend_from_slice(piece);
        loop {
            match parser.parse(&buffer, &LIMITS) {
                Err(error) => return (requests, Err(error)),
                Ok(Parsed::Incomplete) => break,
                Ok(Parsed::Complete { consumed }) => {
                    assert!(0 < consumed && consumed <= buffer.len());
                    let request = parser.request(&buffer);
                    let held = Held {
                        words: request.words_from(0).map(<[u8]>::to_vec).collect(),
                        data: request.data().map(<[u8]>::to_vec),
                        storage: request.storage(),
                        fault: request.fault(),
                    };
                    check(&held);
                    // How a block is cut that is passed over depends on the cuts.
                    if held.fault != Some(Fault::Skipped) {
                        requests.push(held);
                    }
                    buffer.drain(..consumed);
                }
            }
        }
    }
    (requests, Ok(buffer.len()))
}

fn check(held: &Held) {
    let has_long_key = held.words.get(1).is_some_and(|key| key.len() > LIMITS.key_bytes_max);
    let reads_key = |name: &Vec<u8>| [&b"get"[..], b"set", b"incr", b"ms"].contains(&&name[..]);
    let is_sound = held.fault.is_none() && held.words.first().is_some_and(reads_key);
    assert!(!(has_long_key && is_sound));
    // A line that begins with a space has an empty first word.
    assert!(held.words.iter().skip(1).all(|word| !word.is_empty()));
    assert!(held.words.iter().all(|word| !word.contains(&b' ') && !word.contains(&b'\n')));
    let Some(data) = &held.data else { return };
    assert_eq!(held.fault, None);
    let place = match &held.words[0][..] {
        b"ms" => 2,
        b"lease-set" => 5,
        _ => 4,
    };
    let announced = std::str::from_utf8(&held.words[place]).ok().and_then(|digits| digits.parse::<usize>().ok());
    assert_eq!(announced, Some(data.len()));
    assert!(data.len() + held.words[1].len() < LIMITS.entry_bytes_max);
}

fuzz_target!(|data: &[u8]| {
    let [first, second, input @ ..] = data else { return };
    let mut cuts = [first, second].map(|cut| usize::from(*cut) % (input.len() + 1));
    cuts.sort_unstable();
    let whole = parse(input, [input.len(); 2]);
    assert_eq!(whole, parse(input, cuts));
});
