//! What is around an archive: nothing, gzip, or Zstandard.
//!
//! It refuses to know the archive. Read, it is known by its first bytes; written, by the end of its name.
//! **Invariants:** what is decompressed is handed on as it comes, whatever becomes of it, so that a few bytes that stand
//! for many take no more memory than a window; an archive that was cut is an error.

use std::ffi::OsStr;
use std::io::{self, BufRead, BufReader, ErrorKind, Read, Write};
use std::mem;
use std::path::Path;

use flate2::bufread::MultiGzDecoder;
use flate2::write::GzEncoder;
use ruzstd::decoding::errors::{FrameDecoderError, ReadFrameHeaderError};
use ruzstd::decoding::{BlockDecodingStrategy, FrameDecoder};
use ruzstd::encoding::{CompressionLevel, compress};

/// Bytes by which a compression is known.
const MAGIC_BYTES: u64 = 4;

/// Most that a frame of Zstandard may look back, in bytes: what its own program takes unless told otherwise.
const WINDOW_BYTES_MAX: u64 = 128 << 20;

/// Bytes in a frame of Zstandard that is written, which is made in memory.
const FRAME_BYTES: usize = 1 << 20;

/// How an archive is compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::commands) enum Compression {
    None,
    Gzip,
    Zstandard,
}

impl Compression {
    /// What the name of a file promises.
    pub(in crate::commands) fn of_name(path: &Path) -> Self {
        let ending = path.extension().map(OsStr::to_ascii_lowercase);
        match ending.as_ref().and_then(|ending| ending.to_str()) {
            Some("gz") => Self::Gzip,
            Some("zst") => Self::Zstandard,
            _ => Self::None,
        }
    }

