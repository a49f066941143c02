//! LIST and STATS of what is configured under a name: loaders and feeds.

use crate::context::{Context, Outcome};
use crate::error::ReplyError;
use crate::host::View;
use leasehold_protocol::Request;

/// An array of maps: name and settings of each.
pub(crate) fn list(context: &mut Context<'_>, views: &[View]) -> Outcome {
    context.reply.array(views.len());
    for view in views {
        write_map(context, view, |_| true, &[]);
    }
    Outcome::Replied
}

/// The counters of the one that the request names, or of all; with those of the settings that are `shown`, as what is counted says
/// little without them. `unknown` is the text for a name that nobody has.
pub(crate) fn stats(
    context: &mut Context<'_>,
    request: Request<'_>,
    views: &[View],
    shown: &[&str],
    unknown: &str,
) -> Outcome {
    let is_shown = |field: &str| shown.contains(&field);
    match request.get(2) {
        None => {
            context.reply.array(views.len());
            views.iter().for_each(|view| write_map(context, view, is_shown, &view.counters));
        }
        Some(_) if request.len() > 3 => return context.conclude(Err(ReplyError::Syntax)),
        Some(name) => match views.iter().find(|view| view.name.as_bytes() == name) {
            Some(view) => write_map(context, view, is_shown, &view.counters),
            None => return context.conclude(Err(ReplyError::Text(unknown.to_owned()))),
        },
    }
    Outcome::Replied
}

fn write_map(context: &mut Context<'_>, view: &View, is_shown: impl Fn(&str) -> bool, counters: &[(&str, i64)]) {
    let settings = || view.settings.iter().filter(|(field, _)| is_shown(field));
    context.reply.map(1 + settings().count() + counters.len());
    context.reply.bulk(b"name");
    context.reply.bulk(view.name.as_bytes());
    for (field, value) in settings() {
        context.reply.bulk(field.as_bytes());
        context.reply.bulk(value.as_bytes());
    }
    for (field, value) in counters {
        context.reply.bulk(field.as_bytes());
        context.reply.integer(*value);
    }
}
