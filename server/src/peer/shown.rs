//! What operators are shown of other nodes: `INFO cluster`.

use super::watch::{Story, name_of};
use crate::node::Node;
use crate::stats::{Counter, PeerCounters, PeerTotals};
use leasehold_cluster::PeerView;
use std::fmt::Write as _;

/// The lines of the section.
pub(crate) fn cluster(text: &mut String, node: &Node) {
    let mut line = |content: std::fmt::Arguments<'_>| {
        text.write_fmt(content).expect("a String takes every write");
        text.push_str("\r\n");
    };
    line(format_args!("cluster_enabled:{}", u8::from(node.member.is_some())));
    let Some(member) = &node.member else { return };
    let totals = node.totals();
    line(format_args!("x_forwarded:{}", totals.forwarded));
    line(format_args!("x_forwarded_refused:{}", totals.forwarded_refused));
    line(format_args!("x_forwarded_here:{}", totals.forwarded_here));
    line(format_args!("x_forwarded_here_refused:{}", totals.forwarded_here_refused));
    line(format_args!("x_stood_in:{}", totals.stood_in));
    if let Some(hot) = &node.hot {
        let (copies, bytes) = hot.copies.count(node.clock.now_ms());
        line(format_args!("x_hot_told:{}", totals.hot_told));
        line(format_args!("x_copies_lent:{}", totals.copies_lent));
        line(format_args!("x_copies:{copies}"));
        line(format_args!("x_copies_bytes:{bytes}"));
        line(format_args!("x_copy_hits:{}", totals.copy_hits));
        line(format_args!("x_copy_drops:{}", totals.copy_drops));
    }
    for place in member.topology().places().filter(|place| *place != member.place()) {
        let sum = |of: fn(&PeerCounters) -> &Counter| -> u64 {
            node.threads.iter().map(|desk| of(&desk.peers[place.index()]).value()).sum()
        };
        let name = member.topology().all()[place.index()].name();
        // Closed first: a link that ends meanwhile must not be counted as one less than none.
        let closed = sum(|peer| &peer.closed);
        let links = sum(|peer| &peer.opened) - closed;
        let PeerTotals { forwarded, refused } = totals.peers.get(place.index()).copied().unwrap_or_default();
        line(format_args!("x_node_{name}:links={links},forwarded={forwarded},refused={refused}"));
        let Some(watch) = &node.watch else { continue };
        let (PeerView { condition, failures, .. }, Story { since_ms, reason }) = watch.view(place);
        let since = (since_ms as i64 + node.clock.wall_offset_ms()) / 1_000;
        let (state, failovers) = (name_of(condition), sum(|peer| &peer.failovers));
        line(format_args!(
            "x_peer_{name}:state={state},since={since},failures={failures},failovers={failovers},reason={reason}"
        ));
    }
}
