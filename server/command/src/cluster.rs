//! What clients ask of several nodes: `CLUSTER`, `READONLY`, `READWRITE`, `ASKING`.
//!
//! Texts and shapes are those of Redis 7.0. What it tells of its bus, of replicas and of failures is told as of a cluster that has none:
//! ports of the bus and numbers of messages are 0.

use crate::argument::integer_or_error;
use crate::client::{Routing, is_name};
use crate::context::{Context, Outcome};
use crate::error::ReplyError;
use crate::help;
use crate::redirect;
use crate::spec::{Argument, Flags, Group, Handler, Keys, Spec};
use leasehold_cluster::{Condition, Member, Node, Place, SLOTS, Slot, SlotRange, Standing};
use leasehold_keyspace::Db;
use leasehold_protocol::{Reply, Request};
use std::collections::HashSet;
use std::fmt::Write as _;

/// The commands of this group.
pub static SPECS: &[&Spec] = &[&CLUSTER, &READONLY, &READWRITE, &ASKING];

static CLUSTER: Spec = Spec {
    name: "cluster",
    summary: "Tells about the nodes and their slots",
    group: Group::Cluster,
    since: "3.0.0",
    subcommands: &[
        subcommand(
            "slots",
            "Lists ranges of slots, each with its node",
            "3.0.0",
            "O(N) for N ranges",
            &[],
            |context, _| for_cluster_client(context, slots),
        ),
        subcommand(
            "shards",
            "Lists the nodes, each with its ranges of slots",
            "7.0.0",
            "O(N) for N ranges",
            &[],
            |context, _| for_cluster_client(context, shards),
        ),
        subcommand("nodes", "Describes the nodes in a line each", "3.0.0", "O(N) for N ranges", &[], |context, _| {
            for_cluster_client(context, nodes)
        }),
        subcommand("info", "Describes the cluster in fields", "3.0.0", "O(1)", &[], info),
        subcommand("myid", "Tells the id of this node", "3.0.0", "O(1)", &[], |context, _| {
            answer(context, |context, member| {
                context.reply.bulk(member.own().id().as_bytes());
                Ok(())
            })
        }),
        subcommand(
            "keyslot",
            "Tells the slot of a key",
            "3.0.0",
            "O(N) for N bytes",
            &[Argument::string("key")],
            |context, request| {
                answer(context, |context, _| {
                    context.reply.integer(Slot::of_key(request.arg(2)).number().into());
                    Ok(())
                })
            },
        ),
        subcommand(
            "countkeysinslot",
            "Counts the keys of a slot that this node has",
            "3.0.0",
            "O(N) for all N keys of the node",
            &[Argument::integer("slot")],
            count_keys_in_slot,
        ),
        subcommand(
            "getkeysinslot",
            "Lists keys of a slot that this node has",
            "3.0.0",
            "O(N) for all N keys of the node",
            &[Argument::integer("slot"), Argument::integer("count")],
            keys_in_slot,
        ),
        Spec {
            flags: Flags::ADMIN.with(Flags::NOSCRIPT),
            ..subcommand(
                "link",
                "For other nodes: from here on the connection carries what they send on",
                "leasehold 0.1.0",
                "O(1)",
                &[Argument::integer("protocol"), Argument::string("node"), Argument::integer("epoch")],
                link,
            )
        },
        Spec {
            run: |context, request| match context.host.member() {
                Some(_) => help::run(context, request),
                None => context.conclude(Err(ReplyError::NoCluster)),
            },
            ..help::subcommand(Group::Cluster, "5.0.0")
        },
    ],
    ..help::CONTAINER
};

static READONLY: Spec =
    Spec { name: "readonly", summary: "Allows reads from replicas; there are none, so nothing changes", ..STATE };

static READWRITE: Spec =
    Spec { name: "readwrite", summary: "Takes READONLY back; there are no replicas, so nothing changes", ..STATE };

static ASKING: Spec = Spec {
    name: "asking",
    summary: "Says that ASK led here; no slot is ever on its way to another node, so nothing changes",
    flags: Flags::FAST,
    ..STATE
};

