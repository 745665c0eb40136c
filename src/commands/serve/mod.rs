//! `digestd serve`.

mod args;

pub use self::args::ServeArgs;
