//! The text of INFO. Field names and sections are Redis's, because monitoring reads them; what Redis has and we do not is 0 where
//! a client library or redis_exporter looks for it, and absent otherwise. Ours are `x_…` and the sections Eviction, Leases,
//! Loaders, Feeds, Auditor, Prefixes and Whatif.

use crate::memcached_stats;
use crate::node::Node;
use crate::peer::shown::cluster;
use leasehold_command::name_by_index;
use leasehold_keyspace::{Count, Db, EvictionPolicy, PolicyStats, Share, Stats};
use std::fmt::Write as _;
use std::sync::atomic::{AtomicU64, Ordering};

/// The Redis version whose behaviour this is: client libraries choose features by it.
const REDIS_VERSION: &str = "7.4.0";

/// Writes the lines of a section.
type Section = fn(&mut String, &Node);

/// Sections in the order of the text, with what writes them; those of the default set first.
const SECTIONS: &[(&str, bool, Section)] = &[
    ("server", true, server),
    ("clients", true, clients),
    ("memory", true, memory),
    ("persistence", true, persistence),
    ("stats", true, stats),
    ("eviction", true, eviction),
    ("replication", true, replication),
    ("cpu", true, cpu),
    ("modules", true, modules),
    ("commandstats", false, commandstats),
    ("errorstats", true, errorstats),
    ("latencystats", false, latencystats),
    ("cluster", true, cluster),
    ("keyspace", true, keyspace),
    ("leases", true, leases),
    ("loaders", true, loaders),
    ("feeds", true, feeds),
    ("auditor", true, auditor),
    ("prefixes", false, prefixes),
    ("keysizes", false, keysizes),
    ("whatif", false, whatif),
];

/// The text for `sections`, in lower case; empty: the default set. Unknown ones are no error, as in Redis.
pub(crate) fn text(node: &Node, sections: &[&[u8]]) -> String {
    let asked = |name: &str| sections.iter().any(|section| section.eq_ignore_ascii_case(name.as_bytes()));
    let (all, default) = (asked("all") || asked("everything"), sections.is_empty() || asked("default"));
    let mut text = String::with_capacity(4 * 1024);
    for (name, is_default, write) in SECTIONS {
        if all || (default && *is_default) || asked(name) {
            if !text.is_empty() {
                text.push_str("\r\n");
            }
            let mut title = (*name).to_owned();
            title[..1].make_ascii_uppercase();
            line(&mut text, format_args!("# {title}"));
            write(&mut text, node);
        }
    }
    text
}

fn line(text: &mut String, content: std::fmt::Arguments<'_>) {
    text.write_fmt(content).expect("a String takes every write");
    text.push_str("\r\n");
}

/// Lines `name:value`.
macro_rules! fields {
    ($text:expr, $($name:literal: $value:expr),+ $(,)?) => {
        $(line($text, format_args!(concat!($name, ":{}"), $value));)+
    };
}

fn server(text: &mut String, node: &Node) {
    let uptime_s = node.clock.uptime().as_secs();
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let executable = std::env::current_exe().map(|path| path.display().to_string()).unwrap_or_default();
    fields!(text,
        "redis_version": REDIS_VERSION,
        "redis_git_sha1": "00000000",
        "redis_git_dirty": 0,
        "redis_build_id": env!("CARGO_PKG_VERSION"),
        "redis_mode": if node.member.is_some() { "cluster" } else { "standalone" },
        "x_server": "leasehold",
        "x_version": env!("CARGO_PKG_VERSION"),
        "os": format_args!("Linux {} {}", kernel.trim(), std::env::consts::ARCH),
        "arch_bits": usize::BITS,
        "multiplexing_api": "epoll",
        "process_id": std::process::id(),
        "run_id": node.run_id,
        "tcp_port": node.port,
        "memcached_port": node.config.memcached_port,
        "server_time_usec": node.clock.wall_us(),
        "uptime_in_seconds": uptime_s,
        "uptime_in_days": uptime_s / 86_400,
        "hz": 10,
        "configured_hz": 10,
        "executable": executable,
        "config_file": "",
        "io_threads_active": u8::from(node.threads.len() > 1),
        "x_threads": node.threads.len(),
    );
}

