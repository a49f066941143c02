//! How reloads have ended, for `INFO loaders`.

/// What is known of all reloads, and of the last.
#[derive(Debug, Default)]
pub(crate) struct Report {
    done: u64,
    refused: u64,
    last: Option<Last>,
}

#[derive(Debug)]
struct Last {
    at_s: u64,
    is_done: bool,
    /// What it has changed, or why nothing; one line.
    text: String,
}

impl Report {
    pub(super) fn note_done(&mut self, at_s: u64, text: String) {
        self.done += 1;
        self.last = Some(Last { at_s, is_done: true, text });
    }

    pub(super) fn note_refused(&mut self, at_s: u64, text: String) {
        self.refused += 1;
        self.last = Some(Last { at_s, is_done: false, text });
    }

    /// Names and values.
    pub(crate) fn fields(&self) -> [(&'static str, String); 5] {
        let last = self.last.as_ref();
        let status = last.map_or("none", |last| if last.is_done { "ok" } else { "refused" });
        [
            ("reloads", self.done.to_string()),
            ("reloads_refused", self.refused.to_string()),
            ("reload_last_time", last.map_or(0, |last| last.at_s).to_string()),
            ("reload_last_status", status.to_owned()),
            ("reload_last_text", last.map(|last| last.text.clone()).unwrap_or_default()),
        ]
    }
}
