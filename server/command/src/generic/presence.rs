//! Whether keys exist, and making them not exist: `DEL`, `UNLINK`, `EXISTS`, `TOUCH`, `TYPE`.

use crate::context::{Context, Outcome};
use crate::spec::{Argument, Flags, Group, Keys, Spec};
use leasehold_keyspace::{Access, Db};
use leasehold_protocol::Request;

pub(super) static DEL: Spec = Spec {
    name: "del",
    summary: "Deletes keys and revokes their leases, also of keys that do not exist",
    group: Group::Generic,
    since: "1.0.0",
    complexity: "O(N) for N keys",
    arity: -2,
    flags: Flags::WRITE.with(Flags::SUMMED),
    keys: Keys::ALL,
    arguments: &[Argument::key("key").multiple()],
    subcommands: &[],
    run: delete,
};

pub(super) static UNLINK: Spec = Spec {
    name: "unlink",
    summary: "Does what DEL does; values are freed at once, since none takes long to free",
    group: Group::Generic,
    since: "4.0.0",
    complexity: "O(N) for N keys",
    arity: -2,
    flags: Flags::WRITE.with(Flags::FAST).with(Flags::SUMMED),
    keys: Keys::ALL,
    arguments: &[Argument::key("key").multiple()],
    subcommands: &[],
    run: delete,
};

pub(super) static EXISTS: Spec = Spec {
    name: "exists",
    summary: "Counts how many of the named keys exist; a key named twice counts twice",
    group: Group::Generic,
    since: "1.0.0",
    complexity: "O(N) for N keys",
    arity: -2,
    flags: Flags::READONLY.with(Flags::FAST).with(Flags::SUMMED),
    keys: Keys::ALL,
    arguments: &[Argument::key("key").multiple()],
    subcommands: &[],
    run: |context, request| count_existing(context, request, Access::Quiet),
};

pub(super) static TOUCH: Spec = Spec {
    name: "touch",
    summary: "Counts how many of the named keys exist, and marks them as used just now",
    group: Group::Generic,
    since: "3.2.1",
    complexity: "O(N) for N keys",
    arity: -2,
    flags: Flags::READONLY.with(Flags::FAST).with(Flags::SUMMED),
    keys: Keys::ALL,
    arguments: &[Argument::key("key").multiple()],
    subcommands: &[],
    // Also for a client with NO-TOUCH: it asks for nothing else.
    run: |context, request| count_existing(context, request, Access::Touch),
};

pub(super) static TYPE: Spec = Spec {
    name: "type",
    summary: "Names the type of a key's value, or none",
    group: Group::Generic,
    since: "1.0.0",
    complexity: "O(1)",
    arity: 2,
    flags: Flags::READONLY.with(Flags::FAST),
    keys: Keys::ONE,
    arguments: &[Argument::key("key")],
    subcommands: &[],
    run: type_of,
};

fn delete(context: &mut Context<'_>, request: Request<'_>) -> Outcome {
    let db = context.client.db;
    let deleted = if request.len() == 2 {
        i64::from(context.keyspace.update(context.turn, db, request.arg(1), |slot| slot.remove()))
    } else {
        let keys: Vec<(Db, &[u8])> = request.args_from(1).map(|key| (db, key)).collect();
        context.keyspace.update_many(context.turn, &keys, |slots| {
            (0..keys.len()).map(|index| i64::from(slots.slot(index).remove())).sum()
        })
    };
    context.reply.integer(deleted);
    Outcome::Replied
}

fn count_existing(context: &mut Context<'_>, request: Request<'_>, access: Access) -> Outcome {
    let keys = (1..request.len()).map(|index| request.arg(index));
    let mut existing = 0;
    context.keyspace.read_many(context.turn, context.client.db, keys, access, |_, entry| {
        existing += i64::from(entry.is_some());
    });
    context.reply.integer(existing);
    Outcome::Replied
}

fn type_of(context: &mut Context<'_>, request: Request<'_>) -> Outcome {
    let found = context.keyspace.read(context.turn, context.client.db, request.arg(1), Access::Quiet, |_| ());
    context.reply.simple(if found.is_some() { "string" } else { "none" });
    Outcome::Replied
}

#[cfg(test)]
mod tests {
    use crate::testing::Node;
    use leasehold_keyspace::{Claim, Claimant, Claimed, Db, Fill, Filled, LostReason};

    #[test]
    fn del_counts_each_key_once_and_exists_each_mention() {
        let mut node = Node::new();
        node.run("SET a 1");
        node.run("SET b 1");
        assert_eq!(node.run("EXISTS a b a nokey"), ":3\r\n");
        assert_eq!(node.run("TOUCH a nokey"), ":1\r\n");
        assert_eq!(node.run("DEL a a b nokey"), ":2\r\n");
        assert_eq!(node.run("EXISTS a b"), ":0\r\n");
        node.run("SET a 1");
        assert_eq!(node.run("UNLINK a"), ":1\r\n");
        assert_eq!(node.run("DEL a"), ":0\r\n");
    }

    #[test]
    fn type_is_string_until_the_key_expires() {
        let mut node = Node::new();
        node.run("SET a 1 PX 10");
        assert_eq!(node.run("TYPE a"), "+string\r\n");
        node.advance_ms(10);
        assert_eq!(node.run("TYPE a"), "+none\r\n");
        assert_eq!(node.run("EXISTS a"), ":0\r\n");
        assert_eq!(node.run("DEL a"), ":0\r\n");
    }

    #[test]
    fn del_of_an_absent_key_revokes_its_lease() {
        let mut node = Node::new();
        let claim = Claim {
            claimant: Claimant::Client,
            lease_ms: None,
            version_min: None,
            fresh_required: false,
            stale_ms_max: None,
            waiter: None,
        };
        let Claimed::Lead { token, .. } = node.keyspace.claim(&mut node.turn, Db(0), b"a", claim) else {
            panic!("nobody else holds the lease")
        };
        assert_eq!(node.run("DEL a b"), ":0\r\n");
        let expiry = leasehold_keyspace::Expiry::Never;
        let fill = Fill::Value { value: b"1", expiry, stale_for_ms: 0, version: None, client_flags: 0, tags: &[] };
        let filled = node.keyspace.fill(&mut node.turn, Db(0), b"a", token, fill);
        assert_eq!(filled, Filled::Lost(LostReason::Revoked));
    }
}