const STATE: Spec = Spec {
    name: "",
    summary: "",
    group: Group::Cluster,
    since: "3.0.0",
    complexity: "O(1)",
    arity: 1,
    flags: Flags::LOADING.with(Flags::STALE).with(Flags::FAST),
    keys: Keys::None,
    arguments: &[],
    subcommands: &[],
    run: |context, _| {
        for_cluster_client(context, |context| {
            answer(context, |context, _| {
                context.reply.ok();
                Ok(())
            })
        })
    },
};

/// The version of what nodes say to each other behind `CLUSTER LINK`.
pub const LINK_PROTOCOL: u32 = 1;

const fn subcommand(
    name: &'static str,
    summary: &'static str,
    since: &'static str,
    complexity: &'static str,
    arguments: &'static [Argument],
    run: Handler,
) -> Spec {
    let (group, flags, keys, arity) = (Group::Cluster, Flags::STALE, Keys::None, 2 + arguments.len() as i32);
    Spec { name, summary, group, since, complexity, arity, flags, keys, arguments, subcommands: &[], run }
}

/// Answers who shows by asking that it finds the node of a key by itself.
fn for_cluster_client(context: &mut Context<'_>, run: impl FnOnce(&mut Context<'_>) -> Outcome) -> Outcome {
    context.client.routing.show();
    run(context)
}

/// Takes another node's connection, if both have been told the same list.
fn link(context: &mut Context<'_>, request: Request<'_>) -> Outcome {
    let mut other = None;
    let accepted = answer(context, |context, member| {
        let (own, epoch) = (member.own().name(), member.topology().epoch());
        let [protocol, name, theirs] = [2, 3, 4].map(|index| String::from_utf8_lossy(request.arg(index)));
        let refusal = if protocol != LINK_PROTOCOL.to_string() {
            format!("node {own} speaks version {LINK_PROTOCOL} of the protocol between nodes, not {protocol}")
        } else if theirs != epoch.to_string() {
            format!("node {own} has another list of nodes (epoch {epoch}, not {theirs})")
        } else if let Some(place) = member.topology().place_of(&name) {
            other = Some(place);
            let name = format!("link-{name}");
            // Shown by CLIENT LIST.
            context.client.names_mut().name =
                if is_name(name.as_bytes()) { name.into_bytes() } else { b"link".to_vec() };
            context.client.routing = Routing::Link;
            context.reply.ok();
            return Ok(());
        } else {
            format!("node {own} knows no node {name}")
        };
        Err(ReplyError::err(refusal))
    });
    other.map_or(accepted, Outcome::Link)
}

/// Answers with what there is to say of the nodes, or that this one is alone.
fn answer(context: &mut Context<'_>, say: impl FnOnce(&mut Context<'_>, &Member) -> Result<(), ReplyError>) -> Outcome {
    let result = match context.host.member() {
        Some(member) => say(context, member),
        None => Err(ReplyError::NoCluster),
    };
    context.conclude(result)
}

fn slots(context: &mut Context<'_>) -> Outcome {
    answer(context, |context, member| {
        // Clients ask anew when a node does not answer: who then comes here has its reads answered by a stand-in.
        let is_replaced =
            |range: &SlotRange<'_>| redirect::is_replaced(context, member.topology().owner_place(range.first));
        let ranges: Vec<_> = member.topology().ranges().map(|range| (range, is_replaced(&range))).collect();
        let reply = &mut *context.reply;
        reply.array(ranges.len());
        for (range, is_replaced) in ranges {
            let owner = if is_replaced { member.own() } else { range.owner };
            let address = owner.address();
            reply.array(3);
            reply.integer(range.first.number().into());
            reply.integer(range.last.number().into());
            reply.array(4);
            reply.bulk(address.host.as_bytes());
            reply.integer(address.port.into());
            reply.bulk(owner.id().as_bytes());
            reply.map(0);
        }
        Ok(())
    })
}

