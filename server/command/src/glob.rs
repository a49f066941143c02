//! Glob patterns of `KEYS`, `SCAN`, `CONFIG GET`: `*`, `?`, `[classes]`, and `\` before a byte that shall stand for itself.
//!
//! On a mismatch only the last `*` may take one byte more: whatever an earlier one could still take, the last can take in its
//! place. So a match costs at most pattern × text steps, where trying every `*` again would cost an exponential number, and
//! there is no recursion.
//!
//! Broken patterns mean what they mean in Redis: a class without `]` ends with the pattern, its last byte included.

/// Whether the whole of `text` matches.
#[must_use]
pub fn matches(pattern: &[u8], text: &[u8]) -> bool {
    search(pattern, text, |byte| byte)
}

/// As [`matches`], with ASCII letters of either case alike.
#[must_use]
pub fn matches_ignore_case(pattern: &[u8], text: &[u8]) -> bool {
    search(pattern, text, |byte| byte.to_ascii_lowercase())
}

/// Whether the pattern matches every text.
#[must_use]
pub fn is_everything(pattern: &[u8]) -> bool {
    !pattern.is_empty() && pattern.iter().all(|byte| *byte == b'*')
}

fn search(pattern: &[u8], text: &[u8], fold: impl Fn(u8) -> u8 + Copy) -> bool {
    let (mut p, mut t) = (0, 0);
    // Behind the last star: where the pattern goes on, and where the text would after one byte more for the star.
    let mut retry: Option<(usize, usize)> = None;
    loop {
        if p < pattern.len() && pattern[p] == b'*' {
            p += 1;
            retry = Some((p, t));
            continue;
        }
        if t == text.len() {
            // A star takes only bytes that are there, so what the pattern still wants cannot come.
            return p == pattern.len();
        }
        if p < pattern.len()
            && let Some(next) = one(pattern, p, text[t], fold)
        {
            (p, t) = (next, t + 1);
            continue;
        }
        let Some((after_star, from)) = retry else { return false };
        if after_star == pattern.len() {
            return true;
        }
        (p, t) = (after_star, from + 1);
        retry = Some((after_star, t));
    }
}

/// Where the pattern goes on if the element at `p`, which is no star, takes `byte`.
#[inline]
fn one(pattern: &[u8], p: usize, byte: u8, fold: impl Fn(u8) -> u8) -> Option<usize> {
    let byte = fold(byte);
    match pattern[p] {
        b'?' => Some(p + 1),
        b'[' => {
            let (found, next) = class(pattern, p + 1, byte, fold);
            found.then_some(next)
        }
        b'\\' if p + 1 < pattern.len() => (fold(pattern[p + 1]) == byte).then_some(p + 2),
        literal => (fold(literal) == byte).then_some(p + 1),
    }
}

/// Whether the class whose inside begins at `p` has `byte`, and where the pattern goes on behind it.
fn class(pattern: &[u8], mut p: usize, byte: u8, fold: impl Fn(u8) -> u8) -> (bool, usize) {
    let negated = pattern.get(p) == Some(&b'^');
    p += usize::from(negated);
    let mut found = false;
    loop {
        match pattern[p.min(pattern.len())..] {
            // Without a `]` the class ends with the pattern.
            [] => return (found != negated, pattern.len()),
            [b']', ..] => return (found != negated, p + 1),
            [b'\\', literal, ..] => {
                found |= fold(literal) == byte;
                p += 2;
            }
            [first, b'-', last, ..] => {
                let (low, high) = (first.min(last), first.max(last));
                found |= (fold(low)..=fold(high)).contains(&byte);
                p += 3;
            }
            [literal, ..] => {
                found |= fold(literal) == byte;
                p += 1;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The definition, by recursion and without care for cost.
    fn naive(pattern: &[u8], text: &[u8]) -> bool {
        match pattern {
            [] => text.is_empty(),
            [b'*', rest @ ..] => (0..=text.len()).any(|taken| naive(rest, &text[taken..])),
            _ => {
                let Some((byte, text)) = text.split_first() else { return false };
                one(pattern, 0, *byte, |byte| byte).is_some_and(|next| naive(&pattern[next..], text))
            }
        }
    }

    proptest! {
        #[test]
        fn agrees_with_the_definition(pattern in "[ab*?\\[\\]^\\\\-]{0,10}", text in "[ab\\]^\\\\-]{0,10}") {
            let (pattern, text) = (pattern.as_bytes(), text.as_bytes());
            prop_assert_eq!(matches(pattern, text), naive(pattern, text));
        }

        #[test]
        fn escaped_text_matches_only_itself(text in "[ab*?\\[\\]^\\\\-]{0,8}", other in "[ab*?\\[\\]^\\\\-]{0,8}") {
            let escaped: Vec<u8> = text.bytes().flat_map(|byte| [b'\\', byte]).collect();
            prop_assert!(matches(&escaped, text.as_bytes()));
            prop_assert_eq!(matches(&escaped, other.as_bytes()), text == other);
        }
    }

    #[test]
    fn classes_ranges_escapes() {
        let cases: &[(&str, &str, bool)] = &[
            ("h[ae]llo", "hello", true),
            ("h[ae]llo", "hillo", false),
            ("h[^e]llo", "hallo", true),
            ("h[^e]llo", "hello", false),
            ("h[a-c]llo", "hbllo", true),
            ("h[c-a]llo", "hbllo", true),
            ("h[a-c]llo", "hdllo", false),
            ("h[a\\-c]llo", "h-llo", true),
            ("h[a\\-c]llo", "hbllo", false),
            ("h[\\]]llo", "h]llo", true),
            ("h\\*llo", "h*llo", true),
            ("h\\*llo", "hello", false),
            // Without a `]`: the class is the rest of the pattern.
            ("h[ae", "ha", true),
            ("h[ae", "hae", false),
            ("h[^", "hx", true),
            ("h[", "hx", false),
            ("h[\\", "h\\", true),
            ("h\\", "h\\", true),
            ("[a-", "-", true),
            ("", "", true),
            ("", "a", false),
            ("*", "", true),
            ("a*", "a", true),
            ("*a", "ba", true),
            ("?", "", false),
        ];
        for (pattern, text, expected) in cases {
            assert_eq!(matches(pattern.as_bytes(), text.as_bytes()), *expected, "{pattern} {text}");
        }
        assert!(matches_ignore_case(b"MAX[A-M]*", b"maxmemory"));
        assert!(!matches(b"MAX*", b"maxmemory"));
    }

    #[test]
    fn many_stars_cost_no_exponential_time() {
        let pattern = "a*".repeat(5_000) + "b";
        assert!(!matches(pattern.as_bytes(), "a".repeat(20_000).as_bytes()));
    }
}
