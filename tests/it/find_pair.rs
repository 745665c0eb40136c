//! The second binary, `find-pair`: answers, refusals, exit codes, and lists larger than its memory.

use std::fs::{self, File, OpenOptions};
use std::io::{BufWriter, Write};
use std::path::PathBuf;
use std::process::{Command, Stdio};

use tempfile::TempDir;

use crate::process::{Outcome, Process, find_pair, on_a_terminal, run, run_without_reader};

const SAMPLE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/data/prices.txt");

#[test]
fn a_pair_is_printed_on_one_line_the_cheaper_first() {
    for (balance, line) in [
        ("2500", "Candy Bar 500, Earmuffs 2000\n"),
        ("2300", "Paperback Book 700, Headphones 1400\n"),
        ("10000", "Earmuffs 2000, Bluetooth Stereo 6000\n"),
        ("1100", "Not possible\n"),
    ] {
        assert_eq!(answer(&[SAMPLE, balance], b""), line);
        assert_eq!(answer(&[SAMPLE, balance, "2"], b""), line);
    }
}

#[test]
fn a_triple_is_printed_on_one_line_the_cheapest_first() {
    for (balance, line) in [
        (
            "2500",
            "Candy Bar 500, Paperback Book 700, Detergent 1000\n",
        ),
        (
            "3700",
            "Paperback Book 700, Detergent 1000, Earmuffs 2000\n",
        ),
        ("1100", "Not possible\n"),
    ] {
        assert_eq!(answer(&[SAMPLE, balance, "3"], b""), line);
    }
}

#[test]
fn a_minus_reads_standard_input() {
    let sample = fs::read(SAMPLE).unwrap();
    let line = answer(&["-", "2500"], &sample);
    assert_eq!(line, "Candy Bar 500, Earmuffs 2000\n");
}

#[test]
fn a_pipe_is_read_like_a_file() {
    let sample = fs::read(SAMPLE).unwrap();
    let line = answer(&["/dev/stdin", "2500", "3"], &sample);
    assert_eq!(line, "Candy Bar 500, Paperback Book 700, Detergent 1000\n");
}

#[test]
fn a_name_is_printed_byte_for_byte() {
    let outcome = run(find_pair().args(["-", "9"]), b"K\xe4se, fett, 3\nWein,4");
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
    assert_eq!(outcome.stdout, b"K\xe4se, fett 3, Wein 4\n");
}

#[test]
fn a_bad_row_is_an_error_with_its_file_and_line() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("prices.txt");
    for (row, reason) in [
        ("Earmuffs 2000", "a column is missing: there is no comma"),
        (", 2000", "the name is missing"),
        ("Earmuffs, -2000", "the price is not a positive integer"),
        (
            "Earmuffs, 99999999999999999999",
            "the price is too large for 64 bits",
        ),
        ("Earmuffs, 20", "the price is lower than the one before"),
    ] {
        let text = format!("Candy Bar, 500\n\n{row}\nBluetooth Stereo, 6000\n");
        fs::write(&path, &text).unwrap();
        for count in ["2", "3"] {
            let sentence = failure(find_pair().arg(&path).args(["1", count]), b"");
            assert_eq!(sentence, format!("{}: line 3: {reason}", path.display()));
            let sentence = failure(find_pair().args(["-", "1", count]), text.as_bytes());
            assert_eq!(sentence, format!("-: line 3: {reason}"));
        }
    }
}

#[test]
fn a_byte_order_mark_is_no_part_of_the_first_name() {
    let sample = fs::read(SAMPLE).unwrap();
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("bom");
    let list = [b"\xef\xbb\xbf", &*sample].concat();
    fs::write(&path, &list).unwrap();
    for file in [path.to_str().unwrap(), "-"] {
        let line = answer(&[file, "2500"], &list);
        assert_eq!(line, "Candy Bar 500, Earmuffs 2000\n");
    }
    let twice = [b"\xef\xbb\xbf\xef\xbb\xbf", &*sample].concat();
    let sentence = failure(find_pair().args(["-", "2500"]), &twice);
    assert!(
        sentence.starts_with("-: line 1: it holds the character U+FEFF"),
        "{sentence}"
    );
}