fn shards(context: &mut Context<'_>) -> Outcome {
    answer(context, |context, member| {
        let topology = member.topology();
        let reply = &mut *context.reply;
        reply.array(topology.nodes().len());
        for node in topology.nodes() {
            let ranges: Vec<SlotRange<'_>> = ranges_of(member, node).collect();
            reply.map(2);
            reply.bulk(b"slots");
            reply.array(ranges.len() * 2);
            for range in ranges {
                reply.integer(range.first.number().into());
                reply.integer(range.last.number().into());
            }
            reply.bulk(b"nodes");
            reply.array(1);
            describe(reply, node);
        }
        Ok(())
    })
}

/// A node as `CLUSTER SHARDS` has it.
fn describe(reply: &mut Reply, node: &Node) {
    let host = node.address().host.as_bytes();
    reply.map(7);
    reply.bulk(b"id");
    reply.bulk(node.id().as_bytes());
    reply.bulk(b"port");
    reply.integer(node.address().port.into());
    reply.bulk(b"ip");
    reply.bulk(host);
    reply.bulk(b"endpoint");
    reply.bulk(host);
    reply.bulk(b"role");
    reply.bulk(b"master");
    reply.bulk(b"replication-offset");
    reply.integer(0);
    reply.bulk(b"health");
    reply.bulk(b"online");
}

fn ranges_of<'a>(member: &'a Member, node: &'a Node) -> impl Iterator<Item = SlotRange<'a>> {
    member.topology().ranges().filter(|range| range.owner.id() == node.id())
}

fn nodes(context: &mut Context<'_>) -> Outcome {
    answer(context, |context, member| {
        let mut text = String::new();
        let epoch = member.topology().epoch();
        for (place, node) in member.topology().places().zip(member.topology().all()) {
            let myself = if place == member.place() { "myself," } else { "" };
            let (trouble, line) = match condition_of(context, place) {
                Condition::Well | Condition::Ramp { .. } => ("", "connected"),
                Condition::Suspect { .. } => (",fail?", "connected"),
                Condition::Out { .. } => (",fail", "disconnected"),
            };
            let (id, address) = (node.id(), node.address());
            write!(text, "{id} {address}@0 {myself}master{trouble} - 0 0 {epoch} {line}")
                .expect("a String takes every write");
            for SlotRange { first, last, .. } in ranges_of(member, node) {
                write!(text, " {first}-{last}").expect("a String takes every write");
            }
            text.push('\n');
        }
        context.reply.verbatim(b"txt", text.as_bytes());
        Ok(())
    })
}

fn info(context: &mut Context<'_>, _: Request<'_>) -> Outcome {
    answer(context, |context, member| {
        let (size, epoch) = (member.topology().nodes().len(), member.topology().epoch());
        let nodes = member.topology().all().len();
        let (mut suspect, mut out) = (0, 0);
        for range in member.topology().ranges() {
            let slots = range.last.number() - range.first.number() + 1;
            let place = member.topology().owner_place(range.first);
            match condition_of(context, place) {
                Condition::Well | Condition::Ramp { .. } => {}
                Condition::Suspect { .. } => suspect += slots,
                Condition::Out { .. } => out += slots,
            }
        }
        let hears_majority =
            context.host.peers().is_none_or(|peers| peers.standing(context.turn.now_ms) == Standing::Proven);
        let (state, well) = (if out == 0 { "ok" } else { "fail" }, SLOTS - suspect - out);
        let text = format!(
            "cluster_state:{state}\r\ncluster_slots_assigned:{SLOTS}\r\ncluster_slots_ok:{well}\r\ncluster_slots_pfail:{suspect}\r\n\
             cluster_slots_fail:{out}\r\ncluster_known_nodes:{nodes}\r\ncluster_size:{size}\r\ncluster_current_epoch:{epoch}\r\n\
             cluster_my_epoch:{epoch}\r\ncluster_stats_messages_sent:0\r\ncluster_stats_messages_received:0\r\n\
             total_cluster_links_buffer_limit_exceeded:0\r\nx_cluster_majority:{}\r\n",
            u8::from(hears_majority)
        );
        context.reply.verbatim(b"txt", text.as_bytes());
        Ok(())
    })
}

/// A node as this one judges it.
fn condition_of(context: &Context<'_>, place: Place) -> Condition {
    match context.host.peers() {
        Some(peers) if place != peers.own() => peers.view(place).condition,
        Some(_) | None => Condition::Well,
    }
}

