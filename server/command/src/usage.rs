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
    let once = match (argument.token, value.is_empty()) {
        (Some(token), true) => token.to_owned(),
        (Some(token), false) => format!("{token} {value}"),
        (None, _) => value,
    };
    let all = if argument.multiple { format!("{once} [{once} ...]") } else { once };
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
            (NX.optional(), "[NX]"),
        ];
        for (argument, text) in cases {
            assert_eq!(shown(&argument), text);
        }
    }
}