fn clients(text: &mut String, node: &Node) {
    let live = node.live.live();
    fields!(text,
        "connected_clients": node.connections(),
        "cluster_connections": 0,
        "maxclients": live.clients_max,
        "client_recent_max_input_buffer": 0,
        "client_recent_max_output_buffer": 0,
        "blocked_clients": node.parked(),
        "tracking_clients": 0,
        "pubsub_clients": 0,
        "watching_clients": 0,
        "clients_in_timeout_table": node.parked(),
        "total_watched_keys": 0,
        "total_blocking_keys": 0,
        "total_blocking_keys_on_nokey": 0,
    );
    for (index, desk) in node.threads.iter().enumerate() {
        line(text, format_args!("x_thread_{index}_clients:{}", desk.connections.load(Ordering::Relaxed)));
    }
}

/// The highest RSS an INFO has seen.
static RSS_PEAK: AtomicU64 = AtomicU64::new(0);

fn memory(text: &mut String, node: &Node) {
    let live = node.live.live();
    let stats = node.keyspace.stats();
    let rss = rss_bytes();
    let rss_peak = RSS_PEAK.fetch_max(rss, Ordering::Relaxed).max(rss);
    let used = stats.used_bytes;
    let peak = stats.used_bytes_peak.max(used);
    let machine = machine_bytes();
    let ratio = rss as f64 / used.max(1) as f64;
    let percent = |part: u64, whole: u64| format!("{:.2}%", part as f64 * 100.0 / whole.max(1) as f64);
    let dataset = used.saturating_sub(stats.table_bytes);
    fields!(text,
        "used_memory": used,
        "used_memory_human": human(used),
        "used_memory_rss": rss,
        "used_memory_rss_human": human(rss),
        "used_memory_peak": peak,
        "used_memory_peak_human": human(peak),
        "used_memory_peak_perc": percent(used, peak),
        "used_memory_overhead": stats.table_bytes,
        "used_memory_startup": 0,
        "used_memory_dataset": dataset,
        "used_memory_dataset_perc": percent(dataset, used),
        "allocator_allocated": used,
        "allocator_active": rss,
        "allocator_resident": rss,
        "total_system_memory": machine,
        "total_system_memory_human": human(machine),
        "used_memory_lua": 0,
        "used_memory_vm_eval": 0,
        "used_memory_scripts": 0,
        "number_of_cached_scripts": 0,
        "maxmemory": live.memory_bytes_max,
        "maxmemory_human": human(live.memory_bytes_max),
        "maxmemory_policy": policy_name(live.policy),
        "allocator_frag_ratio": format_args!("{ratio:.2}"),
        "allocator_frag_bytes": rss.saturating_sub(used),
        "allocator_rss_ratio": "1.00",
        "allocator_rss_bytes": 0,
        "rss_overhead_ratio": "1.00",
        "rss_overhead_bytes": 0,
        "mem_fragmentation_ratio": format_args!("{ratio:.2}"),
        "mem_fragmentation_bytes": rss.saturating_sub(used),
        "mem_not_counted_for_evict": node.keyspace.watch_bytes(),
        "mem_replication_backlog": 0,
        "mem_clients_slaves": 0,
        "mem_clients_normal": 0,
        "mem_aof_buffer": 0,
        "mem_allocator": "mimalloc",
        "active_defrag_running": 0,
        "lazyfree_pending_objects": 0,
        "lazyfreed_objects": 0,
        // These eleven make up used_memory.
        "x_entry_bytes": stats.entry_bytes,
        "x_dead_bytes": stats.dead_bytes,
        "x_free_bytes": stats.free_bytes,
        "x_gap_bytes": stats.gap_bytes,
        "x_segment_table_bytes": stats.segment_table_bytes,
        "x_index_bytes": stats.index_bytes,
        "x_sketch_bytes": stats.sketch_bytes,
        "x_absence_bytes": stats.absence_bytes,
        "x_lease_bytes": stats.lease_bytes,
        "x_shadow_bytes": stats.shadow_bytes,
        "x_tag_table_bytes": stats.tag_table_bytes,
        "x_huge_bytes": stats.huge_bytes,
        "x_absence_bytes_max": live.absence_bytes_max(),
        "x_rss_peak": rss_peak,
    );
}

