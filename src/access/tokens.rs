//! Bearer tokens: who may do what.
//!
//! The file of tokens holds one line a token, `name scope[,scope] sha256-of-token`; empty lines and
//! lines that begin with `#` are nothing. It holds no secret: a token has 256 random bits, and no one
//! gets from its SHA-256 back to it.
//!
//! **Invariant:** a token is seen by the one who asked for it, once, and by nobody else. No error
//! quotes a line, [`Token`] and [`Tokens`] do not print what they hold, and looking a token up takes
//! as long whether it is there, nearly there or not at all.

use std::fmt;
use std::sync::Arc;

use subtle::{ConditionallySelectable, ConstantTimeEq};

use super::lines::{LineError, content_lines};
use crate::digest::Digest;

/// Tokens at most: each request is compared with all of them, which takes about a nanosecond a word.
pub const TOKENS_MAX: usize = 256;

/// Longest name of a token, in bytes: it is part of lines in the log.
const NAME_BYTES_MAX: usize = 64;

/// Random bytes of a token: as many as a digest has, so that guessing is as hopeless as reversing.
const TOKEN_BYTES: usize = 32;

/// What every token begins with, so that one that got into a log or a repository can be found.
pub const PREFIX: &str = "digestd_";

/// What a token allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// Messages one at a time, by their digest.
    Read,
    /// Storing messages.
    Write,
    /// Deleting messages.
    Delete,
    /// All messages, without knowing their digests.
    Export,
    /// Figures of the service.
    Metrics,
}

impl Scope {
    /// All of them.
    pub const ALL: [Self; 5] = [
        Self::Read,
        Self::Write,
        Self::Delete,
        Self::Export,
        Self::Metrics,
    ];

    /// Its name in the file of tokens.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Write => "write",
            Self::Delete => "delete",
            Self::Export => "export",
            Self::Metrics => "metrics",
        }
    }

    const fn bit(self) -> u8 {
        1 << self as u8
    }
}

/// Some of the scopes; never none.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Scopes(u8);

impl Scopes {
    /// Whether `scope` is one of them.
    #[must_use]
    pub const fn contain(self, scope: Scope) -> bool {
        self.0 & scope.bit() != 0
    }
}

impl std::str::FromStr for Scopes {
    type Err = InvalidLine;

    fn from_str(text: &str) -> Result<Self, InvalidLine> {
        let bit = |name| {
            let scope = Scope::ALL.into_iter().find(|scope| scope.name() == name);
            scope.map(Scope::bit).ok_or(InvalidLine::Scope)
        };
        text.split(',')
            .try_fold(0, |bits, name| Ok(bits | bit(name)?))
            .map(Self)
    }
}

impl fmt::Display for Scopes {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut names = Scope::ALL.into_iter().filter(|scope| self.contain(*scope));
        names.try_fold("", |comma, scope| {
            write!(formatter, "{comma}{}", scope.name()).map(|()| ",")
        })?;
        Ok(())
    }
}

impl fmt::Debug for Scopes {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, formatter)
    }
}

/// A new token.
pub struct Token(String);

impl Token {
    /// Makes one from the system's random numbers.
    ///
    /// # Errors
    /// If there are none.
    pub fn random() -> Result<Self, getrandom::Error> {
        let mut bytes = [0; TOKEN_BYTES];
        getrandom::fill(&mut bytes)?;
        // As a digest, the bytes have their digits.
        Ok(Self(format!("{PREFIX}{}", Digest::from_bytes(bytes))))
    }

    /// The secret itself.
    #[must_use]
    pub fn reveal(&self) -> &str {
        &self.0
    }

    /// Its line in the file of tokens.
    #[must_use]
    pub fn line(&self, name: &Name, scopes: Scopes) -> String {
        format!("{} {scopes} {}", name.0, Digest::of(self.0.as_bytes()))
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Token(…)")
    }
}

/// The name of a token: what a log may say of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Name(Arc<str>);

impl Name {
    /// The name itself: letters, digits, `-`, `_` and `.`.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl std::str::FromStr for Name {
    type Err = InvalidLine;

