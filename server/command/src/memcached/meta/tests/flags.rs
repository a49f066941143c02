//! Each flag of each command, with the replies of 1.6.45.

use super::{Player, memcached};
use crate::testing::Node;
use leasehold_keyspace::EvictionPolicy;

fn play(transcript: &str) -> Node {
    let mut node = Node::new();
    Player::default().play(&mut node, transcript);
    node
}

// protocol.txt, "Meta Get".
#[test]
fn mg_answers_in_the_order_asked() {
    play(
        "
        m> mg a
        m< EN|
        m> mg a v k O1 t s
        m< EN ka O1|
        m> mg a q v k|mn
        m< MN|
        m> ms a 2 T0 F5|hi
        m< HD|
        m> mg a
        m< HD|
        m> mg a v
        m< VA 2|hi|
        m> mg a q
        m< HD|
        m> mg a s v t f c k O99
        m< VA 2 s2 t-1 f5 c{v} ka O99|hi|
        m> mg a O99 k c f t s
        m< HD O99 ka c{v} f5 t-1 s2|
        m> mg  a  v   k
        m< VA 2 ka|hi|
        m> mg a P1 L2 I x J5 D5 MI C1 F1 E1
        m< HD|
        m> mg
        m< CLIENT_ERROR bad command line format|
        m>  mg a
        m< ERROR|
        m> MG a
        m< ERROR|
        m> mg a v v
        m< CLIENT_ERROR duplicate flag|
        m> mg a q z
        m< CLIENT_ERROR invalid flag|
        ",
    );
}

#[test]
fn mg_t_sets_the_ttl_and_tells_it_by_its_place() {
    play(
        "
        m> ms a 2 T20|hi
        m< HD|
        m> mg a t T60
        m< HD t20|
        m> mg a T50 t
        m< HD t50|
        +500ms
        m> mg a t
        m< HD t50|
        +600ms
        m> mg a t
        m< HD t49|
        m> mg a T0 t
        m< HD t-1|
        # protocol.txt, Expiration times: a negative one is over at once.
        m> mg a v T-1
        m< VA 2|hi|
        m> mg a v
        m< EN|
        ",
    );
}

// protocol.txt, "Meta Get": h, l, u.
#[test]
fn mg_tells_of_use_what_the_policy_of_eviction_notes() {
    let mut node = Node::new();
    node.keyspace.set_policy(EvictionPolicy::AllKeysLfu);
    Player::default().play(
        &mut node,
        "
        m> ms a 1|x
        m< HD|
        m> mg a h u
        m< HD h0|
        m> mg a h u
        m< HD h0|
        m> mg a h
        m< HD h0|
        m> mg a h
        m< HD h1|
        ",
    );
    let mut node = Node::new();
    memcached(&mut node, "ms a 1|x");
    node.advance_ms(60_000);
    // Times of use are kept in steps of four seconds.
    let idle = memcached(&mut node, "mg a l u");
    assert!(["HD l59|", "HD l60|"].contains(&&*idle), "{idle}");
    assert_eq!(memcached(&mut node, "mg a l"), idle);
    assert_eq!(memcached(&mut node, "mg a l"), "HD l0|");
    // noeviction counts no use.
    assert_eq!(memcached(&mut node, "mg a h"), "HD h0|");
}

// protocol.txt, "Meta Set".
#[test]
fn ms_stores_in_each_mode() {
    play(
        "
        m> ms a 2 MR k|xx
        m< NS ka|
        m> ms a 2 MA|xx
        m< NS|
        m> ms a 2 MP q|xx
        m< NS|
        m> ms a 2 ME q F3 T9|xx
        m<
        m> ms a 2 ME k O7|yy
        m< NS ka O7|
        m> ms a 2 MA s F8 T99|++
        m< HD s4|
        m> ms a 3 MP s|---
        m< HD s7|
        m> mg a v f t
        m< VA 7 f3 t9|---xx++|
        m> ms a 1 MR|z
        m< HD|
        m> mg a v f t
        m< VA 1 f0 t-1|z|
        m> ms a 1 MS|y
        m< HD|
        m> ms b 2 MA N60 F4|ho
        m< HD|
        m> ms b 2 MP N90|hi
        m< HD|
        m> mg b v t f
        m< VA 4 t60 f4|hiho|
        m> ms a 1 q|x|mn
        m< MN|
        m> ms a 1 T-1|x
        m< HD|
        m> mg a
        m< EN|
        m> ms a 2 h v t|hi
        m< HD|
        ",
    );
}