fn persistence(text: &mut String, _node: &Node) {
    fields!(text,
        "loading": 0,
        "async_loading": 0,
        "current_cow_peak": 0,
        "current_cow_size": 0,
        "rdb_changes_since_last_save": 0,
        "rdb_bgsave_in_progress": 0,
        "rdb_last_save_time": 0,
        "rdb_last_bgsave_status": "ok",
        "rdb_last_bgsave_time_sec": -1,
        "rdb_current_bgsave_time_sec": -1,
        "rdb_saves": 0,
        "rdb_last_cow_size": 0,
        "aof_enabled": 0,
        "aof_rewrite_in_progress": 0,
        "aof_rewrite_scheduled": 0,
        "aof_last_rewrite_time_sec": -1,
        "aof_current_rewrite_time_sec": -1,
        "aof_last_bgrewrite_status": "ok",
        "aof_last_write_status": "ok",
        "aof_last_cow_size": 0,
    );
}

fn stats(text: &mut String, node: &Node) {
    let totals = node.totals();
    let rates = node.rates();
    let keys = node.keyspace.stats();
    let kilobytes = |bytes: u64| format!("{:.2}", bytes as f64 / 1024.0);
    fields!(text,
        "total_connections_received": totals.connections_received,
        "total_commands_processed": totals.commands_total,
        "instantaneous_ops_per_sec": rates.commands.per_second(),
        "total_net_input_bytes": totals.bytes_in,
        "total_net_output_bytes": totals.bytes_out,
        "total_net_repl_input_bytes": 0,
        "total_net_repl_output_bytes": 0,
        "instantaneous_input_kbps": kilobytes(rates.bytes_in.per_second()),
        "instantaneous_output_kbps": kilobytes(rates.bytes_out.per_second()),
        "instantaneous_input_repl_kbps": "0.00",
        "instantaneous_output_repl_kbps": "0.00",
        "rejected_connections": totals.connections_rejected,
        "sync_full": 0,
        "sync_partial_ok": 0,
        "sync_partial_err": 0,
        "expired_keys": keys.expired,
        "expired_stale_perc": "0.00",
        "expired_time_cap_reached_count": 0,
        "evicted_keys": keys.evicted,
        "evicted_clients": 0,
        "evicted_scripts": 0,
        "keyspace_hits": keys.hits,
        "keyspace_misses": keys.misses,
        "pubsub_channels": 0,
        "pubsub_patterns": 0,
        "pubsubshard_channels": 0,
        "latest_fork_usec": 0,
        "total_forks": 0,
        "migrate_cached_sockets": 0,
        "slave_expires_tracked_keys": 0,
        "active_defrag_hits": 0,
        "active_defrag_misses": 0,
        "active_defrag_key_hits": 0,
        "active_defrag_key_misses": 0,
        "tracking_total_keys": 0,
        "tracking_total_items": 0,
        "tracking_total_prefixes": 0,
        "unexpected_error_replies": totals.panics,
        "total_error_replies": totals.errors.values().sum::<u64>(),
        "total_reads_processed": totals.turns,
        "total_writes_processed": totals.turns,
        "client_query_buffer_limit_disconnections": totals.protocol_errors,
        "client_output_buffer_limit_disconnections": totals.output_limit_closes,
        "x_idle_disconnections": totals.idle_closes,
        "x_protocol_errors": totals.protocol_errors,
        "x_panics": totals.panics,
    );
    for (name, count) in memcached_stats::counts(node) {
        line(text, format_args!("x_memcached_{name}:{count}"));
    }
    #[cfg(feature = "hold-times")]
    hold_times(text);
}

