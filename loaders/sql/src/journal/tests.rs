//! The journal against a model of it, and against disks that fail.

use super::*;
use bytes::Bytes;
use proptest::prelude::*;

struct Setup {
    directory: tempfile::TempDir,
    settings: JournalSettings,
}

impl Setup {
    fn new(fsync: Fsync) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let settings =
            JournalSettings { directory: directory.path().join("j"), fsync, segment_bytes: 400, bytes_max: 1 << 20 };
        Self { directory, settings }
    }

    /// The journal, and what is in it.
    fn open(&self) -> (Journal, Vec<(u64, JournalChange)>) {
        let mut found = Vec::new();
        let journal = Journal::open(self.settings.clone(), |number, change| found.push((number, change)));
        (journal.expect("as it was written"), found)
    }

    fn error(&self) -> String {
        Journal::open(self.settings.clone(), |_, _| {}).expect_err("it is damaged").to_string()
    }

    fn segments(&self) -> Vec<PathBuf> {
        let entries = std::fs::read_dir(&self.settings.directory).expect("there");
        let mut paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
        paths.retain(|path| ordinal_of(path).is_some());
        paths.sort();
        paths
    }
}

fn change(text: &str) -> JournalChange {
    let key = Bytes::from(format!("user:{text}"));
    JournalChange { loader: "user".into(), db: 0, key, value: Some(Bytes::copy_from_slice(text.as_bytes())) }
}

fn put(journal: &mut Journal, texts: &[&str]) -> Result<u64, AppendError> {
    let changes: Vec<JournalChange> = texts.iter().map(|text| change(text)).collect();
    journal.append(changes.iter())
}

fn texts(found: &[(u64, JournalChange)]) -> Vec<String> {
    let text =
        |change: &JournalChange| String::from_utf8_lossy(change.value.as_deref().unwrap_or_default()).into_owned();
    found.iter().map(|(_, change)| text(change)).collect()
}

#[test]
fn a_copy_of_the_directory_gives_other_numbers() {
    let (one, other) = (Setup::new(Fsync::Always), Setup::new(Fsync::Always));
    let (mut journal, _) = one.open();
    journal.append([change("a")].iter()).expect("the disk is good");
    drop(journal);
    std::fs::create_dir(&other.settings.directory).expect("the directory is ours");
    for file in std::fs::read_dir(&one.settings.directory).expect("it is there").flatten() {
        std::fs::copy(file.path(), other.settings.directory.join(file.file_name())).expect("it can be copied");
    }
    let ((mut journal, found), (mut copy, copied)) = (one.open(), other.open());
    assert_eq!((journal.identity(), found), (copy.identity(), copied));
    assert_eq!(journal.range_start(), copy.range_start());
    let first = journal.append([change("b")].iter()).expect("the disk is good");
    assert!(first > journal.range_start());
    assert_ne!(copy.append([change("b")].iter()), Ok(first));
}

#[test]
fn what_was_written_is_there_at_the_next_start_under_its_numbers() {
    let setup = Setup::new(Fsync::Always);
    let (mut journal, found) = setup.open();
    assert_eq!(found, []);
    let identity = journal.identity();
    let first = put(&mut journal, &["a", "b"]).expect("written");
    assert_eq!(put(&mut journal, &["c"]), Ok(first + 2));
    drop(journal);
    let (mut journal, found) = setup.open();
    assert_eq!(found.iter().map(|(number, _)| *number).collect::<Vec<_>>(), [first, first + 1, first + 2]);
    assert_eq!((texts(&found), journal.identity()), (vec!["a".into(), "b".into(), "c".into()], identity));
    assert!(put(&mut journal, &["d"]).expect("written") > first + 1000, "numbers of a start are its own");
}

#[test]
fn a_directory_has_one_user_at_a_time() {
    let setup = Setup::new(Fsync::Never);
    let (journal, _) = setup.open();
    assert!(setup.error().contains("another process uses this journal"));
    drop(journal);
    setup.open();
}