    fn from_str(text: &str) -> Result<Self, InvalidLine> {
        let is_harmless = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
        let is_name = (1..=NAME_BYTES_MAX).contains(&text.len()) && text.bytes().all(is_harmless);
        // The token in the place of the name: an accident that would print it in every log.
        if !is_name || text.starts_with(PREFIX) {
            return Err(InvalidLine::Name);
        }
        Ok(Self(text.into()))
    }
}

/// A token that is known.
#[derive(Debug)]
pub struct Grant {
    name: Name,
    scopes: Scopes,
    /// The SHA-256 of the token, as words.
    hash: Words,
}

type Words = [u64; 4];

impl Grant {
    /// Its name.
    #[must_use]
    pub fn name(&self) -> &Name {
        &self.name
    }

    /// What it allows.
    #[must_use]
    pub fn scopes(&self) -> Scopes {
        self.scopes
    }
}

/// The tokens that are known.
#[derive(Debug)]
pub struct Tokens(Vec<Grant>);

impl Tokens {
    /// Reads a file of tokens.
    ///
    /// # Errors
    /// On the first line that is not one, with its number; if there are too many, or none: that is a
    /// file that was cut short, not a wish to let nobody in.
    pub fn parse(text: &str) -> Result<Self, LineError<InvalidLine>> {
        let mut grants: Vec<Grant> = Vec::new();
        let mut last = 1;
        for (number, line) in content_lines(text) {
            last = number;
            let at = |problem| LineError { number, problem };
            let grant = Grant::parse(line).map_err(at)?;
            if grants.iter().any(|other| other.name == grant.name) {
                return Err(at(InvalidLine::SecondName));
            }
            if grants.iter().any(|other| other.hash == grant.hash) {
                return Err(at(InvalidLine::SecondToken));
            }
            if grants.len() == TOKENS_MAX {
                return Err(at(InvalidLine::TooMany));
            }
            grants.push(grant);
        }
        if grants.is_empty() {
            return Err(LineError {
                number: last,
                problem: InvalidLine::NoToken,
            });
        }
        Ok(Self(grants))
    }

    /// Their number.
    #[must_use]
    pub fn count(&self) -> usize {
        self.0.len()
    }

    /// What `token` stands for, if it is known. Every token is looked at, and each to its last bit,
    /// whatever the others gave.
    #[must_use]
    pub fn find(&self, token: &[u8]) -> Option<&Grant> {
        let hash = words(&Digest::of(token));
        let mut found = 0;
        for (number, grant) in (1_u32..).zip(&self.0) {
            let is_it = grant.hash.as_slice().ct_eq(hash.as_slice());
            found.conditional_assign(&number, is_it);
        }
        self.0.get(usize::try_from(found).ok()?.checked_sub(1)?)
    }
}

impl Grant {
    fn parse(line: &str) -> Result<Self, InvalidLine> {
        let mut words_of_line = line.split_ascii_whitespace();
        let mut next = || words_of_line.next().ok_or(InvalidLine::Words);
        let (name, scopes, hash) = (next()?, next()?, next()?);
        if next().is_ok() {
            return Err(InvalidLine::Words);
        }
        let hash: Digest = hash.parse().map_err(|_| InvalidLine::Hash)?;
        Ok(Self {
            name: name.parse()?,
            scopes: scopes.parse()?,
            hash: words(&hash),
        })
    }
}

/// Words compare in an eighth of the steps.
fn words(hash: &Digest) -> Words {
    let mut words = Words::default();
    let (eights, _) = hash.as_bytes().as_chunks();
    for (word, bytes) in words.iter_mut().zip(eights) {
        *word = u64::from_le_bytes(*bytes);
    }
    words
}

