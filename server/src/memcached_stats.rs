//! memcached's `stats`, by the names that its tools look for. What has no meaning here (slab classes, its three queues) is left out, or
//! shown as one class where a tool would find nothing else.

use crate::config::{Config, machine};
use crate::info;
use crate::node::Node;
use leasehold_command::{Count, StatsOf, memcached};
use std::fmt::Display;

type Pairs = Vec<(String, String)>;

/// Names and values of one of the `stats`.
pub(crate) fn pairs(node: &Node, of: StatsOf) -> Pairs {
    match of {
        StatsOf::General => general(node),
        StatsOf::Settings => settings(node),
        StatsOf::Items => items(node),
        StatsOf::Slabs => slabs(node),
        StatsOf::Sizes => sizes(node),
        StatsOf::Connections => connections(node),
    }
}

fn list(pairs: &[(&str, &dyn Display)]) -> Pairs {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), value.to_string())).collect()
}

/// What is counted of memcached's commands alone, under the names that it has them by: sums of these.
const COUNTS: &[(&str, &[Count])] = &[
    ("cmd_get", &[Count::GetHits, Count::GetMisses]),
    ("cmd_set", &[Count::CmdSet]),
    ("cmd_flush", &[Count::CmdFlush]),
    ("cmd_touch", &[Count::TouchHits, Count::TouchMisses]),
    ("cmd_meta", &[Count::CmdMeta]),
    ("get_hits", &[Count::GetHits]),
    ("get_misses", &[Count::GetMisses]),
    ("delete_misses", &[Count::DeleteMisses]),
    ("delete_hits", &[Count::DeleteHits]),
    ("incr_misses", &[Count::IncrMisses]),
    ("incr_hits", &[Count::IncrHits]),
    ("decr_misses", &[Count::DecrMisses]),
    ("decr_hits", &[Count::DecrHits]),
    ("cas_misses", &[Count::CasMisses]),
    ("cas_hits", &[Count::CasHits]),
    ("cas_badval", &[Count::CasBadval]),
    ("touch_hits", &[Count::TouchHits]),
    ("touch_misses", &[Count::TouchMisses]),
    ("store_too_large", &[Count::StoreTooLarge]),
    ("store_no_memory", &[Count::StoreNoMemory]),
    ("auth_cmds", &[Count::AuthCmds]),
    ("auth_errors", &[Count::AuthErrors]),
];

/// The counts of memcached's commands since the last reset, for `stats` and INFO.
pub(crate) fn counts(node: &Node) -> Vec<(&'static str, u64)> {
    let counts = node.totals().memcached;
    COUNTS.iter().map(|&(name, parts)| (name, parts.iter().map(|&part| counts[part as usize]).sum())).collect()
}

/// Bytes that may be used: those of the machine or of the cgroup without a limit, as memcached has no such thing as none, and tools
/// divide by it.
fn memory_bytes_max(node: &Node) -> u64 {
    let limit = Some(node.live.live().memory_bytes_max).filter(|&limit| limit > 0);
    limit.or_else(machine::memory_bytes).unwrap_or(i64::MAX as u64)
}

fn general(node: &Node) -> Pairs {
    let (totals, stats, live) = (node.totals(), node.keyspace.stats(), node.live.live());
    let (user, system) = info::cpu_seconds();
    let mut pairs = list(&[
        ("pid", &std::process::id()),
        ("uptime", &node.clock.uptime().as_secs()),
        ("time", &(node.clock.wall_us() / 1_000_000)),
        ("version", &memcached::VERSION),
        ("x_version", &env!("CARGO_PKG_VERSION")),
        ("pointer_size", &usize::BITS),
        ("rusage_user", &format_args!("{user:.6}")),
        ("rusage_system", &format_args!("{system:.6}")),
        ("max_connections", &live.clients_max),
        ("curr_connections", &node.connections()),
        ("total_connections", &totals.connections_received),
        ("rejected_connections", &totals.connections_rejected),
    ]);
    pairs.extend(counts(node).into_iter().map(|(name, count)| (name.to_owned(), count.to_string())));
    pairs.extend(list(&[
        ("bytes_read", &totals.bytes_in),
        ("bytes_written", &totals.bytes_out),
        ("limit_maxbytes", &memory_bytes_max(node)),
        ("accepting_conns", &1),
        ("listen_disabled_num", &0),
        ("threads", &node.threads.len()),
        ("hash_bytes", &stats.index_bytes),
        ("hash_is_expanding", &0),
        ("bytes", &stats.used_bytes),
        ("curr_items", &stats.entries),
        ("total_items", &(stats.stored + totals.memcached[Count::Lengthened as usize])),
        ("evictions", &stats.evicted),
        ("reclaimed", &stats.expired),
    ]));
    pairs
}

