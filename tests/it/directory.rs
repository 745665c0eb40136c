//! Which directories a store refuses: those of others, of a newer version, of another process, and
//! those whose segments are too small. A refused directory is left as it is.

use digestd::store::{OpenError, Options};

use crate::store_support::{
    Data, MESSAGE_BYTES_MAX, SEGMENT_BYTES, assert_holds, close, options, texts,
};

#[test]
fn a_newer_format_is_refused() {
    let data = Data::with(&texts(0..3));
    data.write("FORMAT", "digestd store 2\nsomething new\n");
    let error = data.claim().unwrap_err();
    assert!(matches!(error, OpenError::NewerFormat { found: 2, .. }));
    assert!(error.to_string().contains("has format 2"));
}

#[test]
fn a_directory_whose_format_is_not_ours_is_refused_and_left_alone() {
    for format in [
        "",
        "rubbish",
        "digestd store\n",
        "digestd store 0\nsegment-size 65536\n",
        "digestd store 1\n",
        "digestd store 1\nsegment-size many\n",
        "digestd store -1\nsegment-size 65536\n",
    ] {
        let data = Data::with(&texts(0..3));
        let log = data.log();
        data.write("FORMAT", format);
        let error = data.claim().unwrap_err();
        assert!(matches!(error, OpenError::Foreign { .. }), "{format:?}");
        assert_eq!(data.read("FORMAT"), format.as_bytes());
        assert!(data.log() == log);
    }
}

#[test]
fn a_log_without_a_format_is_refused() {
    let data = Data::with(&texts(0..3));
    data.remove("FORMAT");
    let error = data.claim().unwrap_err();
    assert!(matches!(error, OpenError::Foreign { .. }));
    assert!(!data.has("FORMAT"));
}

/// One flipped bit turns 65536 into another number of five digits.
#[test]
fn a_segment_size_that_was_changed_costs_no_message() {
    let texts = texts(0..300);
    let data = Data::with(&texts);
    for (index, size) in [
        (true, "25536"),
        (false, "25536"),
        (true, "65537"),
        (false, "65537"),
    ] {
        println!("{size}, index kept: {index}");
        let copy = data.copy();
        copy.write("FORMAT", format!("digestd store 1\nsegment-size {size}\n"));
        if !index {
            copy.leave_only_the_log();
        }
        let small = Options {
            message_bytes_max: 10_000,
            ..options()
        };
        // Refusing it is as good as working with it.
        let _ = copy.try_open(small);
        copy.take("FORMAT", &data);
        let store = copy.open();
        assert_holds(&store, &texts);
    }
}

#[test]
fn a_directory_is_held_by_one_store_at_a_time() {
    let data = Data::new();
    let store = data.open();
    let error = data.claim().unwrap_err();
    let OpenError::Held { holder, .. } = &error else {
        panic!("{error}");
    };
    let pid = format!("pid {},", std::process::id());
    assert!(holder.starts_with(&pid), "{holder}");
    assert!(error.to_string().contains(&pid));
    close(store);
    data.claim().unwrap();
}

#[test]
fn a_limit_that_no_segment_can_hold_is_refused() {
    let data = Data::with(&texts(0..3));
    let larger = Options {
        message_bytes_max: MESSAGE_BYTES_MAX as u64 + 1,
        ..options()
    };
    let error = data.try_open(larger).unwrap_err();
    assert!(matches!(
        error,
        OpenError::SegmentTooSmall {
            segment_bytes: SEGMENT_BYTES,
            ..
        }
    ));
    data.assert_sound(&texts(0..3));
}
