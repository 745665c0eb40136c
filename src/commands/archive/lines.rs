//! An export as lines of JSON.
//!
//! It refuses to know what a line says, which is `ndjson`'s. **Invariant:** a line that is too long costs
//! only itself.

use std::io::{self, BufRead, Read};
use std::ops::ControlFlow;

use super::item::{Item, Wrong};
use crate::ndjson;

pub(super) fn read(
    mut input: impl BufRead,
    line_bytes_max: usize,
    mut each: impl FnMut(Item) -> ControlFlow<()>,
) -> io::Result<()> {
    let mut line = Vec::new();
    let mut offset = 0;
    for number in 1.. {
        line.clear();
        let limit = line_bytes_max as u64;
        let read = input.by_ref().take(limit).read_until(b'\n', &mut line)?;
        if read == 0 {
            break;
        }
        offset += read as u64;
        let mut is_whole = line.ends_with(b"\n");
        let content = if read == line_bytes_max && !is_whole {
            let skipped = input.skip_until(b'\n')?;
            offset += skipped as u64;
            is_whole = skipped > 0;
            Err(Wrong::TooLarge(line_bytes_max))
        } else {
            ndjson::read(&line).map_err(Wrong::from)
        };
        let end = is_whole.then_some(offset);
        if each(Item {
            number,
            content,
            end,
        })
        .is_break()
        {
            break;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::Message;

    #[test]
    fn a_line_that_is_too_long_is_refused_and_the_next_one_is_read() {
        let mut lines = Vec::new();
        for text in ["x".repeat(100), "y".repeat(101), "z".into()] {
            ndjson::write(&mut lines, &Message::new(text));
        }
        let first = lines.iter().position(|&byte| byte == b'\n').unwrap() + 1;
        let mut items = Vec::new();
        read(lines.as_slice(), first, |item| {
            items.push(item);
            ControlFlow::Continue(())
        })
        .unwrap();
        assert!(items[0].content.is_ok());
        assert_eq!(items[1].content, Err(Wrong::TooLarge(first)));
        assert_eq!(items[1].end, Some(2 * first as u64 + 1));
        assert!(items[2].content.is_ok());
        assert_eq!(items[2].end, Some(lines.len() as u64));
    }
}