fn settings(node: &Node) -> Pairs {
    let Config { memcached_port, threads, item_size_max, tcp_backlog, bind, .. } = &node.config;
    let live = node.live.live();
    let yes_no = |is: bool| if is { "yes" } else { "no" };
    let addresses: Vec<String> = bind.iter().map(|address| address.ip.to_string()).collect();
    let evicts = live.policy != leasehold_keyspace::EvictionPolicy::NoEviction;
    list(&[
        ("maxbytes", &memory_bytes_max(node)),
        ("maxconns", &live.clients_max),
        ("tcpport", memcached_port),
        ("udpport", &0),
        ("inter", &addresses.join(",")),
        ("evictions", &if evicts { "on" } else { "off" }),
        ("shutdown_command", &yes_no(node.config.memcached_shutdown)),
        ("num_threads", threads),
        ("cas_enabled", &"yes"),
        ("tcp_backlog", tcp_backlog),
        ("binding_protocol", &"ascii"),
        ("auth_enabled_sasl", &"no"),
        ("auth_enabled_ascii", &yes_no(!node.config.memcached_users.is_empty())),
        ("item_size_max", item_size_max),
        ("key_size_max", &node.config.memcached_key_bytes_max),
        ("idle_timeout", &live.idle_timeout.map_or(0, |timeout| timeout.as_secs())),
        ("flush_enabled", &"yes"),
        ("ssl_enabled", &"no"),
    ])
}

fn items(node: &Node) -> Pairs {
    let (stats, counts) = (node.keyspace.stats(), node.totals().memcached);
    if stats.entries == 0 {
        return Vec::new();
    }
    list(&[
        ("items:1:number", &stats.entries),
        ("items:1:age", &node.clock.uptime().as_secs()),
        ("items:1:mem_requested", &stats.entry_bytes),
        ("items:1:evicted", &stats.evicted),
        ("items:1:outofmemory", &counts[Count::StoreNoMemory as usize]),
        ("items:1:reclaimed", &stats.expired),
    ])
}

/// What is counted of each class, by the same names as of all.
const OF_CLASS: [&str; 8] =
    ["get_hits", "cmd_set", "delete_hits", "incr_hits", "decr_hits", "cas_hits", "cas_badval", "touch_hits"];

/// One class, whose chunks are as large as the mean entry; those that are free lie in segments that are there already.
fn slabs(node: &Node) -> Pairs {
    let stats = node.keyspace.stats();
    let mut pairs = Vec::new();
    if let Some(mean) = stats.entry_bytes.checked_div(stats.entries) {
        let free = stats.free_bytes / mean.max(1);
        pairs.extend(list(&[
            ("1:chunk_size", &mean),
            ("1:chunks_per_page", &((1 << 20) / mean.max(1))),
            ("1:total_pages", &(stats.entry_bytes + stats.free_bytes).div_ceil(1 << 20)),
            ("1:total_chunks", &(stats.entries + free)),
            ("1:used_chunks", &stats.entries),
            ("1:free_chunks", &free),
            ("1:free_chunks_end", &0),
        ]));
        let of_class = counts(node).into_iter().filter(|(name, _)| OF_CLASS.contains(name));
        pairs.extend(of_class.map(|(name, count)| (format!("1:{name}"), count.to_string())));
    }
    pairs.extend(list(&[("active_slabs", &u8::from(stats.entries > 0)), ("total_malloced", &stats.used_bytes)]));
    pairs
}

/// memcached has them off by default, and says so with this line: `INFO sizes` is where ours are.
fn sizes(_: &Node) -> Pairs {
    list(&[("sizes_status", &"disabled")])
}

fn connections(node: &Node) -> Pairs {
    let now_ms = node.clock.now_ms();
    let mut cards: Vec<_> = node.threads.iter().flat_map(|desk| desk.cards.all()).collect();
    cards.sort_unstable_by_key(|card| card.id);
    let mut pairs = Vec::new();
    for card in cards {
        for (name, value) in card.memcached_stats(now_ms) {
            pairs.push((format!("{}:{name}", card.fd), value));
        }
    }
    pairs
}