    fn of_start(start: &[u8]) -> Self {
        match start {
            [0x1f, 0x8b, ..] => Self::Gzip,
            // A frame, or one that is skipped, with which some programs begin.
            [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Self::Zstandard,
            _ => Self::None,
        }
    }
}

/// What names of files end with that are compressed as here none is.
const OTHER_ENDINGS: [&str; 12] = [
    "xz", "txz", "lzma", "bz2", "tbz", "tbz2", "tgz", "tzst", "lz4", "br", "zip", "7z",
];

/// Whether the name of a file promises a compression that is not written.
pub(in crate::commands) fn is_name_of_another_compression(path: &Path) -> bool {
    let ending = path.extension().and_then(OsStr::to_str);
    let is = |other: &&str| ending.is_some_and(|ending| ending.eq_ignore_ascii_case(other));
    OTHER_ENDINGS.iter().any(is)
}

/// What `start`, if it is that of a file of another compression, is, and what decompresses it.
pub(in crate::commands) fn other_compression(start: &[u8]) -> Option<(&'static str, &'static str)> {
    match start {
        [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => Some(("xz", "xz -dc")),
        [b'B', b'Z', b'h', b'1'..=b'9', ..] => Some(("bzip2", "bzip2 -dc")),
        [0x04, 0x22, 0x4d, 0x18, ..] => Some(("LZ4", "lz4 -dc")),
        [b'P', b'K', 3, 4, ..] => Some(("zip", "unzip -p")),
        _ => None,
    }
}

/// What is in `input`, however it is compressed.
pub(in crate::commands) fn decompressed(
    mut input: impl Read + Send + 'static,
) -> io::Result<Box<dyn Read + Send>> {
    let mut start = Vec::new();
    input.by_ref().take(MAGIC_BYTES).read_to_end(&mut start)?;
    let compression = Compression::of_start(&start);
    let input = io::Cursor::new(start).chain(input);
    Ok(match compression {
        Compression::None => Box::new(input),
        Compression::Gzip => Box::new(MultiGzDecoder::new(BufReader::new(input))),
        Compression::Zstandard => Box::new(ZstandardReader::new(BufReader::new(input))),
    })
}

/// Reads frames of Zstandard, one after the other.
struct ZstandardReader<R> {
    input: R,
    decoder: FrameDecoder,
    is_in_frame: bool,
}

impl<R: BufRead> ZstandardReader<R> {
    fn new(input: R) -> Self {
        let mut decoder = FrameDecoder::new();
        decoder.set_max_window_size(WINDOW_BYTES_MAX);
        Self {
            input,
            decoder,
            is_in_frame: false,
        }
    }

    /// Goes on to the next frame; returns whether there is one.
    fn begin_frame(&mut self) -> io::Result<bool> {
        while !self.input.fill_buf()?.is_empty() {
            match self.decoder.reset(&mut self.input) {
                Ok(()) => {
                    self.is_in_frame = true;
                    return Ok(true);
                }
                Err(FrameDecoderError::ReadFrameHeaderError(ReadFrameHeaderError::SkipFrame {
                    length,
                    ..
                })) => {
                    let length = u64::from(length);
                    let skipped = self.input.by_ref().take(length);
                    if io::copy(&mut { skipped }, &mut io::sink())? < length {
                        return Err(ErrorKind::UnexpectedEof.into());
                    }
                }
                Err(error @ FrameDecoderError::WindowSizeTooBig { .. }) => {
                    return Err(wrong(&error));
                }
                Err(_) => return Err(wrong(&"it is cut short or damaged")),
            }
        }
        Ok(false)
    }

    fn end_frame(&mut self) -> io::Result<()> {
        self.is_in_frame = false;
        let stated = self.decoder.get_checksum_from_data();
        if stated.is_some() && stated != self.decoder.get_calculated_checksum() {
            return Err(wrong(&"a frame does not have its checksum"));
        }
        Ok(())
    }
}

impl<R: BufRead> Read for ZstandardReader<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            if self.is_in_frame {
                let read = self.decoder.read(buffer)?;
                if read > 0 || buffer.is_empty() {
                    return Ok(read);
                }
                if self.decoder.is_finished() {
                    self.end_frame()?;
                } else {
                    let one = BlockDecodingStrategy::UptoBlocks(1);
                    let decoded = self.decoder.decode_blocks(&mut self.input, one);
                    // The errors of a block show the inside of the decoder.
                    decoded.map_err(|_| wrong(&"it is cut short or damaged"))?;
                }
            } else if !self.begin_frame()? {
                return Ok(0);
            }
        }
    }
}

fn wrong(error: &impl ToString) -> io::Error {
    let error = format!("it is no whole Zstandard: {}", error.to_string());
    io::Error::new(ErrorKind::InvalidData, error)
}

/// Compresses what is written to it.
pub(in crate::commands) enum Compressor<W: Write> {
    None(W),
    Gzip(GzEncoder<W>),
    /// With what is to be in the next frame.
    Zstandard(W, Vec<u8>),
}

impl<W: Write> Compressor<W> {
    pub(in crate::commands) fn new(compression: Compression, output: W) -> Self {
        match compression {
            Compression::None => Self::None(output),
            Compression::Gzip => Self::Gzip(GzEncoder::new(output, flate2::Compression::default())),
            Compression::Zstandard => Self::Zstandard(output, Vec::new()),
        }
    }

    /// Writes what comes last.
    pub(in crate::commands) fn finish(self) -> io::Result<()> {
        let mut output = match self {
            Self::None(output) => output,
            Self::Gzip(encoder) => encoder.finish()?,
            Self::Zstandard(mut output, rest) => {
                write_frame(&mut output, &rest)?;
                output
            }
        };
        output.flush()
    }
}