#[test]
fn a_journal_cut_at_every_byte_of_its_last_record_keeps_all_others() {
    let setup = Setup::new(Fsync::Always);
    let (mut journal, _) = setup.open();
    put(&mut journal, &["a"]).expect("written");
    put(&mut journal, &["b", "c"]).expect("written");
    let before = journal.active.len;
    put(&mut journal, &["the last one"]).expect("written");
    drop(journal);
    let path = setup.segments().pop().expect("one");
    let whole = std::fs::read(&path).expect("there");
    for end in before as usize..whole.len() {
        let other = Setup::new(Fsync::Always);
        std::fs::create_dir_all(&other.settings.directory).expect("ours");
        std::fs::copy(setup.settings.directory.join("identity"), other.settings.directory.join("identity"))
            .expect("ours");
        std::fs::write(other.settings.directory.join(path.file_name().expect("named")), &whole[..end]).expect("ours");
        let (mut journal, found) = other.open();
        assert_eq!(texts(&found), ["a", "b", "c"], "cut at {end}");
        put(&mut journal, &["d"]).expect("written");
        drop(journal);
        assert_eq!(texts(&other.open().1), ["a", "b", "c", "d"], "cut at {end}");
    }
}

#[test]
fn damage_in_the_middle_is_told_with_file_and_place() {
    let setup = Setup::new(Fsync::Always);
    let (mut journal, _) = setup.open();
    put(&mut journal, &["a"]).expect("written");
    let place = journal.active.len;
    put(&mut journal, &["b"]).expect("written");
    put(&mut journal, &["c"]).expect("written");
    drop(journal);
    let path = setup.segments().pop().expect("one");
    let whole = std::fs::read(&path).expect("there");
    let mut bytes = whole.clone();
    bytes[place as usize + 30] ^= 4;
    std::fs::write(&path, &bytes).expect("ours");
    let text = setup.error();
    assert!(
        text.contains("00000000000000000001.journal: damaged at byte") && text.contains(&place.to_string()),
        "{text}"
    );
    // In a segment that another follows even the last record must be whole.
    std::fs::write(&path, &whole).expect("ours");
    drop(setup.open());
    std::fs::write(&path, &whole[..whole.len() - 1]).expect("ours");
    assert!(setup.error().contains("the file ends here"));
    std::fs::remove_file(&path).expect("ours");
    let (journal, found) = setup.open();
    assert_eq!(found, [], "the oldest may be gone: it was flushed");
    drop(journal);
    drop(setup.open());
    std::fs::remove_file(&setup.segments()[1]).expect("ours");
    assert!(setup.error().contains("the segment before this one is missing"));
    std::fs::write(&setup.segments()[0], b"something else").expect("ours");
    assert!(setup.error().contains("no header"));
}

#[test]
fn segments_go_when_all_in_them_is_flushed_and_never_before() {
    let setup = Setup::new(Fsync::Always);
    let (mut journal, _) = setup.open();
    let numbers: Vec<u64> = (0..40).map(|text| put(&mut journal, &[&text.to_string()]).expect("written")).collect();
    let count = setup.segments().len();
    assert!(count > 3, "{count} segments");
    journal.release(numbers[20]).expect("deleted");
    assert!(setup.segments().len() < count);
    drop(journal);
    let (mut journal, found) = setup.open();
    assert!(texts(&found).ends_with(&(20..40).map(|text| text.to_string()).collect::<Vec<_>>()));
    journal.release(u64::MAX).expect("deleted");
    let bytes = journal.bytes();
    drop(journal);
    assert!(bytes < 200, "{bytes} bytes");
    assert_eq!(setup.open().1, []);
}