/// How long the locks of shards were held since this was last asked.
#[cfg(feature = "hold-times")]
fn hold_times(text: &mut String) {
    let holds = crate::holds::take();
    fields!(text,
        "x_lock_holds": holds.count,
        "x_lock_holds_over_1ms": holds.over_1ms,
        "x_lock_hold_longest_us": holds.longest_ns / 1000,
    );
}

/// The policy in force, what the log of entries looks like, and what was counted under each policy.
fn eviction(text: &mut String, node: &Node) {
    let live = node.live.live();
    let stats = node.keyspace.stats();
    let window = node.keyspace.window_report();
    let ratio = |part: u64, whole: u64| format!("{:.4}", part as f64 / whole.max(1) as f64);
    fields!(text,
        "policy": policy_name(live.policy),
        "window_bytes": stats.window_bytes,
        "window_share": ratio(stats.window_per_mille.into(), 1000),
        "window_changes": window.changes,
        "window_shadow_bytes": window.memory_bytes,
        "probation_bytes": stats.probation_bytes,
        "protected_bytes": stats.protected_bytes,
        "sketch_bytes": stats.sketch_bytes,
        "segments": stats.segments,
        "segment_bytes": stats.segment_bytes,
        "live_bytes": stats.entry_bytes,
        "dead_bytes": stats.dead_bytes,
        "fragmentation_ratio": ratio(stats.dead_bytes, stats.entry_bytes),
    );
    for (policy, counts) in EvictionPolicy::ALL.into_iter().zip(&stats.policies) {
        if *counts != PolicyStats::default() || policy == live.policy {
            let PolicyStats { hits, misses, admitted, rejected, evicted } = *counts;
            line(
                text,
                format_args!(
                    "policy_{}:hits={hits},misses={misses},hit_ratio={},admissions={admitted},rejections={rejected},evictions={evicted}",
                    policy_name(policy),
                    ratio(hits, hits + misses)
                ),
            );
        }
    }
}

fn replication(text: &mut String, node: &Node) {
    fields!(text,
        "role": "master",
        "connected_slaves": 0,
        "master_failover_state": "no-failover",
        "master_replid": node.run_id,
        "master_replid2": "0000000000000000000000000000000000000000",
        "master_repl_offset": 0,
        "second_repl_offset": -1,
        "repl_backlog_active": 0,
        "repl_backlog_size": 1_048_576,
        "repl_backlog_first_byte_offset": 0,
        "repl_backlog_histlen": 0,
    );
}

fn cpu(text: &mut String, _node: &Node) {
    let (user, system) = cpu_seconds();
    fields!(text,
        "used_cpu_sys": format_args!("{system:.6}"),
        "used_cpu_user": format_args!("{user:.6}"),
        "used_cpu_sys_children": "0.000000",
        "used_cpu_user_children": "0.000000",
    );
}

fn modules(_text: &mut String, _node: &Node) {}

fn commandstats(text: &mut String, node: &Node) {
    for (index, command) in node.totals().commands.iter().enumerate() {
        if command.calls + command.rejected == 0 {
            continue;
        }
        let Some(name) = name_by_index(index as u16) else { continue };
        let calls = command.calls.saturating_sub(command.rejected);
        let usec = command.usec();
        line(
            text,
            format_args!(
                "cmdstat_{name}:calls={calls},usec={usec},usec_per_call={:.2},rejected_calls={},failed_calls={}",
                usec as f64 / calls.max(1) as f64,
                command.rejected,
                command.failed
            ),
        );
    }
}