/// What was made with other line ends, by other programs, or in another encoding: an answer from it would be one
/// from other rows.
#[test]
fn there_is_no_answer_from_a_list_with_control_characters() {
    let sample = fs::read_to_string(SAMPLE).unwrap();
    let first = sample.lines().next().unwrap().to_owned();
    for (list, line, symbol) in [
        (sample.replace('\n', "\r"), 1, "U+000D"),
        (sample.replace('\n', "\r\r\n"), 1, "U+000D"),
        (
            sample.trim_end().to_owned() + "\r",
            sample.lines().count(),
            "U+000D",
        ),
        (sample.replace('\n', "\u{2028}"), 1, "U+2028"),
        (sample.replace('\n', "\u{85}"), 1, "U+0085"),
        (sample.replace('\n', "\u{b}"), 1, "U+000B"),
        (sample.replacen('\n', "\n\u{c}", 1), 2, "U+000C"),
        (
            sample.replacen(&first, &format!("{first}\0"), 1),
            1,
            "U+0000",
        ),
        (sample.replacen(' ', "\t", 1), 1, "U+0009"),
    ] {
        for count in ["2", "3"] {
            let sentence = failure(find_pair().args(["-", "2500", count]), list.as_bytes());
            let start = format!("-: line {line}: it holds the character {symbol}");
            assert!(sentence.starts_with(&start), "{sentence}");
        }
    }
    for to_bytes in [u16::to_le_bytes, u16::to_be_bytes] {
        let units = "\u{feff}".encode_utf16().chain(sample.encode_utf16());
        let list: Vec<_> = units.flat_map(to_bytes).collect();
        let sentence = failure(find_pair().args(["-", "2500"]), &list);
        assert_eq!(sentence, "-: line 1: the list is UTF-16; save it as UTF-8");
        let sentence = failure(find_pair().args(["-", "2500"]), &list[2..]);
        assert!(
            sentence.contains("line 1: it holds the character U+0000"),
            "{sentence}"
        );
    }
    for to_bytes in [u32::to_le_bytes, u32::to_be_bytes] {
        let symbols = "\u{feff}".chars().chain(sample.chars());
        let list: Vec<_> = symbols.map(u32::from).flat_map(to_bytes).collect();
        let sentence = failure(find_pair().args(["-", "2500"]), &list);
        assert_eq!(sentence, "-: line 1: the list is UTF-32; save it as UTF-8");
    }
}

#[test]
fn help_that_cannot_be_written_is_an_error() {
    for option in ["--help", "--version"] {
        let mut command = find_pair();
        let full = OpenOptions::new().write(true).open("/dev/full").unwrap();
        command.arg(option).stdout(full);
        let mut process = Process(command.stderr(Stdio::null()).spawn().unwrap());
        assert_eq!(process.wait().code(), Some(2), "{option}");
        let outcome = run_without_reader(find_pair().arg(option), b"");
        assert_eq!((outcome.code, outcome.stderr.as_str()), (Some(0), ""));
    }
}

#[test]
fn a_reader_that_goes_away_is_no_failure() {
    for count in ["2", "3"] {
        let mut command = find_pair();
        command.args(["-", "2500", count]);
        let outcome = run_without_reader(&mut command, &fs::read(SAMPLE).unwrap());
        assert_eq!((outcome.code, outcome.stderr.as_str()), (Some(0), ""));
    }
}

#[test]
fn what_cannot_be_read_is_named() {
    for path in ["/nowhere/at-all", "/"] {
        let sentence = failure(find_pair().args([path, "1"]), b"");
        assert!(
            sentence.starts_with(&format!("cannot read {path}: ")),
            "{sentence}"
        );
    }
}

#[test]
fn a_wrong_usage_ends_with_2_and_prints_no_answer() {
    for arguments in [
        &[][..],
        &[SAMPLE],
        &[SAMPLE, "much"],
        &[SAMPLE, "-1"],
        &[SAMPLE, "1.5"],
        &[SAMPLE, "18446744073709551616"],
        &[SAMPLE, "2500", "1"],
        &[SAMPLE, "2500", "4"],
        &[SAMPLE, "2500", "2", "more"],
    ] {
        let outcome = run(find_pair().args(arguments), b"");
        assert_eq!(outcome.code, Some(2), "{arguments:?}: {outcome:?}");
        assert_eq!(outcome.stdout, b"");
        assert!(outcome.stderr.starts_with("error: "), "{outcome:?}");
    }
}

