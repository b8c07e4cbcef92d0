//! Single records of a chat's file, each checked when it is read.

use std::ops::RangeInclusive;

use redb::{ReadOnlyTable, ReadableTable as _};

use super::database::Problem;
use super::schema::{self, Table as Tag};
use crate::protocol::types::{Entry, Index, Submission};

/// What the record of that name says.
pub(super) fn get_state<T>(
    table: &ReadOnlyTable<&str, &[u8]>,
    name: &str,
    decode: impl FnOnce(&[u8]) -> Option<T>,
) -> Result<T, Problem> {
    let value = table.get(name)?;
    value
        .as_ref()
        .and_then(|value| schema::payload(Tag::State, name.as_bytes(), value.value()))
        .and_then(decode)
        .ok_or_else(|| Problem::damaged(format!("the record `{name}` is bad or missing")))
}

/// The entry in a record of `ENTRIES`; `None` if its checksum, form or index is wrong.
pub(super) fn decode_entry(index: Index, value: &[u8]) -> Option<Entry> {
    schema::payload(Tag::Entries, &index.to_be_bytes(), value)
        .and_then(Entry::decode)
        .filter(|entry| entry.index == index)
}

/// The submissions of a table, which must be exactly those in `places`.
pub(super) fn read_submissions(
    table: &ReadOnlyTable<u64, &[u8]>,
    tag: Tag,
    places: RangeInclusive<u64>,
) -> Result<Vec<Submission>, Problem> {
    let mut records = table.iter()?;
    let mut submissions = Vec::new();
    for place in places {
        let submission = records
            .next()
            .transpose()?
            .filter(|(key, _)| key.value() == place)
            .and_then(|(_, value)| decode_submission(tag, place, value.value()))
            .ok_or_else(|| Problem::damaged(format!("submission {place} is bad or missing")))?;
        submissions.push(submission);
    }
    match records.next() {
        None => Ok(submissions),
        Some(_) => Err(Problem::damaged("there is a submission too many")),
    }
}

/// The submission in a record of `OUTBOX` or `CARRIED`; `None` if its checksum or form is wrong, or
/// it is another one's.
pub(super) fn decode_submission(tag: Tag, place: u64, value: &[u8]) -> Option<Submission> {
    schema::payload(tag, &place.to_be_bytes(), value)
        .and_then(Submission::decode)
        .filter(|submission| !matches!(tag, Tag::Outbox) || submission.number == place)
}
