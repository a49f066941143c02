//! What an operator tells a loader to do: LOADER PAUSE and RESUME.

use crate::context::{Context, Outcome};
use crate::error::ReplyError;
use crate::host::LoaderOrder;
use crate::spec::{Argument, Flags, Group, Keys, Spec};
use leasehold_protocol::Request;

pub(super) const PAUSE: Spec = Spec {
    name: "pause",
    summary: "Starts no load of a loader until LOADER RESUME: readers get the stale value or an error",
    group: Group::Loader,
    since: "leasehold 0.1.0",
    complexity: "O(N) for N loaders",
    arity: 3,
    flags: Flags::ADMIN.with(Flags::NOSCRIPT),
    keys: Keys::None,
    arguments: &[Argument::string("name")],
    subcommands: &[],
    run: |context, request| order(context, request, LoaderOrder::Pause),
};

pub(super) const RESUME: Spec = Spec {
    name: "resume",
    summary: "Lets a paused loader load again",
    group: Group::Loader,
    since: "leasehold 0.1.0",
    complexity: "O(N) for N loaders",
    arity: 3,
    flags: Flags::ADMIN.with(Flags::NOSCRIPT),
    keys: Keys::None,
    arguments: &[Argument::string("name")],
    subcommands: &[],
    run: |context, request| order(context, request, LoaderOrder::Resume),
};

/// Passes an order on to the loader that the request names.
fn order(context: &mut Context<'_>, request: Request<'_>, order: LoaderOrder) -> Outcome {
    let told = context.host.order_loader(request.arg(2), order).map_err(ReplyError::Text);
    if told.is_ok() {
        context.reply.ok();
    }
    context.conclude(told)
}
