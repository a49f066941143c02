//! Refresh before expiry: a hit near the end of its value's life has the key loaded anew, and answers at once all the same.
//!
//! A hit costs one comparison with [`leasehold_keyspace::Turn::near_end_ms`]; what is here runs for those below it. A refresh goes
//! the way of a miss: a lease of the server, the loader's queue, a batch with whatever else is wanted.

use super::through::SERVER_LEASE_MS;
use crate::context::Context;
use crate::host::RefreshWhen;
use bytes::Bytes;
use leasehold_keyspace::{Load, LoadCause, Refresh};

/// What has read a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reader {
    /// GET, MGET: they load only where the loader says `mode = "transparent"`.
    Plain,
    /// LOADTHROUGH, MLOADTHROUGH.
    Through,
}

/// A value was read that is fresh until `expire_at_ms`, which is soon: starts the refresh of its key if that is due.
#[cold]
pub(crate) fn hit_near_end(context: &mut Context<'_>, key: &[u8], expire_at_ms: u64, reader: Reader) {
    let (db, left_ms) = (context.client.db, expire_at_ms.saturating_sub(context.turn.now_ms));
    let Some(rule) = context.host.refresh_rule(db, key, left_ms) else { return };
    if reader == Reader::Plain && !rule.transparent {
        return;
    }
    let (early_ms, early_loads) = match rule.when {
        RefreshWhen::Ahead { early_ms } => (early_ms, 0.0),
        RefreshWhen::XFetch { beta } => (0, beta * load_times(context.turn.random())),
    };
    let refresh = Refresh { loader: rule.loader, lease_ms: SERVER_LEASE_MS, early_ms, early_loads };
    if let Some(token) = context.keyspace.claim_refresh(context.turn, db, key, refresh) {
        let (key, loader) = (Bytes::copy_from_slice(key), rule.loader);
        context.turn.effects.loads.push(Load { db, key, token, loader, cause: LoadCause::Refresh });
    }
}

/// `−ln` of a random number above 0 and up to 1: how many load times before its end a value is due this time. On average one.
fn load_times(random: u64) -> f64 {
    // 53 bits are what a double holds exactly.
    let share = ((random >> 11) + 1) as f64 / (1u64 << 53) as f64;
    -share.ln()
}

#[cfg(test)]
mod tests {
    use super::load_times;
    use crate::host::{RefreshRule, RefreshWhen};
    use crate::testing::Node;
    use leasehold_keyspace::{LoadCause, Turn};

    const TTL_MS: u64 = 10_000;

    /// A node whose `load:1` was loaded in 100 ms, and is refreshed as said.
    fn loaded(when: RefreshWhen) -> Node {
        let mut node = Node::new();
        let reply = node.run("GETL load:1");
        let token = reply.split("\r\n").find(|word| word.len() > 15).expect("a token");
        node.advance_ms(100);
        assert_eq!(node.run(&format!("SETL load:1 {token} v PX {TTL_MS}")), "+STORED\r\n");
        node.host.refresh = Some(RefreshRule { loader: 3, transparent: true, when });
        node.turn.near_end_ms = u64::MAX;
        node
    }

    /// Keys that were to be refreshed since the last call.
    fn refreshed(node: &mut Node) -> Vec<String> {
        let loads = std::mem::take(&mut node.turn.effects.loads);
        assert!(loads.iter().all(|load| load.loader == 3 && load.cause == LoadCause::Refresh));
        loads.iter().map(|load| String::from_utf8_lossy(&load.key).into_owned()).collect()
    }

    #[test]
    fn each_way_of_reading_a_value_near_its_end_refreshes_it_once() {
        for (line, reply) in [
            ("GET load:1", "$1\r\nv\r\n"),
            ("MGET load:1 x load:1", "*3\r\n$1\r\nv\r\n$-1\r\n$1\r\nv\r\n"),
            ("LOADTHROUGH load:1", "$1\r\nv\r\n"),
            ("MLOADTHROUGH load:1 load:1", "*2\r\n$1\r\nv\r\n$1\r\nv\r\n"),
        ] {
            let mut node = loaded(RefreshWhen::Ahead { early_ms: 2_000 });
            node.advance_ms(7_999);
            assert_eq!(node.run(line), reply);
            assert!(refreshed(&mut node).is_empty(), "{line}: too early");
            node.advance_ms(1);
            node.turn.near_end_ms = node.turn.now_ms + 2_000;
            assert_eq!(node.run(line), reply);
            assert!(refreshed(&mut node).is_empty(), "{line}: the bound of the turn counts first");
            node.turn.near_end_ms += 1;
            assert_eq!(node.run(line), reply);
            assert_eq!(node.run(line), reply);
            assert_eq!(refreshed(&mut node), ["load:1"], "{line}");
        }
    }

    #[test]
    fn what_does_not_load_does_not_refresh() {
        let mut node = loaded(RefreshWhen::Ahead { early_ms: TTL_MS });
        for line in ["GETL load:1", "EXISTS load:1", "STRLEN load:1", "TTL load:1", "GETRANGE load:1 0 -1"] {
            node.run(line);
            assert!(refreshed(&mut node).is_empty(), "{line}");
        }
        node.host.refresh.as_mut().expect("set above").transparent = false;
        node.run("GET load:1");
        node.run("MGET load:1");
        assert!(refreshed(&mut node).is_empty(), "mode = explicit");
        node.run("LOADTHROUGH load:1");
        assert_eq!(refreshed(&mut node), ["load:1"]);
    }

    #[test]
    fn xfetch_is_the_likelier_the_nearer_the_end() {
        let share = |left_ms: u64, beta: f64| {
            let mut node = loaded(RefreshWhen::XFetch { beta });
            node.advance_ms(TTL_MS - left_ms);
            let count = (0..2_000)
                .filter(|_| {
                    node.run("GET load:1");
                    let due = refreshed(&mut node);
                    // As if it had never begun.
                    node.run("LEASE KILL load:1");
                    !due.is_empty()
                })
                .count();
            count as f64 / 2_000.0
        };
        // e^(−left ÷ βΔ), with Δ = 96: a load's time is kept in six bits.
        for (left_ms, beta, wanted) in
            [(96, 1.0, 0.368), (192, 1.0, 0.135), (192, 2.0, 0.368), (10, 1.0, 0.901), (2_000, 1.0, 0.0)]
        {
            let seen = share(left_ms, beta);
            assert!((seen - wanted).abs() < 0.04, "{left_ms} ms before the end, beta {beta}: {seen}, not {wanted}");
        }
    }

    #[test]
    fn load_times_are_exponential() {
        assert_eq!(load_times(u64::MAX), 0.0);
        assert!((36.0..38.0).contains(&load_times(0)));
        let mut turn = Turn::new(0, 7);
        let mean = (0..100_000).map(|_| load_times(turn.random())).sum::<f64>() / 100_000.0;
        assert!((mean - 1.0).abs() < 0.02, "{mean}");
    }
}