#[test]
fn ms_compares_versions() {
    play(
        "
        m> ms a 1 C1|x
        m< NF|
        m> ms a 1 C1 q k O3|x
        m< NF ka O3|
        m> ms a 1 C1 MA|x
        m< NS|
        m> ms a 1 c|1
        m< HD c{one}|
        m> mg a c
        m< HD c{one}|
        m> ms a 1 C{one} c k|2
        m< HD c{two} ka|
        m> ms a 1 C{one}|3
        m< EX|
        m> ms a 1 C{one} MR|3
        m< EX|
        m> ms a 1 C{one} MA|3
        m< EX|
        m> ms a 1 C0|3
        m< EX|
        m> ms a 1 C{one} I c|3
        m< EX c0|
        m> ms a 1 C{two} MA c|3
        m< HD c{three}|
        m> ms a 1 C{three} MR|4
        m< HD|
        # A number is a version or a token, and an add looks at neither.
        m> ms b 1 C{one} ME|5
        m< HD|
        m> gets a
        m< VALUE a 0 1 {four}|4|END|
        m> ms a 1 C{four}|6
        m< HD|
        r> GET a
        r< $1|6|
        ",
    );
}

// protocol.txt, "Meta Set", flag I; "Meta Delete", flags I and T.
#[test]
fn a_value_made_from_one_that_was_invalidated_is_stored_as_stale_on_request() {
    play(
        "
        m> ms a 3 T100 F5|old
        m< HD|
        m> mg a c
        m< HD c{v}|
        m> md a I T30
        m< HD|
        m> get a
        m< END|
        m> ms a 3 C{v}|new
        m< EX|
        m> ms a 3 C{v} I F6 T500|new
        m< HD|
        m> mg a v f t
        m< VA 3 f6 t30 X W|new|
        m> mg a v t
        m< VA 3 t30 Z X|new|
        m> mg a T60 t
        m< HD t60 Z X|
        +59999ms
        m> mg a t u
        m< HD t1 X W|
        +1ms
        m> mg a
        m< EN|
        # The time that is left to an entry stays if no other is given.
        m> ms b 1 T100|x
        m< HD|
        m> md b I
        m< HD|
        m> mg b t
        m< HD t100 X W|
        m> ms c 1|x
        m< HD|
        m> md c I
        m< HD|
        m> mg c t
        m< HD t-1 X W|
        m> md c I T-1
        m< HD|
        m> mg c
        m< EN|
        ",
    );
}

// protocol.txt, "Meta Delete".
#[test]
fn md_deletes_compares_and_empties() {
    play(
        "
        m> md a
        m< NF|
        m> md a q k O2
        m< NF ka O2|
        m> md a C5
        m< NF|
        m> md a I
        m< NF|
        m> md a x
        m< NF|
        m> ms a 2 F5 T50 c|hi
        m< HD c{v}|
        m> md a C5 q
        m< EX|
        m> md a C{v} k O1
        m< HD ka O1|
        m> ms a 2|hi
        m< HD|
        m> md a q|mn
        m< MN|
        m> ms a 2 F5 T50|hi
        m< HD|
        m> md a x F6
        m< HD|
        m> mg a v f t
        m< VA 0 f6 t-1||
        m> md a x T20 I
        m< HD|
        m> mg a v f t
        m< VA 0 f0 t20 X W||
        m> md a x x
        m< CLIENT_ERROR duplicate flag|
        # What a lease is for memcached, an empty item, is gone by it.
        m> mg b N30
        m< HD W|
        m> md b
        m< HD|
        m> md b
        m< NF|
        ",
    );
}

