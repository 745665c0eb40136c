//! The tests from outside, one binary so that it is linked once.
//!
//! * over sockets, in this process: [`messages`], [`limits`], [`shutdown`], with [`support`];
//! * the store by itself: [`store`], [`directory`], [`damage`], [`torn`], [`model`], [`reader`],
//!   [`verify`], [`scrub`], [`backup`], [`compact`], with [`store_support`];
//! * the real binaries: [`command`], [`doctor`], [`export`], [`import`], [`crash`], [`memory`],
//!   [`samples`], [`readme`], and [`gifts`] for the second one, with [`process`] and [`writers`].

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that panics is a test that fails"
)]

mod backup;
mod command;
mod compact;
mod crash;
mod damage;
mod directory;
mod doctor;
mod export;
mod gifts;
mod import;
mod limits;
mod memory;
mod messages;
mod model;
mod process;
mod reader;
mod readme;
mod samples;
mod scrub;
mod shutdown;
mod store;
mod store_support;
mod support;
mod torn;
mod verify;
mod writers;
