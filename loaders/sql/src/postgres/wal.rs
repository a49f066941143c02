//! Where the write-ahead log ends.

use sqlx::Row;
use sqlx::postgres::PgRow;

/// Columns for [`end_of_log`]. What is inserted, not what is flushed: with `synchronous_commit = off` others see a commit before it is on
/// disk.
pub(crate) const END_OF_LOG: &str = "(pg_current_wal_insert_lsn() - '0/0')::int8 AS wal_next, \
    current_setting('wal_block_size')::int8 AS wal_block, \
    pg_size_bytes(current_setting('wal_segment_size')) AS wal_segment";

/// Behind the last record, by a row with the columns [`END_OF_LOG`].
///
/// # Errors
/// It has not.
pub(crate) fn end_of_log(row: &PgRow) -> Result<u64, sqlx::Error> {
    let end = end_of_records(row.try_get("wal_next")?, row.try_get("wal_block")?, row.try_get("wal_segment")?);
    Ok(end.cast_unsigned())
}

/// Where records end, by where the next will begin. That is behind the header of its page, which nobody who follows the log reads
/// before there is a record on it.
fn end_of_records(next: i64, block: i64, segment: i64) -> i64 {
    const PAGE_HEADER: i64 = 24;
    const SEGMENT_HEADER: i64 = 40;
    match (next % segment, next % block) {
        (SEGMENT_HEADER, _) => next - SEGMENT_HEADER,
        (offset, PAGE_HEADER) if offset > block => next - PAGE_HEADER,
        _ => next,
    }
}

#[cfg(test)]
mod tests {
    use super::end_of_records;

    #[test]
    fn records_end_before_the_header_of_an_empty_page() {
        const BLOCK: i64 = 8192;
        const SEGMENT: i64 = 16 << 20;
        for (next, end) in [
            (SEGMENT + 40, SEGMENT),
            (SEGMENT + BLOCK + 24, SEGMENT + BLOCK),
            (SEGMENT + BLOCK + 40, SEGMENT + BLOCK + 40),
            (SEGMENT + 48, SEGMENT + 48),
            (SEGMENT + 5 * BLOCK + 4096, SEGMENT + 5 * BLOCK + 4096),
        ] {
            assert_eq!(end_of_records(next, BLOCK, SEGMENT), end, "{next:#x}");
        }
    }
}