fn errorstats(text: &mut String, node: &Node) {
    for (code, count) in &node.totals().errors {
        line(text, format_args!("errorstat_{code}:count={count}"));
    }
}

fn latencystats(_text: &mut String, _node: &Node) {}

fn keyspace(text: &mut String, node: &Node) {
    for (db, Count { entries, with_ttl }) in node.keyspace.counts().into_iter().enumerate() {
        if entries > 0 {
            line(text, format_args!("db{db}:keys={entries},expires={with_ttl},avg_ttl=0,subexpiry=0"));
        }
    }
}

fn leases(text: &mut String, node: &Node) {
    let Stats {
        absences,
        absence_bytes,
        negative_hits,
        tag_bumps,
        tag_table_per_mille,
        prefix_bumps,
        prefix_bumps_pending,
        bumped_by_tag,
        bumped_by_prefix,
        leases_issued,
        lease_hot_misses,
        fills_stored,
        fills_stale,
        fills_lost_revoked,
        fills_lost_superseded,
        fills_lost_unknown,
        fills_lost_older,
        fills_lost_no_room,
        lease_waits,
        leases,
        waiters,
        ..
    } = node.keyspace.stats();
    fields!(text,
        "leases": leases,
        "lease_waiters": waiters,
        "leases_issued": leases_issued,
        "lease_hot_misses": lease_hot_misses,
        "fills_stored": fills_stored,
        "fills_stale": fills_stale,
        "fills_lost_revoked": fills_lost_revoked,
        "fills_lost_superseded": fills_lost_superseded,
        "fills_lost_unknown": fills_lost_unknown,
        "fills_lost_older_version": fills_lost_older,
        "fills_lost_no_room": fills_lost_no_room,
        "absences": absences,
        "absence_bytes": absence_bytes,
        "negative_hits": negative_hits,
        "tags_invalidated": tag_bumps,
        "entries_stale_by_tag": bumped_by_tag,
        "tag_table_used_per_mille": tag_table_per_mille,
        "prefixes_invalidated": prefix_bumps,
        "prefixes_pending": prefix_bumps_pending,
        "entries_stale_by_prefix": bumped_by_prefix,
    );
    // As Redis writes a distribution (`db0_distrib_…`): the upper bound of a bucket and its count, empty ones left out.
    let mut waits = String::new();
    for (bucket, count) in lease_waits.iter().enumerate().filter(|(_, count)| **count > 0) {
        let separator = if waits.is_empty() { "" } else { "," };
        match bucket + 1 < lease_waits.len() {
            true => write!(waits, "{separator}lt_{}={count}", 1u64 << bucket),
            false => write!(waits, "{separator}longer={count}"),
        }
        .expect("a String takes every write");
    }
    line(text, format_args!("lease_wait_ms:{waits}"));
}

fn loaders(text: &mut String, node: &Node) {
    if let Some(reloader) = node.reload.get() {
        for (name, value) in reloader.report().fields() {
            line(text, format_args!("{name}:{value}"));
        }
    }
    for (_, view) in node.loaders.table().views() {
        let state = view.settings.iter().find(|(name, _)| *name == "state").map_or("", |(_, state)| state.as_str());
        let mut counters = String::new();
        for (name, value) in &view.counters {
            write!(counters, ",{name}={value}").expect("a String takes every write");
        }
        line(text, format_args!("loader_{}:state={state}{counters}", view.name));
    }
}

/// A line for each feed.
fn feeds(text: &mut String, node: &Node) {
    for view in node.feeds.views() {
        let state = view.settings.iter().find(|(name, _)| *name == "state").map_or("", |(_, state)| state.as_str());
        let mut counters = String::new();
        for (name, value) in &view.counters {
            write!(counters, ",{name}={value}").expect("a String takes every write");
        }
        line(text, format_args!("feed_{}:state={state}{counters}", view.name));
    }
}