#[test]
fn what_is_no_balance_is_told_what_one_is() {
    for (balance, said) in [
        ("much", "a balance is a whole number of cents, like 2500"),
        ("25.00", "a balance is a whole number of cents, like 2500"),
        ("+1", "a balance is a whole number of cents, like 2500"),
        ("18446744073709551616", "it is too large for 64 bits"),
    ] {
        let outcome = run(find_pair().args([SAMPLE, balance]), b"");
        assert!(outcome.stderr.contains(said), "{balance}: {outcome:?}");
    }
}

#[test]
fn an_answer_that_cannot_be_written_is_an_error() {
    let mut command = find_pair();
    let full = OpenOptions::new().write(true).open("/dev/full").unwrap();
    command.args([SAMPLE, "2500"]).stdout(full);
    let mut process = Process(command.stderr(Stdio::null()).spawn().unwrap());
    assert_eq!(process.wait().code(), Some(2));
}

#[test]
fn help_tells_about_arguments_ties_and_exit_codes() {
    let help = answer(&["--help"], b"");
    for text in [
        "<FILE> <BALANCE> [COUNT]",
        "[possible values: 2, 3]",
        "Not possible",
        "furthest apart",
        "Exit codes: 0 ",
    ] {
        assert!(help.contains(text), "{text}\n{help}");
    }
}

#[test]
fn a_list_larger_than_memory_is_searched_and_shows_progress_on_a_terminal_only() {
    let directory = tempfile::tempdir().unwrap();
    let path = large_list(&directory);
    let limited = || {
        let mut command = Command::new("sh");
        // In KiB, of address space: a quarter of the list, with the program and its libraries.
        command
            .args(["-c", "ulimit -v 65536; exec \"$0\" \"$@\""])
            .arg(find_pair().get_program())
            .arg(&path)
            .arg("3001");
        command
    };
    let outcome = run(&mut limited(), b"");
    let length = outcome.stdout.len();
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
    assert!(outcome.stdout.starts_with(b"0 xx"), "{length}");
    assert!(outcome.stdout.ends_with(b"xx 3000\n"), "{length}");
    assert_eq!(outcome.stderr, "");

    assert!(on_a_terminal(&mut limited(), "xterm").contains(" %"));
    // The bar moves the cursor.
    assert_eq!(on_a_terminal(&mut limited(), "dumb"), "");
    let mut small = find_pair();
    small.args([SAMPLE, "2500"]);
    assert_eq!(on_a_terminal(&mut small, "xterm"), "");
}

/// A list of just over 256 MiB: names of 30 kB that cost from 1 on upwards.
fn large_list(directory: &TempDir) -> PathBuf {
    let path = directory.path().join("prices.txt");
    let mut file = BufWriter::new(File::create(&path).unwrap());
    let name = "x".repeat(30_000);
    for number in 0..=(256 << 20) / 30_000 {
        writeln!(file, "{number} {name}, {}", number + 1).unwrap();
    }
    file.into_inner().unwrap();
    assert!(fs::metadata(&path).unwrap().len() > 256 << 20);
    path
}

/// The answer to a command line that must be answered.
fn answer(arguments: &[&str], input: &[u8]) -> String {
    let outcome = run(find_pair().args(arguments), input);
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
    assert_eq!(outcome.stderr, "");
    String::from_utf8(outcome.stdout).unwrap()
}

/// The sentence of a command that must have refused.
fn failure(command: &mut Command, input: &[u8]) -> String {
    let Outcome {
        code,
        stdout,
        stderr,
    } = run(command, input);
    assert_eq!((code, stdout), (Some(2), Vec::new()), "{stderr}");
    let sentence = stderr.strip_prefix("find-pair: ").expect(&stderr);
    sentence.strip_suffix('\n').expect(&stderr).to_owned()
}