/// Why a line is not one of a file of tokens. Never quotes it: a token may have come there by
/// mistake.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidLine {
    /// Not three words.
    #[error("a line is a name, scopes with commas between them, and the SHA-256 of a token")]
    Words,
    /// The first word.
    #[error(
        "a name is 1 to {NAME_BYTES_MAX} letters, digits, `-`, `_` or `.`, and does not begin with \
         `{PREFIX}`"
    )]
    Name,
    /// The second word.
    #[error("the scopes are read, write, delete, export and metrics")]
    Scope,
    /// The third word.
    #[error("the SHA-256 of a token is 64 hexadecimal digits")]
    Hash,
    /// Two lines with one name.
    #[error("this name was there before")]
    SecondName,
    /// Two lines with one token.
    #[error("this token was there before")]
    SecondToken,
    /// More than [`TOKENS_MAX`].
    #[error("more than {TOKENS_MAX} tokens")]
    TooMany,
    /// An empty file.
    #[error("there is no token")]
    NoToken,
}

/// The text with all but the start of every token taken out. One that was given where a text, a file or an
/// option belongs would be shown to all who read the terminal, the log of a build, or that of the service.
#[must_use]
pub fn without_tokens(text: &str) -> String {
    let is_part = |symbol: char| symbol.is_ascii_alphanumeric() || symbol == '-' || symbol == '_';
    let mut parts = text.split(PREFIX);
    let mut safe = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        safe.push_str(PREFIX);
        let rest = part.trim_start_matches(is_part);
        safe.push_str(if rest.len() < part.len() { "…" } else { "" });
        safe.push_str(rest);
    }
    safe
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn line(name: &str, scopes: &str, token: &str) -> String {
        format!("{name} {scopes} {}\n", Digest::of(token.as_bytes()))
    }

    fn problem(text: &str) -> (usize, InvalidLine) {
        let error = Tokens::parse(text).unwrap_err();
        (error.number, error.problem)
    }

    #[test]
    fn a_token_is_found_by_itself_and_nothing_else() {
        let text = line("first", "read", "a") + &line("second", "write,delete", "b");
        let tokens = Tokens::parse(&(text + &line("third", "metrics", "c"))).unwrap();
        assert_eq!(tokens.count(), 3);
        for (token, name) in [("a", "first"), ("b", "second"), ("c", "third")] {
            assert_eq!(tokens.find(token.as_bytes()).unwrap().name().as_str(), name);
        }
        for token in ["", "d", "aa", "A", " a", "first"] {
            assert!(tokens.find(token.as_bytes()).is_none(), "{token:?}");
        }
    }

    #[test]
    fn the_hash_of_a_token_is_not_a_token() {
        let tokens = Tokens::parse(&line("a", "read", "a")).unwrap();
        let hash = Digest::of(b"a");
        assert!(tokens.find(hash.as_bytes()).is_none());
        assert!(tokens.find(hash.to_string().as_bytes()).is_none());
    }

    #[test]
    fn every_bit_of_a_hash_counts() {
        let mut grants = Tokens::parse(&line("a", "read", "a")).unwrap();
        for bit in 0..256 {
            grants.0[0].hash[bit / 64] ^= 1 << (bit % 64);
            assert!(grants.find(b"a").is_none(), "{bit}");
            grants.0[0].hash[bit / 64] ^= 1 << (bit % 64);
        }
        assert!(grants.find(b"a").is_some());
    }

    #[test]
    fn a_token_allows_its_scopes_and_no_others() {
        let tokens = Tokens::parse(&line("a", "write,export", "a")).unwrap();
        let scopes = tokens.find(b"a").unwrap().scopes();
        let allowed = Scope::ALL.map(|scope| scopes.contain(scope));
        assert_eq!(allowed, [false, true, false, true, false]);
        assert_eq!(scopes.to_string(), "write,export");
    }

    #[test]
    fn comments_and_empty_lines_are_nothing() {
        let text = format!("# who\n\n  \n\t# what\r\n{}", line("a", "read", "a"));
        assert_eq!(Tokens::parse(&text).unwrap().count(), 1);
    }

    #[test]
    fn an_error_names_the_line_and_what_is_wrong() {
        let good = line("good", "read", "good");
        let hash = Digest::of(b"x");
        for (line, expected) in [
            ("name read", InvalidLine::Words),
            (&format!("name read {hash} more"), InvalidLine::Words),
            (&format!("na/me read {hash}"), InvalidLine::Name),
            (&format!("digestd_0123 read {hash}"), InvalidLine::Name),
            (
                &format!("{} read {hash}", "a".repeat(NAME_BYTES_MAX + 1)),
                InvalidLine::Name,
            ),
            (&format!("name reed {hash}"), InvalidLine::Scope),
            (&format!("name Read {hash}"), InvalidLine::Scope),
            (&format!("name read, {hash}"), InvalidLine::Scope),
            (&format!("name {hash} read"), InvalidLine::Hash),
            ("name read 0123", InvalidLine::Hash),
            (&format!("good write {hash}"), InvalidLine::SecondName),
            (
                &format!("other write {}", Digest::of(b"good")),
                InvalidLine::SecondToken,
            ),
        ] {
            assert_eq!(problem(&format!("{good}\n{line}\n{good}")), (3, expected));
        }
        for empty in ["", "\n", "# nothing\n"] {
            assert_eq!(problem(empty).1, InvalidLine::NoToken);
        }
        let longest = "a".repeat(NAME_BYTES_MAX);
        Tokens::parse(&format!("{longest} read {hash}")).unwrap();
    }

    #[test]
    fn as_many_tokens_as_allowed_are_read_and_not_one_more() {
        let lines = |count: usize| -> String {
            (0..count)
                .map(|number| line(&format!("t{number}"), "read", &number.to_string()))
                .collect()
        };
        let tokens = Tokens::parse(&lines(TOKENS_MAX)).unwrap();
        let last = (TOKENS_MAX - 1).to_string();
        assert!(tokens.find(last.as_bytes()).is_some());
        assert_eq!(
            problem(&lines(TOKENS_MAX + 1)),
            (TOKENS_MAX + 1, InvalidLine::TooMany)
        );
    }

    #[test]
    fn a_new_token_has_a_line_that_knows_it() {
        let (name, scopes) = ("ci".parse().unwrap(), "write,read".parse().unwrap());
        let [first, second] = [Token::random().unwrap(), Token::random().unwrap()];
        assert_ne!(first.reveal(), second.reveal());
        let line = first.line(&name, scopes);
        assert!(line.starts_with("ci read,write "), "{line}");
        let tokens = Tokens::parse(&line).unwrap();
        assert!(tokens.find(first.reveal().as_bytes()).is_some());
        assert!(tokens.find(second.reveal().as_bytes()).is_none());
    }

    #[test]
    fn nothing_that_is_printed_shows_a_token_or_a_whole_hash() {
        let token = Token::random().unwrap();
        let shown = format!("{token:?}");
        assert!(!shown.contains(&token.reveal()[PREFIX.len()..]), "{shown}");
        // A token in each place of a line where it does not belong.
        let secret = token.reveal();
        let hash = Digest::of(b"x");
        for line in [
            secret.to_owned(),
            format!("{secret} read {hash}"),
            format!("name {secret} {hash}"),
            format!("name read {secret}"),
        ] {
            let error = Tokens::parse(&line).unwrap_err().to_string();
            assert!(!error.contains(&secret[PREFIX.len()..]), "{error}");
        }
    }

    proptest! {
        #[test]
        fn no_file_makes_the_parser_panic(text in "\\PC{0,200}") {
            let _ = Tokens::parse(&text);
        }
    }

    #[test]
    fn of_a_token_the_start_alone_is_shown() {
        let token = format!("digestd_{}", "0a".repeat(32));
        for (text, expected) in [
            (
                format!("unexpected argument '{token}' found"),
                "unexpected argument 'digestd_…' found",
            ),
            (
                format!("{token}{token} {token}"),
                "digestd_…digestd_… digestd_…",
            ),
            (format!("--token={token}\n"), "--token=digestd_…\n"),
            (
                "digestd: digestd_ /digestd".into(),
                "digestd: digestd_ /digestd",
            ),
            ("digestd_UPPER-case_…".into(), "digestd_……"),
        ] {
            assert_eq!(without_tokens(&text), expected);
        }
    }
}
