//! Verbs about the connection and the node.

use super::dispatch::answer;
use super::table::{ANY, Verb};
use crate::context::{Context, Outcome};
use crate::spec::Flags;

/// The verbs of this file.
pub(super) static VERBS: &[&Verb] = &[&VERSION, &QUIT];

static VERSION: Verb = Verb {
    name: "version",
    usage: "",
    summary: "Answers the version of the server",
    words_min: 1,
    words_max: ANY,
    flags: Flags::FAST,
    noreply_from: None,
    run: |context, _| answer(context, concat!("VERSION ", env!("CARGO_PKG_VERSION")).as_bytes()),
};

static QUIT: Verb = Verb {
    name: "quit",
    usage: "",
    summary: "Closes the connection",
    words_min: 1,
    words_max: ANY,
    flags: Flags::FAST,
    noreply_from: None,
    run: |_: &mut Context<'_>, _| Outcome::Close,
};
