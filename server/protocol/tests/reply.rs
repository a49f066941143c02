//! The reply writer: each type in both versions, and that `redis-protocol` reads back what was written.

#![allow(missing_docs, clippy::unwrap_used)]

use leasehold_protocol::{Reply, RespVersion};
use proptest::prelude::*;
use redis_protocol::resp3::decode::complete::decode;
use redis_protocol::resp3::types::OwnedFrame;

fn both(write: impl Fn(&mut Reply)) -> (String, String) {
    let written = |version| {
        let mut reply = Reply::new(version);
        write(&mut reply);
        String::from_utf8(reply.as_bytes().to_vec()).unwrap()
    };
    (written(RespVersion::V2), written(RespVersion::V3))
}

fn same(text: &str) -> (String, String) {
    (text.to_owned(), text.to_owned())
}

fn differing(v2: &str, v3: &str) -> (String, String) {
    (v2.to_owned(), v3.to_owned())
}

#[test]
fn each_type_looks_as_its_version_has_it() {
    assert_eq!(both(Reply::ok), same("+OK\r\n"));
    assert_eq!(both(|reply| reply.simple("PONG")), same("+PONG\r\n"));
    assert_eq!(both(|reply| reply.error(&"ERR two\r\nlines")), same("-ERR two  lines\r\n"));
    assert_eq!(both(|reply| reply.integer(-7)), same(":-7\r\n"));
    assert_eq!(both(|reply| reply.bulk(b"abc")), same("$3\r\nabc\r\n"));
    assert_eq!(both(|reply| reply.bulk(b"")), same("$0\r\n\r\n"));
    assert_eq!(both(|reply| reply.bulk_integer(42)), same("$2\r\n42\r\n"));
    assert_eq!(both(Reply::null), differing("$-1\r\n", "_\r\n"));
    assert_eq!(both(Reply::null_array), differing("*-1\r\n", "_\r\n"));
    assert_eq!(both(|reply| reply.array(3)), same("*3\r\n"));
    assert_eq!(both(|reply| reply.map(2)), differing("*4\r\n", "%2\r\n"));
    assert_eq!(both(|reply| reply.set(2)), differing("*2\r\n", "~2\r\n"));
    assert_eq!(both(|reply| reply.boolean(true)), differing(":1\r\n", "#t\r\n"));
    assert_eq!(both(|reply| reply.boolean(false)), differing(":0\r\n", "#f\r\n"));
    assert_eq!(both(|reply| reply.double(0.5)), differing("$3\r\n0.5\r\n", ",0.5\r\n"));
    assert_eq!(both(|reply| reply.double(f64::NEG_INFINITY)), differing("$4\r\n-inf\r\n", ",-inf\r\n"));
    assert_eq!(both(|reply| reply.verbatim(b"txt", b"hi")), differing("$2\r\nhi\r\n", "=6\r\ntxt:hi\r\n"));
}

#[test]
fn a_reply_can_be_taken_back() {
    let mut reply = Reply::new(RespVersion::V2);
    reply.ok();
    let kept = reply.len();
    reply.integer(5);
    reply.truncate(kept);
    assert_eq!(reply.as_bytes(), b"+OK\r\n");
}

proptest! {
    /// Integers of every size, those on which redis-protocol's own encoder stumbles (10^15 and up) among them.
    #[test]
    fn integers_are_read_back(value in any::<i64>()) {
        let mut reply = Reply::new(RespVersion::V3);
        reply.integer(value);
        let (frame, used) = decode(reply.as_bytes()).unwrap().unwrap();
        prop_assert_eq!(used, reply.len());
        let is_equal = matches!(frame, OwnedFrame::Number { data, .. } if data == value);
        prop_assert!(is_equal);
    }

    #[test]
    fn any_bytes_are_read_back(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let mut reply = Reply::new(RespVersion::V3);
        reply.bulk(&bytes);
        let (frame, used) = decode(reply.as_bytes()).unwrap().unwrap();
        prop_assert_eq!(used, reply.len());
        let is_equal = matches!(frame, OwnedFrame::BlobString { data, .. } if data == bytes);
        prop_assert!(is_equal);
    }
}