/// A line for the auditor, and one for each loader that it audits.
fn auditor(text: &mut String, node: &Node) {
    let Some(auditor) = &node.auditor else { return line(text, format_args!("auditor:state=off")) };
    let fields = auditor.fields().map(|(name, value)| format!("{name}={value}"));
    line(text, format_args!("auditor:{}", fields.join(",")));
    for view in auditor.views() {
        let texts = view.texts.iter().map(|(name, value)| format!("{name}={value}"));
        let counters = view.counters.iter().map(|(name, count)| format!("{name}={count}"));
        let fields: Vec<String> = texts.chain(counters).collect();
        line(text, format_args!("audit_{}:{}", view.loader, fields.join(",")));
    }
}

/// Hits and memory by prefix: estimates.
fn prefixes(text: &mut String, node: &Node) {
    let shares = node.keyspace.shares(&mut node.turn());
    fields!(text,
        "prefixes": shares.prefixes.len(),
        "entries_per_sample": format_args!("{:.1}", shares.entries_per_sample),
    );
    let mut tell = |name: &str, share: &Share| {
        let Share { hits, misses, entries, bytes } = *share;
        let ratio = hits as f64 / (hits + misses).max(1) as f64;
        line(
            text,
            format_args!("{name}:keys={entries},bytes={bytes},hits={hits},misses={misses},hit_ratio={ratio:.4}"),
        );
    };
    for (prefix, share) in &shares.prefixes {
        tell(&format!("prefix_{}", printable(prefix)), share);
    }
    tell("no_prefix", &shares.unprefixed);
    tell("other_prefixes", &shares.other);
}

/// A name for a line of fields: what would end or divide it is written as `\\xHH`.
fn printable(name: &[u8]) -> String {
    let mut text = String::with_capacity(name.len());
    for &byte in name {
        match byte {
            b'!'..=b'~' if !b":,=\\".contains(&byte) => text.push(byte.into()),
            _ => write!(text, "\\x{byte:02x}").expect("a String takes every write"),
        }
    }
    text
}

/// As in Redis 8: for each power of two how many values are at least so long and shorter than twice that. With the bytes of
/// these values, which Redis does not tell.
fn keysizes(text: &mut String, node: &Node) {
    for db in 0..node.config.databases {
        let sizes = node.keyspace.size_histogram(Db(db));
        let list = |numbers: &[u64]| {
            let shown = numbers.iter().enumerate().filter(|(bucket, _)| sizes.entries[*bucket] > 0);
            let shown = shown.map(|(bucket, number)| format!("{}={number}", size_label(bucket)));
            shown.collect::<Vec<_>>().join(",")
        };
        if sizes.entries.iter().any(|count| *count > 0) {
            line(text, format_args!("db{db}_distrib_strings_sizes:{}", list(&sizes.entries)));
            line(text, format_args!("x_db{db}_distrib_strings_bytes:{}", list(&sizes.bytes)));
        }
    }
}

/// The least length in a bucket: 0, 1, 2, 4 … 512, 1K, 2K …
fn size_label(bucket: usize) -> String {
    match bucket {
        0 => "0".to_owned(),
        1..11 => (1_u64 << (bucket - 1)).to_string(),
        11..21 => format!("{}K", 1_u64 << (bucket - 11)),
        21..31 => format!("{}M", 1_u64 << (bucket - 21)),
        _ => format!("{}G", 1_u64 << (bucket - 31)),
    }
}

