//! The usage line of a command, as `HELP` and the README show it: `SET key value [NX | XX] [EX seconds]`.

use crate::spec::{Argument, ArgumentKind, Spec};

/// The name in upper case and the arguments behind it, without the container's name.
#[must_use]
pub fn usage(spec: &Spec) -> String {
    let mut line = spec.name.to_ascii_uppercase();
    for argument in spec.arguments {
        line.push(' ');
        line.push_str(&shown(argument));
    }
    line
}

fn shown(argument: &Argument) -> String {
    let value = match argument.kind {
        ArgumentKind::PureToken => String::new(),
        ArgumentKind::OneOf => joined(argument.parts, " | "),
        ArgumentKind::Block => joined(argument.parts, " "),
        _ => argument.name.to_owned(),
    };
    // Brackets of an option hold its alternatives together already.
    let bare = argument.optional && argument.token.is_none() && !argument.multiple;
    let value = if argument.kind == ArgumentKind::OneOf && !bare { format!("<{value}>") } else { value };
    let many = |once: String| match argument.kind {
        _ if !argument.multiple => once,
        // Alternatives are long, and stand in brackets already.
        ArgumentKind::OneOf => format!("{once} ..."),
        _ => format!("{once} [{once} ...]"),
    };
    let with_token = |value: String| match argument.token {
        Some(token) => format!("{token} {value}").trim_end().to_owned(),
        None => value,
    };
    let all = if argument.repeats_token() { many(with_token(value)) } else { with_token(many(value)) };
    if argument.optional { format!("[{all}]") } else { all }
}

fn joined(parts: &[Argument], separator: &str) -> String {
    parts.iter().map(shown).collect::<Vec<_>>().join(separator)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_alternatives_and_repetition_are_shown() {
        const NX: Argument = Argument::word("nx", "NX");
        const XX: Argument = Argument::word("xx", "XX");
        const PAIR: &[Argument] = &[Argument::key("key"), Argument::string("value")];
        let cases = [
            (Argument::key("key").multiple(), "key [key ...]"),
            (Argument::integer("count").with_token("COUNT").optional(), "[COUNT count]"),
            (Argument::one_of("condition", &[NX, XX]).optional(), "[NX | XX]"),
            (Argument::one_of("condition", &[NX, XX]), "<NX | XX>"),
            (Argument::one_of("condition", &[NX, XX]).with_token("IF").optional(), "[IF <NX | XX>]"),
            (Argument::block("pair", PAIR).multiple(), "key value [key value ...]"),
            (Argument::block("get", PAIR).with_token("GET").multiple(), "GET key value [GET key value ...]"),
            (Argument::integer("id").with_token("ID").multiple(), "ID id [id ...]"),
            (Argument::one_of("condition", &[NX, XX]).multiple().optional(), "[<NX | XX> ...]"),
            (NX.optional(), "[NX]"),
        ];
        for (argument, text) in cases {
            assert_eq!(shown(&argument), text);
        }
    }
}