fn count_keys_in_slot(context: &mut Context<'_>, request: Request<'_>) -> Outcome {
    answer(context, |context, _| {
        let number = integer_or_error(request.arg(2))?;
        let slot = slot(number).ok_or_else(|| ReplyError::err("Invalid slot"))?;
        let count = keys_of(context, slot, usize::MAX).len();
        context.reply.integer(count as i64);
        Ok(())
    })
}

fn keys_in_slot(context: &mut Context<'_>, request: Request<'_>) -> Outcome {
    answer(context, |context, _| {
        let (number, count) = (integer_or_error(request.arg(2))?, integer_or_error(request.arg(3))?);
        let (Some(slot), Ok(count)) = (slot(number), usize::try_from(count)) else {
            return Err(ReplyError::err("Invalid slot or number of keys"));
        };
        let keys = keys_of(context, slot, count);
        context.reply.array(keys.len());
        keys.iter().for_each(|key| context.reply.bulk(key));
        Ok(())
    })
}

fn slot(number: i64) -> Option<Slot> {
    u16::try_from(number).ok().and_then(Slot::new)
}

/// Keys of a slot, `count` at most. There is no index of them: all keys are looked at.
fn keys_of(context: &mut Context<'_>, slot: Slot, count: usize) -> HashSet<Vec<u8>> {
    /// Table positions between two moments in which other threads may lock the shard.
    const STEP: usize = 1024;
    // While other threads write, the cursor may pass a key twice.
    let mut found = HashSet::new();
    let mut cursor = 0;
    while found.len() < count {
        cursor = context.keyspace.scan(context.turn, Db(0), cursor, STEP, |entry| {
            if found.len() < count && Slot::of_key(entry.key) == slot {
                found.insert(entry.key.to_vec());
            }
        });
        if cursor == 0 {
            break;
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use crate::testing::{MEMBERS, Node};
    use leasehold_cluster::Slot;

    #[test]
    fn who_is_alone_says_so_as_redis_does() {
        let mut node = Node::new();
        let disabled = "-ERR This instance has cluster support disabled\r\n";
        for line in [
            "CLUSTER SLOTS",
            "CLUSTER SHARDS",
            "CLUSTER NODES",
            "CLUSTER INFO",
            "CLUSTER MYID",
            "CLUSTER KEYSLOT a",
            "CLUSTER COUNTKEYSINSLOT x",
            "CLUSTER GETKEYSINSLOT 99999 x",
            "CLUSTER HELP",
            "READONLY",
            "READWRITE",
            "ASKING",
        ] {
            assert_eq!(node.run(line), disabled, "{line}");
        }
        assert_eq!(node.run("CLUSTER FOO"), "-ERR unknown subcommand 'FOO'. Try CLUSTER HELP.\r\n");
        assert_eq!(node.run("CLUSTER"), "-ERR wrong number of arguments for 'cluster' command\r\n");
    }

    #[test]
    fn a_node_among_others_keeps_no_state_of_a_client() {
        let mut node = Node::among_others(MEMBERS[0]);
        for line in ["READONLY", "READWRITE", "ASKING"] {
            assert_eq!(node.run(line), "+OK\r\n");
        }
        assert!(node.run("CLUSTER HELP").starts_with("*21\r\n+CLUSTER <subcommand>"));
    }

    #[test]
    fn slots_shards_and_nodes_say_the_same_in_the_shapes_of_redis() {
        let mut node = Node::among_others(MEMBERS[1]);
        let member = node.host.member.clone().expect("there are nodes");
        let ranges = member.topology().ranges().count();
        let first = member.topology().ranges().next().expect("there are slots");
        let (last, port, id) = (first.last, first.owner.address().port, first.owner.id());
        let slots = node.run("CLUSTER SLOTS");
        let head =
            format!("*{ranges}\r\n*3\r\n:0\r\n:{last}\r\n*4\r\n$9\r\n127.0.0.1\r\n:{port}\r\n$40\r\n{id}\r\n*0\r\n");
        assert!(slots.starts_with(&head), "{slots}");
        let shards = node.run("CLUSTER SHARDS");
        assert!(shards.starts_with("*3\r\n*4\r\n$5\r\nslots\r\n*"), "{shards}");
        let id = member.own().id();
        let own = format!(
            "$5\r\nnodes\r\n*1\r\n*14\r\n$2\r\nid\r\n$40\r\n{id}\r\n$4\r\nport\r\n:7002\r\n$2\r\nip\r\n$9\r\n127.0.0.1\r\n\
             $8\r\nendpoint\r\n$9\r\n127.0.0.1\r\n$4\r\nrole\r\n$6\r\nmaster\r\n$18\r\nreplication-offset\r\n:0\r\n\
             $6\r\nhealth\r\n$6\r\nonline\r\n"
        );
        assert!(shards.contains(&own), "{shards}");
        let text = node.run("CLUSTER NODES");
        let epoch = member.topology().epoch();
        assert!(text.contains(&format!("\n{id} 127.0.0.1:7002@0 myself,master - 0 0 {epoch} connected ")), "{text}");
        assert_eq!(text.matches("master").count(), 3);
        assert_eq!(text.lines().flat_map(|line| line.split(' ').skip(8)).count(), ranges);
        assert_eq!(node.run("CLUSTER MYID"), format!("$40\r\n{id}\r\n"));
        let info = node.run("CLUSTER INFO");
        assert!(info.contains("cluster_state:ok\r\ncluster_slots_assigned:16384\r\n"), "{info}");
        assert!(
            info.contains(&format!("cluster_known_nodes:3\r\ncluster_size:3\r\ncluster_current_epoch:{epoch}\r\n"))
        );
        node.run("HELLO 3");
        assert!(node.run("CLUSTER SLOTS").contains("\r\n%0\r\n"));
        assert!(node.run("CLUSTER SHARDS").starts_with("*3\r\n%2\r\n$5\r\nslots\r\n*"));
        assert!(node.run("CLUSTER NODES").starts_with('='));
        assert!(node.run("CLUSTER INFO").contains("\r\ntxt:cluster_state:ok\r\n"));
    }

    #[test]
    fn keys_of_a_slot_are_counted_and_listed() {
        let mut node = Node::among_others(MEMBERS[0]);
        let member = node.host.member.clone().expect("there are nodes");
        let tag =
            (0..).map(|number| format!("t{number}")).find(|tag| member.owns_key(tag.as_bytes())).expect("it has slots");
        let slot = Slot::of_key(tag.as_bytes());
        for number in 0..3 {
            assert_eq!(node.run(&format!("SET {{{tag}}}{number} v")), "+OK\r\n");
        }
        assert_eq!(node.run(&format!("CLUSTER KEYSLOT {{{tag}}}0")), format!(":{slot}\r\n"));
        assert_eq!(node.run(&format!("CLUSTER COUNTKEYSINSLOT {slot}")), ":3\r\n");
        let other = (slot.number() + 1) % leasehold_cluster::SLOTS;
        assert_eq!(node.run(&format!("CLUSTER COUNTKEYSINSLOT {other}")), ":0\r\n");
        for (count, answers) in [(0, 0), (2, 2), (10, 3)] {
            let keys = node.run(&format!("CLUSTER GETKEYSINSLOT {slot} {count}"));
            assert!(keys.starts_with(&format!("*{answers}\r\n")), "{keys}");
            assert_eq!(keys.matches(&format!("{{{tag}}}")).count(), answers);
        }
        // All from redis-server 7.0.15.
        for line in ["COUNTKEYSINSLOT x", "GETKEYSINSLOT 5 x", "GETKEYSINSLOT x 1"] {
            assert_eq!(node.run(&format!("CLUSTER {line}")), "-ERR value is not an integer or out of range\r\n");
        }
        for slot in ["16384", "-1"] {
            assert_eq!(node.run(&format!("CLUSTER COUNTKEYSINSLOT {slot}")), "-ERR Invalid slot\r\n");
        }
        for line in ["99999 1", "5 -1"] {
            let refused = node.run(&format!("CLUSTER GETKEYSINSLOT {line}"));
            assert_eq!(refused, "-ERR Invalid slot or number of keys\r\n");
        }
    }
}