// protocol.txt, "Meta Arithmetic".
#[test]
fn ma_counts() {
    play(
        "
        m> ma n
        m< NF|
        m> ma n q k O1
        m< NF kn O1|
        m> ma n J5 v
        m< NF|
        m> ma n N0 v
        m< VA 1|0|
        m> ma n v
        m< VA 1|1|
        m> ma n D5 v t c k O1
        m< VA 1 t-1 c{v} kn O1|6|
        m> ma n MD v
        m< VA 1|5|
        m> ma n MI D2 v
        m< VA 1|7|
        m> ma n M+ v
        m< VA 1|8|
        m> ma n D12 v
        m< VA 2|20|
        m> ma n M- D11 v
        m< VA 1|9|
        # memcached keeps the length: protocol.txt, Increment/Decrement.
        m> mg n v
        m< VA 2|9 |
        m> ma n M- D100 v
        m< VA 1|0|
        m> ma n D18446744073709551615 v
        m< VA 20|18446744073709551615|
        m> ma n v
        m< VA 1|0|
        m> ma n q v|mn
        m< MN|
        m> ma m J5 N100 D9 v t
        m< VA 1 t100|5|
        m> ma m t T50
        m< HD t100|
        m> ma m T9 t
        m< HD t9|
        m> ma m C1 q
        m< EX|
        m> mg m c
        m< HD c{m}|
        m> ma m C{m} v
        m< VA 1|8|
        m> ma m Mx
        m< CLIENT_ERROR invalid mode for ma M token|
        m> ma m MXDECR
        m< CLIENT_ERROR invalid mode for ma M token|
        m> ma m D-1
        m< CLIENT_ERROR invalid or duplicate flag|
        m> ma m s f h
        m< HD|
        m> ms t 2|xx
        m< HD|
        m> ma t q
        m< CLIENT_ERROR cannot increment or decrement non-numeric value|
        ",
    );
}

// protocol.txt, "Meta Get", "Meta Set", "Meta Delete", "Meta Arithmetic": E. SPEC §5: such a version must grow.
#[test]
fn e_gives_a_version_that_only_grows() {
    play(
        "
        m> ms a 1 E7 c|x
        m< HD c7|
        m> mg a c
        m< HD c7|
        m> ms a 1 E6|y
        m< EX|
        # The same write again, by who did not see the answer.
        m> ms a 1 E7|x
        m< HD|
        m> ms a 1 E7|y
        m< EX|
        m> ms a 1 C7 E8 c|y
        m< HD c8|
        m> ms a 1 MA E9 c|z
        m< HD c9|
        m> ma b N0 E5 J1 c
        m< HD c5|
        m> ma b E6 c v
        m< VA 1 c6|2|
        m> ma b E6
        m< EX|
        m> md a E9
        m< EX|
        m> md a E10
        m< HD|
        # A deletion at a version is remembered, whoever would make the key anew.
        m> ms a 1 E10|x
        m< EX|
        m> ms a 1 MA N0 E10|x
        m< EX|
        m> ma a N0 E10
        m< EX|
        # So is a value that is over at once.
        m> ms over 1 E5 T-1|x
        m< HD|
        m> ms over 1 E5|x
        m< EX|
        r> SET a x VER 10
        r< $-1|
        m> ms a 1 E11|x
        m< HD|
        m> md a I E12
        m< HD|
        m> mg a c
        m< HD c{t} X W|
        m> ms a 1 C{t} E11|y
        m< EX|
        # The source that brought an old version has a moment to catch up.
        m> mg a c
        m< HD c1 Z X|
        +50ms
        m> mg a c
        m< HD c{u} X W|
        m> ms a 1 C{u} E12 c|y
        m< HD c12|
        # A write without a version always wins.
        m> ms a 1|z
        m< HD|
        m> md a x E13
        m< HD|
        m> mg a c v
        m< VA 0 c13||
        ",
    );
}

// protocol.txt, "Meta Commands": b.
#[test]
fn b_stores_keys_of_any_bytes_and_tells_them_in_base64() {
    let mut node = play(
        "
        m> ms aGVsbG8gd29ybGQ= 2 b k|hi
        m< HD kaGVsbG8gd29ybGQ= b|
        m> mg aGVsbG8gd29ybGQ= v k b
        m< VA 2 kaGVsbG8gd29ybGQ= b|hi|
        m> md aGVsbG8gd29ybGQ= k b q O4|md aGVsbG8gd29ybGQ= k b q O4
        m< NF kaGVsbG8gd29ybGQ= b O4|
        m> mg YQ= b
        m< CLIENT_ERROR error decoding key|
        m> ms YWE= 1 b|x
        m< HD|
        m> mg aa v k
        m< VA 1 kaa|x|
        m> ma bg== b N0 k
        m< HD kbg== b|
        m> get n
        m< VALUE n 0 1|0|END|
        m> mg bmV3 b N9 k
        m< HD kbmV3 b W|
        ",
    );
    memcached(&mut node, "ms aGVsbG8gd29ybGQ= 2 b|hi");
    assert_eq!(node.run_args(&[b"GET", b"hello world"]), b"$2\r\nhi\r\n");
    // Base64 of 250 bytes is the longest word that is a key.
    let long = "k".repeat(251);
    assert_eq!(memcached(&mut node, &format!("mg {long} b")), "CLIENT_ERROR bad command line format|");
}