#[test]
fn a_full_journal_says_so_and_takes_changes_again_when_there_is_room() {
    let mut setup = Setup::new(Fsync::Always);
    setup.settings.bytes_max = 2_000;
    let (mut journal, _) = setup.open();
    let mut written = 0;
    while put(&mut journal, &["x"]).is_ok() {
        written += 1;
        assert!(journal.bytes() <= 2_000);
    }
    assert_eq!(put(&mut journal, &["y"]), Err(AppendError::Full));
    journal.release(u64::MAX).expect("deleted");
    put(&mut journal, &["z"]).expect("there is room");
    assert!(written > 20);
}

#[test]
fn a_full_disk_refuses_and_nothing_that_was_answered_is_lost() {
    let mut setup = Setup::new(Fsync::Always);
    // A file that is followed by another because it is long enough would take its faults along.
    setup.settings.segment_bytes = 1 << 20;
    for no_cut in [false, true] {
        let (mut journal, _) = setup.open();
        put(&mut journal, &["a"]).expect("written");
        for room in 0..60 {
            journal.active.faults.len_max = Some(journal.active.len + room);
            journal.active.faults.no_cut = no_cut;
            let ordinal = journal.active.ordinal;
            match put(&mut journal, &["too long for the disk that there is here"]) {
                Err(AppendError::Refused(text)) => assert!(text.contains("cannot be written"), "{text}"),
                other => panic!("{other:?}"),
            }
            assert_eq!(journal.active.ordinal > ordinal, no_cut, "a file that cannot be cut is left alone");
            journal.active.faults = segment::Faults::default();
            put(&mut journal, &["b"]).expect("there is room again");
        }
        drop(journal);
        let (mut journal, found) = setup.open();
        assert_eq!(texts(&found)[0], "a");
        assert_eq!(texts(&found)[1..], vec!["b".to_owned(); 60]);
        journal.release(u64::MAX).expect("deleted");
    }
}

#[test]
fn a_failed_sync_refuses_and_is_not_tried_again_on_that_file() {
    let setup = Setup::new(Fsync::Always);
    let (mut journal, _) = setup.open();
    put(&mut journal, &["a"]).expect("written");
    journal.active.faults.no_sync = true;
    assert!(matches!(put(&mut journal, &["b"]), Err(AppendError::Refused(text)) if text.contains("cannot be synced")));
    put(&mut journal, &["c"]).expect("in another file");
    assert_eq!(setup.segments().len(), 2);
    drop(journal);
    let (_, found) = setup.open();
    assert_eq!(texts(&found), ["a", "c"], "what was refused does not come back");
}

#[test]
fn what_was_answered_before_a_sync_that_fails_is_written_again() {
    let setup = Setup::new(Fsync::EverySecond);
    let (mut journal, _) = setup.open();
    put(&mut journal, &["a"]).expect("written");
    journal.sync().expect("on the disk");
    let second = put(&mut journal, &["b"]).expect("written");
    put(&mut journal, &["c"]).expect("written");
    assert!(journal.is_unsynced());
    journal.active.faults.no_sync = true;
    journal.sync().expect("in another file");
    assert!(!journal.is_unsynced());
    put(&mut journal, &["d"]).expect("written");
    drop(journal);
    let (_, found) = setup.open();
    assert_eq!((texts(&found).concat().as_str(), found[1].0), ("abcd", second));
    // All of a file may be unsynced.
    let setup = Setup::new(Fsync::EverySecond);
    let (mut journal, _) = setup.open();
    put(&mut journal, &["a"]).expect("written");
    journal.active.faults.no_sync = true;
    journal.sync().expect("in another file");
    drop(journal);
    assert_eq!(texts(&setup.open().1), ["a"]);
}

#[test]
fn without_a_directory_to_write_to_the_outcome_is_unknown_and_the_journal_lives_on() {
    let setup = Setup::new(Fsync::Always);
    let (mut journal, _) = setup.open();
    journal.active.faults.no_sync = true;
    let away = setup.directory.path().join("away");
    std::fs::rename(&setup.settings.directory, &away).expect("ours");
    assert!(matches!(put(&mut journal, &["a"]), Err(AppendError::Unknown(text)) if text.contains("no new segment")));
    assert!(matches!(put(&mut journal, &["b"]), Err(AppendError::Unknown(_))));
    std::fs::rename(&away, &setup.settings.directory).expect("ours");
    put(&mut journal, &["c"]).expect("the directory is back");
    drop(journal);
    assert_eq!(texts(&setup.open().1), ["c"]);
}