/// What other memory and policies would hit, from the shadow caches.
fn whatif(text: &mut String, node: &Node) {
    let known = node
        .keyspace
        .with_whatif(|whatif| (whatif.outlooks(), whatif.reads(), whatif.keys_per_sample(), whatif.memory_bytes()));
    let live = node.live.live();
    fields!(text, "whatif": u8::from(live.whatif));
    // `None` for the moment in which a thread plays events to them.
    if let Some((outlooks, reads, keys_per_sample, memory_bytes)) = known {
        fields!(text,
            "whatif_policy": policy_name(live.policy),
            "whatif_sampled_reads": reads,
            "whatif_keys_per_sample": keys_per_sample,
            "whatif_memory_bytes": memory_bytes,
        );
        for outlook in outlooks {
            let [half, same, double] = outlook.hit_ratios;
            line(
                text,
                format_args!(
                    "whatif_{}:half_memory={half:.4},same_memory={same:.4},twice_memory={double:.4}",
                    policy_name(outlook.policy)
                ),
            );
        }
    }
}

/// Redis's word for a policy.
fn policy_name(policy: EvictionPolicy) -> &'static str {
    match policy {
        EvictionPolicy::NoEviction => "noeviction",
        EvictionPolicy::AllKeysLru => "allkeys-lru",
        EvictionPolicy::VolatileLru => "volatile-lru",
        EvictionPolicy::AllKeysRandom => "allkeys-random",
        EvictionPolicy::VolatileRandom => "volatile-random",
        EvictionPolicy::VolatileTtl => "volatile-ttl",
        EvictionPolicy::AllKeysTinyLfu => "allkeys-tinylfu",
        EvictionPolicy::VolatileTinyLfu => "volatile-tinylfu",
        EvictionPolicy::AllKeysLfu => "allkeys-lfu",
        EvictionPolicy::VolatileLfu => "volatile-lfu",
    }
}

/// `1.50M`, as Redis writes sizes.
fn human(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["B", "K", "M", "G", "T", "P"];
    let mut value = bytes as f64;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    if unit == 0 { format!("{bytes}B") } else { format!("{value:.2}{}", UNITS[unit]) }
}

/// Resident memory, from the kernel; 0 if it does not say.
fn rss_bytes() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages: u64 = statm.split_ascii_whitespace().nth(1).and_then(|pages| pages.parse().ok()).unwrap_or(0);
    pages * rustix::param::page_size() as u64
}

/// Memory of the machine; 0 if it does not say.
fn machine_bytes() -> u64 {
    let meminfo = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let total = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"));
    total.and_then(|rest| rest.split_ascii_whitespace().next()?.parse::<u64>().ok()).unwrap_or(0) * 1024
}

/// User and system time of the process in seconds, as precise as the kernel's ticks.
pub(crate) fn cpu_seconds() -> (f64, f64) {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    // The name in parentheses may hold spaces; utime and stime are fields 14 and 15 of the line, 11 behind the name.
    let behind_name = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    let mut ticks = behind_name.split_ascii_whitespace().skip(11).map(|ticks| ticks.parse::<f64>().unwrap_or(0.0));
    let per_second = rustix::param::clock_ticks_per_second() as f64;
    (ticks.next().unwrap_or(0.0) / per_second, ticks.next().unwrap_or(0.0) / per_second)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_written_as_redis_writes_them() {
        assert_eq!(human(0), "0B");
        assert_eq!(human(1023), "1023B");
        assert_eq!(human(1536), "1.50K");
        assert_eq!(human(3 << 30), "3.00G");
    }

    #[test]
    fn prefixes_and_lengths_are_written_on_one_line() {
        assert_eq!(printable(b"user"), "user");
        assert_eq!(printable(b"a b\r\n,\xff"), "a\\x20b\\x0d\\x0a\\x2c\\xff");
        let labels: Vec<String> = [0, 1, 2, 10, 11, 20, 21, 31, 32].map(size_label).to_vec();
        assert_eq!(labels, ["0", "1", "2", "512", "1K", "512K", "1M", "1G", "2G"]);
    }

    #[test]
    fn the_kernel_tells_memory_and_time() {
        assert!(rss_bytes() > 100_000);
        assert!(machine_bytes() > rss_bytes());
        let (user, system) = cpu_seconds();
        assert!(user >= 0.0 && system >= 0.0);
    }
}
