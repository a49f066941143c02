//! Reading the small words of the notation: quoted strings, bare words, times.

/// A position in one line.
#[derive(Clone, Debug)]
pub(crate) struct Text<'a> {
    rest: &'a str,
}

impl<'a> Text<'a> {
    pub(crate) fn new(line: &'a str) -> Self {
        Self { rest: line }
    }

    pub(crate) fn skip_spaces(&mut self) {
        self.rest = self.rest.trim_start();
    }

    pub(crate) fn rest(&self) -> &'a str {
        self.rest
    }

    pub(crate) fn is_at_end(&self) -> bool {
        self.rest.is_empty()
    }

    /// Takes `literal` if it stands here.
    pub(crate) fn take(&mut self, literal: &str) -> bool {
        match self.rest.strip_prefix(literal) {
            Some(rest) => {
                self.rest = rest;
                true
            }
            None => false,
        }
    }

    /// Takes all characters that `wanted` accepts.
    pub(crate) fn take_while(&mut self, wanted: impl Fn(char) -> bool) -> &'a str {
        let end = self.rest.find(|character| !wanted(character)).unwrap_or(self.rest.len());
        let (taken, rest) = self.rest.split_at(end);
        self.rest = rest;
        taken
    }

    /// A string in double quotes, with `\n \r \t \\ \" \xHH`, behind its opening quote.
    pub(crate) fn quoted(&mut self) -> Result<Vec<u8>, String> {
        let mut bytes = Vec::new();
        loop {
            let mut characters = self.rest.chars();
            let Some(character) = characters.next() else { return Err("a quote is not closed".to_owned()) };
            self.rest = characters.as_str();
            match character {
                '"' => return Ok(bytes),
                '\\' => {
                    let Some(escaped) = characters.next() else { return Err("a quote is not closed".to_owned()) };
                    self.rest = characters.as_str();
                    match escaped {
                        'n' => bytes.push(b'\n'),
                        'r' => bytes.push(b'\r'),
                        't' => bytes.push(b'\t'),
                        '"' | '\\' => bytes.push(escaped as u8),
                        'x' => {
                            let digits = self.rest.get(..2).ok_or("two digits belong behind \\x")?;
                            bytes.push(u8::from_str_radix(digits, 16).map_err(|_| format!("\\x{digits}"))?);
                            self.rest = &self.rest[2..];
                        }
                        other => return Err(format!("unknown escape \\{other}")),
                    }
                }
                other => bytes.extend_from_slice(other.encode_utf8(&mut [0; 4]).as_bytes()),
            }
        }
    }
}

/// `20ms`, `2s`, `5m` or `1h` in milliseconds.
pub(crate) fn duration_ms(text: &str) -> Result<u64, String> {
    let digits = text.trim_end_matches(|character: char| character.is_ascii_alphabetic());
    let factor = match &text[digits.len()..] {
        "ms" => 1,
        "s" => 1000,
        "m" => 60_000,
        "h" => 3_600_000,
        _ => return Err(format!("no time: {text}")),
    };
    let number: u64 = digits.parse().map_err(|_| format!("no time: {text}"))?;
    Ok(number * factor)
}

/// Cuts a line into its statements, which two or more spaces divide. Spaces inside quotes do not count, and what follows
/// must look like a statement, so that an error text may contain two spaces.
pub(crate) fn statements(line: &str) -> Vec<&str> {
    let mut found = Vec::new();
    let (mut start, mut quoted, mut escaped) = (0, false, false);
    let bytes = line.as_bytes();
    for (index, &byte) in bytes.iter().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if quoted => escaped = true,
            b'"' => quoted = !quoted,
            b' ' if !quoted
                && index >= 1
                && bytes[index - 1] == b' '
                && opens_statement(line[index..].trim_start()) =>
            {
                let statement = line[start..index].trim();
                if !statement.is_empty() {
                    found.push(statement);
                }
                start = index;
            }
            _ => {}
        }
    }
    let statement = line[start..].trim();
    if !statement.is_empty() {
        found.push(statement);
    }
    found
}

fn opens_statement(text: &str) -> bool {
    let after_name = text.trim_start_matches(|character: char| character.is_ascii_lowercase());
    let is_talk = after_name.len() < text.len() && after_name.starts_with(['<', '>']);
    let is_time = text.strip_prefix('+').is_some_and(|rest| rest.starts_with(|first: char| first.is_ascii_digit()));
    is_talk || is_time || ["loads ", "loader ", "close "].iter().any(|word| text.starts_with(word))
}
