//! What a statement in the log may have changed, told from its text alone.
//!
//! With `binlog_format = ROW` the log has statements for what is no change of rows: the ends of transactions, and definitions of tables. A
//! session may choose another format for itself, though, and then the log has its INSERT or UPDATE as text, from which nobody can tell rows:
//! a view, a trigger or a function may stand between its words and the table. So what is not known to be harmless is not taken for harmless.

/// What a statement means to a feed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Effect {
    /// Nothing.
    None,
    /// The transaction is over.
    Ends,
    /// The table may be another one, or empty.
    Alters,
    /// Rows may have changed, and nobody can say which.
    Unreadable,
    /// The same, for a transaction that was prepared earlier; it is over.
    EndsUnreadable,
}

/// What the statement means to feeds of these tables, each with its database. `current` is the database that names without one are of.
pub(super) fn effect(sql: &[u8], current: &str, tables: &[(&str, &str)]) -> Effect {
    let sql = without_comments(sql);
    let (first, rest) = word(sql);
    let (second, _) = word(without_comments(rest));
    let names = |name: &str| !name.is_ascii() || contains(sql, name.as_bytes());
    let effect_on = |named: bool| if named { Effect::Alters } else { Effect::None };
    match (first.as_str(), second.as_str()) {
        ("", _) if sql.is_empty() => Effect::None,
        ("BEGIN" | "SAVEPOINT" | "RELEASE", _) | ("START", "TRANSACTION") => Effect::None,
        ("ROLLBACK", "TO") => Effect::None,
        // What a rolled-back transaction did to tables that know no transactions is in the log, and stays.
        ("COMMIT" | "ROLLBACK", _) => Effect::Ends,
        ("XA", "COMMIT") => Effect::EndsUnreadable,
        ("XA", _) => Effect::None,
        ("GRANT" | "REVOKE" | "FLUSH" | "ANALYZE" | "OPTIMIZE", _) => Effect::None,
        ("DROP", "DATABASE" | "SCHEMA") => effect_on(tables.iter().any(|(schema, _)| names(schema))),
        ("CREATE" | "ALTER" | "DROP" | "RENAME" | "TRUNCATE" | "REPAIR", _) => {
            let is_there = |schema: &str| schema.eq_ignore_ascii_case(current) || names(schema);
            effect_on(tables.iter().any(|(schema, table)| names(table) && is_there(schema)))
        }
        _ => Effect::Unreadable,
    }
}

/// What follows blanks and comments. What the server runs though it looks like a comment (`/*! … */`) is none.
fn without_comments(mut sql: &[u8]) -> &[u8] {
    loop {
        sql = sql.trim_ascii_start();
        let end = match sql {
            [b'/', b'*', b'!', ..] | [b'/', b'*', b'M', b'!', ..] => return sql,
            [b'/', b'*', rest @ ..] => rest.windows(2).position(|pair| pair == b"*/").map(|at| at + 4),
            [b'#', ..] | [b'-', b'-', b' ' | b'\t' | b'\n', ..] => {
                Some(sql.iter().position(|byte| *byte == b'\n').unwrap_or(sql.len()))
            }
            _ => return sql,
        };
        sql = end.and_then(|end| sql.get(end..)).unwrap_or_default();
    }
}

/// The first word, in capitals, and what follows it.
fn word(sql: &[u8]) -> (String, &[u8]) {
    let end = sql.iter().position(|byte| !byte.is_ascii_alphabetic()).unwrap_or(sql.len());
    let (word, rest) = sql.split_at(end);
    (String::from_utf8_lossy(word).to_ascii_uppercase(), rest)
}

fn contains(sql: &[u8], name: &[u8]) -> bool {
    !name.is_empty() && sql.windows(name.len()).any(|part| part.eq_ignore_ascii_case(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(sql: &str) -> Effect {
        effect(sql.as_bytes(), "shop", &[("shop", "users"), ("hr", "orgs")])
    }

    #[test]
    fn definitions_count_for_the_tables_that_they_name() {
        for sql in [
            "TRUNCATE users",
            "alter table `Users` add column x int",
            "DROP TABLE IF EXISTS a, shop.users",
            "RENAME TABLE fresh TO users, users TO old",
            "/* nightly */ CREATE OR REPLACE TABLE users (id INT)",
            "-- by hand\nTRUNCATE TABLE `HR`.orgs",
            "DROP DATABASE shop",
        ] {
            assert_eq!(of(sql), Effect::Alters, "{sql}");
        }
        for sql in [
            "CREATE TABLE other (id INT)",
            "DROP DATABASE else",
            "GRANT SELECT ON shop.users TO a",
            "TRUNCATE t",
            "TRUNCATE orgs",
        ] {
            assert_eq!(of(sql), Effect::None, "{sql}");
        }
        // Its bytes in the log may be those of another character set.
        assert_eq!(effect(b"TRUNCATE t", "shop", &[("shop", "größen")]), Effect::Alters);
    }

    #[test]
    fn ends_of_transactions_are_known() {
        for sql in ["BEGIN", "SAVEPOINT a", "ROLLBACK TO a", "XA START 'a'", "XA ROLLBACK 'a'", "# Dummy event", ""] {
            assert_eq!(of(sql), Effect::None, "{sql}");
        }
        assert_eq!((of("COMMIT"), of("rollback")), (Effect::Ends, Effect::Ends));
        assert_eq!(of("XA COMMIT X'61',X'',1"), Effect::EndsUnreadable);
    }

    #[test]
    fn changes_of_rows_as_text_are_unreadable_whatever_they_name() {
        for sql in [
            "UPDATE a_view SET x = 1",
            "/*! UPDATE users SET x = 1 */",
            "(SELECT 1)",
            "CALL p()",
            "SET STATEMENT a=1 FOR DELETE FROM t",
        ] {
            assert_eq!(of(sql), Effect::Unreadable, "{sql}");
        }
    }
}