impl<W: Write> Write for Compressor<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::None(output) => output.write(bytes),
            Self::Gzip(encoder) => encoder.write(bytes),
            Self::Zstandard(output, gathered) => {
                let taken = bytes.len().min(FRAME_BYTES - gathered.len());
                gathered.extend(bytes.iter().take(taken));
                if gathered.len() == FRAME_BYTES {
                    write_frame(output, &mem::take(gathered))?;
                }
                Ok(taken)
            }
        }
    }

    /// Not a frame for each piece: only the end flushes.
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn write_frame(output: &mut impl Write, bytes: &[u8]) -> io::Result<()> {
    // Into memory, since it takes a failure to write for impossible.
    let mut frame = Vec::new();
    compress(bytes, &mut frame, CompressionLevel::Fastest);
    output.write_all(&frame)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [Compression; 3] = [Compression::None, Compression::Gzip, Compression::Zstandard];

    fn compressed(compression: Compression, bytes: &[u8]) -> Vec<u8> {
        let mut output = Vec::new();
        let mut compressor = Compressor::new(compression, &mut output);
        compressor.write_all(bytes).unwrap();
        compressor.finish().unwrap();
        output
    }

    fn read(bytes: &[u8]) -> io::Result<Vec<u8>> {
        let mut read = Vec::new();
        decompressed(io::Cursor::new(bytes.to_vec()))?.read_to_end(&mut read)?;
        Ok(read)
    }

    /// Neither all alike nor all different, on both sides of what is in a frame.
    fn contents() -> Vec<Vec<u8>> {
        [
            0,
            1,
            FRAME_BYTES - 1,
            FRAME_BYTES,
            FRAME_BYTES + 1,
            3 * FRAME_BYTES + 7,
        ]
        .map(|bytes| {
            (0..bytes)
                .map(|n| (n * n / 1000 % 251).to_le_bytes()[0])
                .collect()
        })
        .to_vec()
    }

    #[test]
    fn what_is_compressed_is_read_back_and_known_by_its_first_bytes() {
        for compression in ALL {
            for content in contents() {
                let archive = compressed(compression, &content);
                assert!(read(&archive).unwrap() == content, "{compression:?}");
                // As `cat` makes it.
                let twice = [&*archive, &archive].concat();
                assert!(
                    read(&twice).unwrap() == content.repeat(2),
                    "{compression:?}"
                );
            }
        }
        let skipped = b"\x5a\x2a\x4d\x18\x03\0\0\0xyz";
        let archive = [
            &skipped[..],
            &compressed(Compression::Zstandard, b"foo"),
            skipped,
        ]
        .concat();
        assert_eq!(read(&archive).unwrap(), b"foo");
    }

    #[test]
    fn what_was_cut_or_changed_is_an_error() {
        let content = &contents()[4];
        for compression in [Compression::Gzip, Compression::Zstandard] {
            let archive = compressed(compression, content);
            for bytes in [5, 12, archive.len() / 2, archive.len() - 1] {
                let error = read(&archive[..bytes]).unwrap_err().to_string();
                // The name of an error of a decoder is no text.
                assert!(!error.contains("Error"), "{compression:?} {bytes} {error}");
            }
            let mut archive = archive;
            // Within the checksum.
            let place = archive.len() - 5;
            archive[place] ^= 1;
            assert!(read(&archive).is_err(), "{compression:?}");
        }
    }

    #[test]
    fn a_few_bytes_that_stand_for_many_are_read_as_they_come() {
        // A frame without a checksum, whose blocks say `x` 128 Ki times each.
        let mut bomb = b"\x28\xb5\x2f\xfd\x00\x58".to_vec();
        for _ in 0..20_000 {
            bomb.extend_from_slice(&[0x02, 0x00, 0x10, b'x']);
        }
        let mut reader = decompressed(io::Cursor::new(bomb)).unwrap();
        let mut piece = vec![0; 1 << 20];
        reader.read_exact(&mut piece).unwrap();
        assert!(piece.iter().all(|&byte| byte == b'x'));
    }

    #[test]
    fn the_name_of_a_file_says_how_it_is_compressed() {
        for (name, expected) in [
            ("x.ndjson.zst", Compression::Zstandard),
            ("x.tar.GZ", Compression::Gzip),
            ("gz", Compression::None),
            ("x.gzip", Compression::None),
            ("x.gz/y", Compression::None),
        ] {
            assert_eq!(Compression::of_name(Path::new(name)), expected, "{name}");
        }
    }
}
