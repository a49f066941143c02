//! `INFO`: the node's state as a text of sections and fields.

use crate::context::{Context, Outcome};
use crate::spec::{Argument, Flags, Group, Keys, Spec};
use leasehold_protocol::Request;

pub(super) static INFO: Spec = Spec {
    name: "info",
    summary: "Describes the node's state in sections of fields",
    group: Group::Server,
    since: "1.0.0",
    complexity: "O(1)",
    arity: -1,
    flags: Flags::LOADING.with(Flags::STALE).with(Flags::DANGEROUS),
    keys: Keys::None,
    arguments: &[Argument::string("section").multiple().optional()],
    subcommands: &[],
    run: info,
};

fn info(context: &mut Context<'_>, request: Request<'_>) -> Outcome {
    let sections: Vec<Vec<u8>> = request.args_from(1).map(<[u8]>::to_ascii_lowercase).collect();
    let sections: Vec<&[u8]> = sections.iter().map(Vec::as_slice).collect();
    let text = context.host.info(&sections);
    context.reply.verbatim(b"txt", text.as_bytes());
    Outcome::Replied
}

#[cfg(test)]
mod tests {
    use crate::testing::Node;

    #[test]
    fn sections_reach_the_host_in_lower_case() {
        let mut node = Node::new();
        assert_eq!(node.run("INFO SERVER Memory"), "$33\r\n# Asked\r\nsections:server,memory\r\n\r\n");
        assert_eq!(*node.host.info_sections.borrow(), ["server", "memory"]);
        node.run("HELLO 3");
        assert_eq!(node.run("INFO"), "=24\r\ntxt:# Asked\r\nsections:\r\n\r\n");
    }
}