// protocol.txt, "Meta No-Op", "Meta Debug".
#[test]
fn mn_is_a_barrier_and_me_is_for_humans() {
    play(
        "
        m> mn
        m< MN|
        m> mn foo
        m< MN|
        m> mg a q|md a q|ms a 1 q|x|ms a 1 q|x|mn
        m< NF|MN|
        m> me
        m< CLIENT_ERROR bad command line format|
        m> me b
        m< EN|
        m> me a
        m< ME a exp=-1 la=0 cas={v} fetch=no cls=1 size={bytes}|
        m> mg a c
        m< HD c{v}|
        m> ms a 1 T50|x
        m< HD|
        m> me YQ== b
        m< ME YQ== exp=50 la=0 cas={w} fetch=no cls=1 size={more}|
        ",
    );
}

#[test]
fn mistakes_of_the_line_are_answered_even_if_quiet() {
    play(
        "
        m> ms
        m< CLIENT_ERROR bad command line format|
        m> ms a
        m< CLIENT_ERROR bad command line format|
        m> ms a x
        m< CLIENT_ERROR bad command line format|
        m> ms a -1
        m< CLIENT_ERROR bad command line format|
        m> ms a 2 T q|hi|mn
        m< CLIENT_ERROR bad token in command line format|MN|
        m> ms a 2 MZZ q|hi
        m< CLIENT_ERROR invalid mode for ms M token|
        m> ms a 2 S2|hi|mn
        m< CLIENT_ERROR invalid flag|MN|
        m> ms a 2 O123456789012345678901234567890123|hi
        m< CLIENT_ERROR opaque token too long|
        m> ms a 2 q|hix
        m< CLIENT_ERROR bad data chunk|CLIENT_ERROR bad command line format|
        # The block of a line that is wrong is no command, unless the line is none itself.
        m> ms a 2 M q|hi|mn
        m< CLIENT_ERROR invalid mode for ms M token|MN|
        m> ms a 2 !|mn
        m< CLIENT_ERROR bad command line format|MN|
        m> mg a v v !
        m< CLIENT_ERROR bad command line format|
        m> md a Tx
        m< CLIENT_ERROR bad token in command line format|
        m> md a MZZ
        m< NF|
        m> ma a !
        m< CLIENT_ERROR bad command line format|
        m> ma a M
        m< CLIENT_ERROR invalid mode for ma M token|
        m> mg a
        m< EN|
        m> lease-get
        m< CLIENT_ERROR bad command line format|
        m> lease-set k 5 0 0
        m< CLIENT_ERROR bad command line format|
        m> lease-set k x 0 0 1|y
        m< CLIENT_ERROR bad command line format|
        m> lease-set k 5 0 0 1|y
        m< NOT_STORED|
        m> lease-set k 5 0 0 1 noreply|y|mn
        m< MN|
        ",
    );
}

#[test]
fn what_is_made_of_a_tagged_value_has_its_tags_with_a_version_of_its_own_too() {
    for write in ["ma a E5\r\n", "ms a 1 MA E5\r\n1\r\n"] {
        let mut node = Node::new();
        let reply = node.run("GETL a WAIT 0");
        let token = reply.split("\r\n").find(|word| word.len() > 15).expect("a token").to_owned();
        assert_eq!(node.run(&format!("SETL a {token} 1 TAGS 1 t")), "+STORED\r\n");
        assert_eq!(node.talk(write), "HD\r\n");
        node.run("INVALTAG t");
        assert_eq!(node.talk("get a\r\n"), "END\r\n", "{write:?}");
    }
}

#[test]
fn a_value_that_is_too_large_takes_away_the_one_before() {
    let mut node = Node::new();
    memcached(&mut node, "ms YQ== 1 b|x");
    let mut input = b"ms YQ== 2000000 b q\r\n".to_vec();
    input.resize(input.len() + 2_000_000, b'x');
    input.extend_from_slice(b"\r\nmg a\r\n");
    assert_eq!(node.talk(&input), "SERVER_ERROR object too large for cache\r\nEN\r\n");
}
