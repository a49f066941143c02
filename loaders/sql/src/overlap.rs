//! Whether one key can fit two patterns.
//!
//! Both patterns become small automata over bytes; they overlap when a pair of states, reached by the same bytes, accepts in
//! both. A text placeholder counts as any bytes here, so two patterns may be called overlapping though every common string is
//! refused by a finer rule (UTF-8, the first fitting literal); the other way round never happens.

use crate::template::{Part, PlaceholderKind, Template};

/// A set of bytes.
type Class = [u64; 4];

struct State {
    edges: Vec<(Class, usize)>,
    accepts: bool,
}

/// Whether some key fits both patterns. Work grows with the product of their lengths.
#[must_use]
pub fn overlaps(a: &Template, b: &Template) -> bool {
    let (a, b) = (automaton(a), automaton(b));
    let mut seen = vec![false; a.len() * b.len()];
    let mut pending = vec![(0, 0)];
    while let Some((in_a, in_b)) = pending.pop() {
        if std::mem::replace(&mut seen[in_a * b.len() + in_b], true) {
            continue;
        }
        if a[in_a].accepts && b[in_b].accepts {
            return true;
        }
        for (class_a, next_a) in &a[in_a].edges {
            for (class_b, next_b) in &b[in_b].edges {
                if class_a.iter().zip(class_b).any(|(x, y)| x & y != 0) {
                    pending.push((*next_a, *next_b));
                }
            }
        }
    }
    false
}

fn automaton(template: &Template) -> Vec<State> {
    let mut states = vec![State { edges: Vec::new(), accepts: false }];
    // The states in which everything so far has been read.
    let mut frontier = vec![0];
    for part in template.parts() {
        match part {
            Part::Literal(literal) => {
                for byte in literal {
                    frontier = vec![step(&mut states, &frontier, class(&[*byte..=*byte]))];
                }
            }
            Part::Placeholder(PlaceholderKind::Int) => {
                let zero = step(&mut states, &frontier, class(&[b'0'..=b'0']));
                let minus = step(&mut states, &frontier, class(&[b'-'..=b'-']));
                frontier.push(minus);
                let digits = step(&mut states, &frontier, class(&[b'1'..=b'9']));
                states[digits].edges.push((class(&[b'0'..=b'9']), digits));
                frontier = vec![zero, digits];
            }
            Part::Placeholder(PlaceholderKind::Uuid) => {
                for index in 0..36 {
                    let class = match index {
                        8 | 13 | 18 | 23 => class(&[b'-'..=b'-']),
                        _ => class(&[b'0'..=b'9', b'a'..=b'f']),
                    };
                    frontier = vec![step(&mut states, &frontier, class)];
                }
            }
            Part::Placeholder(PlaceholderKind::Text) => {
                let any = class(&[1..=255]);
                let text = step(&mut states, &frontier, any);
                states[text].edges.push((any, text));
                frontier = vec![text];
            }
        }
    }
    for state in frontier {
        states[state].accepts = true;
    }
    states
}

/// A new state, reached by `class` from every state of the frontier.
fn step(states: &mut Vec<State>, frontier: &[usize], class: Class) -> usize {
    let next = states.len();
    states.push(State { edges: Vec::new(), accepts: false });
    for state in frontier {
        states[*state].edges.push((class, next));
    }
    next
}

fn class(ranges: &[std::ops::RangeInclusive<u8>]) -> Class {
    let mut class = [0; 4];
    for byte in ranges.iter().cloned().flatten() {
        class[usize::from(byte >> 6)] |= 1 << (byte & 63);
    }
    class
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn overlap(a: &str, b: &str) -> bool {
        let (a, b) = (Template::parse(a).expect(a), Template::parse(b).expect(b));
        let answer = overlaps(&a, &b);
        assert_eq!(answer, overlaps(&b, &a), "the order must not matter");
        answer
    }

    #[test]
    fn patterns_that_share_a_key_overlap() {
        for (a, b) in [
            ("user:{id:int}", "user:{name}"),
            ("user:{id:int}", "user:{other:int}"),
            ("user:{id}", "user:{id}:orders"),
            ("u:{a}:x:{b}", "u:{a}:y:{b}"),
            ("{a}", "settings"),
            ("x:{a:uuid}", "x:{a}"),
            ("x:{a:int}", "x:-{a:int}"),
            ("x:{a:int}{{", "x:{a}"),
            ("settings", "settings"),
        ] {
            assert!(overlap(a, b), "{a} and {b}");
        }
    }

    #[test]
    fn patterns_that_share_no_key_do_not() {
        for (a, b) in [
            ("user:{id:int}", "order:{id:int}"),
            ("user:{id:int}", "user:{id:int}:orders"),
            ("user:{id:int}", "user:{id:uuid}"),
            ("user:{id}:a", "user:{id}:b"),
            ("user:{id:int}", "user:x{id}"),
            ("user:{id:int}", "user:0{id}"),
            ("user:{id:int}", "user:-0{id}"),
            ("u:{a}", "u:"),
            ("settings", "setting"),
        ] {
            assert!(!overlap(a, b), "{a} and {b}");
        }
    }

    proptest! {
        #[test]
        fn two_patterns_that_take_one_key_are_found(
            a in "[ab]{0,2}(\\{x(:int|:uuid)?\\}[ab]{0,2})?",
            b in "[ab]{0,2}(\\{x(:int|:uuid)?\\}[ab]{0,2})?",
            key in "[ab]{0,2}([-]?[0-9]{1,3}|[ab]{1,3})[ab]{0,2}",
        ) {
            if let (Ok(a), Ok(b)) = (Template::parse(&a), Template::parse(&b))
                && a.matches(key.as_bytes()) && b.matches(key.as_bytes())
            {
                prop_assert!(overlaps(&a, &b));
            }
        }
    }
}
