//! Tags of a row: texts with columns in braces, `org:{org_id}`.
//!
//! A row has each tag that its loader names, but for those with a column that is NULL: a row of no organisation belongs to none.

use crate::columns::{Fields, Problem};
use bytes::Bytes;
use leasehold_loader_api::TAGS_MAX;

const OPTION: &str = "tags";

/// A tag as it is configured, its columns found.
#[derive(Clone, Debug)]
pub(crate) struct TagTemplate {
    parts: Vec<Part>,
}

#[derive(Clone, Debug)]
enum Part {
    Text(String),
    /// The place of a column.
    Column(usize),
}

/// A part of a template as it is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Written<'t> {
    Text(&'t str),
    Column(&'t str),
}

/// What is wrong with the templates by themselves, whatever the query selects.
pub(crate) fn check(templates: &[String]) -> Result<(), Problem> {
    if templates.len() > TAGS_MAX {
        return Err(problem(format!("names {} tags, and at most {TAGS_MAX} are allowed", templates.len())));
    }
    templates.iter().try_for_each(|template| parts(template).map(drop))
}

impl TagTemplate {
    /// Finds the columns among those that the query of `option` selects.
    pub(crate) fn resolve(template: &str, option: &str, columns: &[String]) -> Result<Self, Problem> {
        let found = parts(template)?.into_iter().map(|part| match part {
            Written::Text(text) => Ok(Part::Text(text.to_owned())),
            Written::Column(name) => match columns.iter().position(|column| column == name) {
                Some(column) => Ok(Part::Column(column)),
                None => Err(problem(format!(
                    "`{template}`: `{name}` is not among the columns of {option} ({})",
                    columns.join(", ")
                ))),
            },
        });
        Ok(Self { parts: found.collect::<Result<_, _>>()? })
    }

    /// The places of its columns.
    pub(crate) fn columns(&self) -> impl Iterator<Item = usize> {
        self.parts.iter().filter_map(|part| match part {
            Part::Text(_) => None,
            Part::Column(column) => Some(*column),
        })
    }

    /// The tag of a row; `None` if a column is NULL.
    ///
    /// # Errors
    /// The place of a column whose value cannot be text, and why.
    pub(crate) fn of(&self, row: &impl Fields) -> Result<Option<Bytes>, (usize, String)> {
        let mut tag = Vec::new();
        for part in &self.parts {
            match part {
                Part::Text(text) => tag.extend_from_slice(text.as_bytes()),
                Part::Column(column) if row.is_null(*column) => return Ok(None),
                Part::Column(column) => row.plain(*column, &mut tag).map_err(|reason| (*column, reason))?,
            }
        }
        Ok(Some(tag.into()))
    }
}

fn parts(template: &str) -> Result<Vec<Written<'_>>, Problem> {
    let wrong =
        || problem(format!("`{template}`: a brace must open or close the name of a column, as in org:{{org_id}}"));
    let mut parts = Vec::new();
    let mut rest = template;
    while let Some((text, behind)) = rest.split_once('{') {
        let (name, behind) = behind.split_once('}').ok_or_else(wrong)?;
        if name.is_empty() || name.contains('{') || text.contains('}') {
            return Err(wrong());
        }
        if !text.is_empty() {
            parts.push(Written::Text(text));
        }
        parts.push(Written::Column(name));
        rest = behind;
    }
    if rest.contains('}') {
        return Err(wrong());
    }
    if !rest.is_empty() {
        parts.push(Written::Text(rest));
    }
    if parts.is_empty() {
        return Err(problem("a tag is empty".into()));
    }
    Ok(parts)
}

fn problem(reason: String) -> Problem {
    Problem { option: OPTION, reason }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_template_is_text_and_columns() {
        use Written::{Column, Text};
        assert_eq!(parts("org:{org_id}").unwrap(), [Text("org:"), Column("org_id")]);
        assert_eq!(parts("{a}{b}:c").unwrap(), [Column("a"), Column("b"), Text(":c")]);
        assert_eq!(parts("all").unwrap(), [Text("all")]);
        for wrong in ["", "{", "}", "{}", "a}", "{a", "a}{b}", "{{a}}", "{a}}"] {
            assert_eq!(parts(wrong).unwrap_err().option, "tags", "{wrong}");
        }
    }

    #[test]
    fn templates_are_counted_and_their_columns_found() {
        assert!(check(&vec!["a".to_owned(); TAGS_MAX]).is_ok());
        assert!(check(&vec!["a".to_owned(); TAGS_MAX + 1]).is_err());
        let columns = ["id".to_owned(), "org_id".to_owned()];
        let tag = TagTemplate::resolve("{org_id}/{id}", "sql", &columns).unwrap();
        assert_eq!(tag.columns().collect::<Vec<_>>(), [1, 0]);
        let unknown = TagTemplate::resolve("org:{org}", "sql", &columns).unwrap_err();
        assert!(unknown.reason.contains("`org` is not among the columns of sql (id, org_id)"), "{}", unknown.reason);
    }
}
