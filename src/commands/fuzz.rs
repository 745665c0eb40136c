//! Archives that others wrote, thrown at what imports them; see [`crate::fuzz`].

use std::io::{self, BufRead, BufReader, Read};
use std::ops::ControlFlow;

use super::archive::{self, Form, Item, Writer, decompressed};
use crate::message::Message;

/// Largest message that is taken, in bytes: smaller than the inputs that a fuzzer makes.
const MESSAGE_BYTES_MAX: usize = 1000;

/// What is read of an archive that is compressed, in bytes.
const DECOMPRESSED_BYTES_MAX: u64 = 16 << 20;

/// An archive in either form.
pub fn imports(bytes: &[u8]) {
    // However it is compressed: as much as a few large messages.
    if let Ok(content) = decompressed(io::Cursor::new(bytes.to_vec())) {
        let _ = io::copy(&mut content.take(DECOMPRESSED_BYTES_MAX), &mut io::sink());
    }
    let Some(guessed) = Form::of(bytes) else {
        return;
    };
    for form in [Form::Lines, Form::Tar] {
        let (items, result) = read(form, bytes);
        // As it comes from a slow pipe.
        let (trickled, _) = read(form, BufReader::with_capacity(1, bytes));
        assert_eq!(format!("{trickled:?}"), format!("{items:?}"));
        // Where one ends and the next begins only grows; it is what a bar shows and where an export goes on.
        let numbers = items.iter().map(|item| item.number);
        assert!(numbers.is_sorted_by(|one, next| one < next));
        let ends = items.iter().filter_map(|item| item.end);
        assert!(ends.is_sorted_by(|one, next| one < next));
        let is_kept = |item: Item| item.content.ok();
        let messages: Vec<_> = items.into_iter().filter_map(is_kept).collect();
        for message in &messages {
            assert!(message.as_bytes().len() <= MESSAGE_BYTES_MAX);
        }
        if result.is_ok() && form == guessed {
            for form in [Form::Lines, Form::Tar] {
                write_and_read(form, &messages);
            }
        }
    }
}

fn read(form: Form, input: impl BufRead) -> (Vec<Item>, io::Result<()>) {
    let mut items = Vec::new();
    let result = archive::read(form, input, MESSAGE_BYTES_MAX, |item| {
        items.push(item);
        ControlFlow::Continue(())
    });
    (items, result)
}

/// What was read can be exported again, and is the same then.
fn write_and_read(form: Form, messages: &[Message]) {
    let mut archive = Vec::new();
    let mut writer = Writer::new(form, &mut archive, Vec::new());
    for message in messages {
        assert!(writer.append(message).is_ok());
    }
    assert!(writer.finish().is_ok());
    let (items, result) = read(form, &*archive);
    assert!(result.is_ok());
    let again: Vec<_> = items
        .iter()
        .filter_map(|it| it.content.as_ref().ok())
        .collect();
    assert!(again.into_iter().eq(messages));
}
