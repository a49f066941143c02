//! Loaders of tests: how they are set up, and what they answer.

use bytes::Bytes;
use leasehold_loader_api::{LoadError, LoadRequest, Loaded, Loader, Row};
use leasehold_loader_sql::{LoaderSettings, SqlLoader};

/// A loader that asks for one key at a time.
#[must_use]
pub fn single(pattern: &str, sql: &str) -> LoaderSettings {
    LoaderSettings::new("test", pattern, sql)
}

/// A loader that asks for many keys in one query, too.
#[must_use]
pub fn batched(pattern: &str, sql: &str, batch_sql: &str) -> LoaderSettings {
    LoaderSettings { batch_sql: Some(batch_sql.into()), ..single(pattern, sql) }
}

/// What these keys are, one answer for each.
pub async fn load(loader: &SqlLoader, keys: &[&str]) -> Vec<Loaded> {
    let keys = keys.iter().map(|key| Bytes::copy_from_slice(key.as_bytes())).collect();
    loader.load(LoadRequest { keys }).await
}

/// What a key is.
///
/// # Panics
/// If there is no answer.
pub async fn load_one(loader: &SqlLoader, key: &str) -> Loaded {
    load(loader, &[key]).await.pop().expect("one answer per key")
}

/// A value without a version.
pub fn value(text: &str) -> Loaded {
    versioned(text, None)
}

/// A value with its version.
pub fn versioned(text: &str, version: Option<u64>) -> Loaded {
    Ok(Row::Value { value: Bytes::copy_from_slice(text.as_bytes()), version, tags: Vec::new() })
}

/// A row of `users` as JSON.
pub fn user(id: u64) -> Loaded {
    value(&format!(r#"{{"id":{id},"name":"user {id}"}}"#))
}

/// Why the database refused a load.
///
/// # Panics
/// If it did not.
#[must_use]
pub fn refused(answer: &Loaded) -> &str {
    match answer {
        Err(LoadError::Rejected(reason)) => reason,
        other => panic!("not refused: {other:?}"),
    }
}
