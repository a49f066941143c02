//! Where there are several nodes: a command whose keys are another node's is answered with that node's address, before anything is done.

use crate::error::ReplyError;
use crate::host::Host;
use crate::spec::Spec;
use crate::table;
use leasehold_cluster::Slot;
use leasehold_protocol::Request;

/// Whether this node may execute a request.
///
/// # Errors
/// [`ReplyError::Moved`], [`ReplyError::CrossSlot`].
#[inline(never)]
pub(crate) fn check(host: &dyn Host, spec: &Spec, request: Request<'_>) -> Result<(), ReplyError> {
    check_keys(host, table::keys_of(spec, request))
}

/// Whether a command of these keys may be executed here. Several keys must be in one slot also where one node has them all: with
/// another node in the list it might not have them any more.
pub(crate) fn check_keys<'a>(host: &dyn Host, mut keys: impl Iterator<Item = &'a [u8]>) -> Result<(), ReplyError> {
    let (Some(member), Some(first)) = (host.member(), keys.next()) else { return Ok(()) };
    let slot = Slot::of_key(first);
    if keys.any(|key| Slot::of_key(key) != slot) {
        return Err(ReplyError::CrossSlot);
    }
    if member.owns(slot) {
        return Ok(());
    }
    Err(ReplyError::Moved { slot, address: member.topology().owner(slot).address().clone() })
}

#[cfg(test)]
mod tests {
    use crate::testing::{MEMBERS, Node};
    use leasehold_cluster::Slot;

    /// A key of the node itself, and one of another with its slot and address.
    fn keys(node: &Node) -> (String, String, String) {
        let member = node.host.member.as_ref().expect("there are nodes");
        let key = |is_own: bool| {
            let mut keys = (0..).map(|number| format!("k{number}"));
            keys.find(|key| member.owns_key(key.as_bytes()) == is_own).expect("both have slots")
        };
        let (own, foreign) = (key(true), key(false));
        let slot = Slot::of_key(foreign.as_bytes());
        let moved = format!("-MOVED {slot} {}\r\n", member.topology().owner(slot).address());
        (own, foreign, moved)
    }

    #[test]
    fn commands_on_keys_of_another_node_name_it_and_do_nothing() {
        for name in MEMBERS {
            let mut node = Node::among_others(name);
            let (own, foreign, moved) = keys(&node);
            for line in [
                "GET KEY",
                "SET KEY v",
                "DEL KEY",
                "GETL KEY",
                "SETL KEY 5 v",
                "RELL KEY 5",
                "INVAL KEY",
                "INVAL KEY HARD",
                "INVAL KEY STALE 5 VER 7",
                "LOADTHROUGH KEY",
                "MLOADTHROUGH KEY",
                "MGET KEY",
                "LEASE KILL KEY",
                "OBJECT ENCODING KEY",
                "BITOP NOT KEY KEY",
                "LOADER EXPLAIN KEY",
                "MSETEX 1 KEY v",
            ] {
                assert_eq!(node.run(&line.replace("KEY", &foreign)), moved, "{line}");
                let here = node.run(&line.replace("KEY", &own));
                assert!(!here.starts_with("-MOVED"), "{line}: {here}");
            }
            node.run(&format!("SET {own} v"));
            assert_eq!(node.run("DBSIZE"), ":1\r\n");
        }
    }

    #[test]
    fn keys_of_several_slots_are_refused_even_if_all_are_here() {
        let mut node = Node::among_others(MEMBERS[0]);
        let (own, ..) = keys(&node);
        let member = node.host.member.as_ref().expect("there are nodes");
        let slot = Slot::of_key(own.as_bytes());
        let is_other = |key: &String| member.owns_key(key.as_bytes()) && Slot::of_key(key.as_bytes()) != slot;
        let other = (0..).map(|number| format!("o{number}")).find(is_other).expect("a node has many slots");
        let refused = "-CROSSSLOT Keys in request don't hash to the same slot\r\n";
        assert_eq!(node.run(&format!("MGET {own} {other}")), refused);
        assert_eq!(node.run(&format!("MSET {own} 1 {other} 2")), refused);
        assert_eq!(node.run(&format!("RENAME {own} {other}")), refused);
        assert_eq!(node.run(&format!("MGET {own} {{{own}}}x")), "*2\r\n$-1\r\n$-1\r\n");
    }

    #[test]
    fn a_wrong_command_is_told_so_before_it_is_sent_away() {
        let mut node = Node::among_others(MEMBERS[0]);
        let (_, foreign, _) = keys(&node);
        let refused = node.run(&format!("GET {foreign} x"));
        assert_eq!(refused, "-ERR wrong number of arguments for 'get' command\r\n");
        assert_eq!(node.run("PING"), "+PONG\r\n");
        let mut node = Node::among_others(MEMBERS[0]);
        node.host.password = Some(b"secret".to_vec());
        assert_eq!(node.run(&format!("GET {foreign}")), "-NOAUTH Authentication required.\r\n");
    }

    #[test]
    fn only_the_first_database_is_there() {
        let mut node = Node::among_others(MEMBERS[0]);
        let (own, ..) = keys(&node);
        assert_eq!(node.run("SELECT 0"), "+OK\r\n");
        assert_eq!(node.run("SELECT 1"), "-ERR SELECT is not allowed in cluster mode\r\n");
        assert_eq!(node.run("SELECT 99"), "-ERR SELECT is not allowed in cluster mode\r\n");
        assert_eq!(node.run("SELECT x"), "-ERR value is not an integer or out of range\r\n");
        node.run(&format!("SET {own} v"));
        let copied = node.run(&format!("COPY {own} {own} DB 1"));
        assert_eq!(copied, "-ERR Copying to another database is not allowed in cluster mode\r\n");
        assert!(node.run("HELLO").contains("$4\r\nmode\r\n$7\r\ncluster\r\n"));
    }

    #[test]
    fn loads_ahead_are_for_own_keys_only() {
        let mut node = Node::among_others(MEMBERS[0]);
        node.host.loader = Node::with_loader().host.loader;
        let member = node.host.member.clone().expect("there are nodes");
        let mut keys_left = 100;
        for number in 0..20 {
            let key = format!("load:{number}");
            let (parser, input) = crate::testing::parse(&[b"GET", key.as_bytes()]);
            let mut reply = leasehold_protocol::Reply::new(node.version);
            let mut context = node.context(&mut reply);
            assert!(crate::load_ahead(&mut context, parser.request(&input), &mut keys_left));
        }
        let loads: Vec<_> = node.turn.effects.loads.iter().map(|load| load.key.clone()).collect();
        let own = (0..20).map(|number| format!("load:{number}")).filter(|key| member.owns_key(key.as_bytes()));
        assert_eq!(loads, own.collect::<Vec<_>>());
        assert!(!loads.is_empty() && loads.len() < 20);
    }
}