/// What a test does to a journal.
#[derive(Clone, Debug)]
enum Step {
    Put(Vec<u8>),
    /// A write that finds so many bytes of room.
    PutInto(u64),
    FailSync,
    Sync,
    /// Flushed up to this share of what there is.
    Release(u8),
    Restart,
    /// A crash in a write, of which so much is left.
    Tear(u8),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => prop::collection::vec(any::<u8>(), 1..4).prop_map(Step::Put),
        1 => (0..60_u64).prop_map(Step::PutInto),
        1 => Just(Step::FailSync),
        2 => Just(Step::Sync),
        2 => any::<u8>().prop_map(Step::Release),
        1 => Just(Step::Restart),
        1 => any::<u8>().prop_map(Step::Tear),
    ]
}

proptest! {
    #[test]
    fn whatever_happens_what_was_answered_and_not_released_is_there_in_order(
        steps in prop::collection::vec(step(), 1..60),
        fsync in prop::sample::select(vec![Fsync::Always, Fsync::EverySecond, Fsync::Never]),
    ) {
        let setup = Setup::new(fsync);
        let (mut journal, _) = setup.open();
        // Answered and not released, and what was released and may still be there.
        let mut model: Vec<(u64, JournalChange)> = Vec::new();
        let mut released: Vec<(u64, JournalChange)> = Vec::new();
        let check = |found: &[(u64, JournalChange)], model: &[_], released: &[(u64, JournalChange)]| {
            let kept: Vec<_> = found.iter().filter(|record| !released.contains(record)).cloned().collect();
            assert_eq!(kept, model);
            assert!(found.is_sorted_by(|a, b| a.0 < b.0));
        };
        for step in steps {
            match step {
                Step::Put(values) => {
                    let changes: Vec<JournalChange> = values.iter().map(|value| change(&value.to_string())).collect();
                    let first = journal.append(changes.iter()).expect("the disk is good");
                    model.extend((first..).zip(changes));
                }
                Step::PutInto(room) => {
                    journal.active.faults.len_max = Some(journal.active.len + room);
                    let result = put(&mut journal, &["longer than the room that there may be for it"]);
                    if let Ok(first) = result {
                        model.push((first, change("longer than the room that there may be for it")));
                    }
                    journal.active.faults.len_max = None;
                }
                Step::FailSync => {
                    journal.active.faults.no_sync = true;
                    if let Ok(first) = put(&mut journal, &["s"]) {
                        model.push((first, change("s")));
                    }
                    journal.sync().expect("in another file");
                    journal.active.faults.no_sync = false;
                }
                Step::Sync => journal.sync().expect("the disk is good"),
                Step::Release(share) => {
                    let count = model.len() * usize::from(share) / 255;
                    released.extend(model.drain(..count));
                    let number = model.first().map_or(u64::MAX, |(number, _)| *number);
                    journal.release(number).expect("deleted");
                }
                Step::Restart => {
                    drop(journal);
                    let (again, found) = setup.open();
                    check(&found, &model, &released);
                    journal = again;
                }
                Step::Tear(len) => {
                    let mut torn = Vec::new();
                    let last = journal.last();
                    frames::encode(&mut torn, last + 1, last, |out| change("torn").encode(out));
                    torn.truncate(usize::from(len) % torn.len());
                    journal.active.append(&torn).expect("the disk is good");
                    drop(journal);
                    let (again, found) = setup.open();
                    check(&found, &model, &released);
                    journal = again;
                }
            }
        }
        drop(journal);
        check(&setup.open().1, &model, &released);
    }
}
