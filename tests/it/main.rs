//! The tests from outside, one binary so that it is linked once.
//!
//! * the walls between rooms: [`wall`];
//! * over sockets, in this process: [`messages`], [`digest_fields`], [`put`], [`batch`], [`arrays`],
//!   [`ranges`], [`addresses`], [`problems`], [`openapi`], [`pages`], [`limits`], [`keep_alive`], [`admission`],
//!   [`access`], [`sites`], [`proxied`], [`options`], [`hosts`], [`http2`], [`shutdown`], [`metrics`], with [`support`];
//! * the store by itself: [`store`], [`directory`], [`damage`], [`matrix`], [`torn`], [`model`], [`reader`],
//!   [`verify`], [`scrub`], [`read_only`], [`backup`], [`compact`], [`upgrade`], with [`store_support`];
//! * the real binaries: [`command`], [`many`], [`tokens`], [`rates`], [`logs`], [`log_files`], [`tls`], [`reloading`], [`supervisor`], [`healthcheck`], [`doctor`],
//!   [`export`], [`import`], [`files`], [`rogue`], [`crash`], [`power`], [`failure`], [`sectors`], [`slow`],
//!   [`full`], [`memory`], [`attacks`], [`soak`], [`socket_files`], [`samples`], [`readme`], [`documents`], [`browser`],
//!   [`caches`], [`strangers`], [`find_pair`] for the second one, and [`loadgen`] for the generator of the bench
//!   `load`, with [`process`], [`writers`], [`disk`], [`groups`] and [`trace`].

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that panics is a test that fails"
)]

mod access;
mod addresses;
mod admission;
mod arrays;
mod attacks;
mod backup;
mod batch;
mod browser;
mod caches;
mod command;
mod compact;
mod crash;
mod damage;
mod delete;
mod deletion;
mod digest_fields;
mod directory;
mod disk;
mod doctor;
mod documents;
mod early;
mod export;
mod failure;
mod files;
mod find_pair;
mod full;
mod groups;
mod healthcheck;
mod hosts;
mod http2;
mod https;
mod import;
mod keep_alive;
mod limits;
mod loadgen;
mod log_files;
mod logs;
mod many;
mod matrix;
mod memory;
mod messages;
mod metrics;
mod model;
mod openapi;
mod options;
mod pages;
mod power;
mod problems;
mod process;
mod proxied;
mod put;
mod ranges;
mod rates;
mod read_only;
mod reader;
mod readme;
mod reloading;
mod rogue;
mod samples;
mod scrub;
mod sectors;
mod shares;
mod shell;
mod shutdown;
mod sites;
mod slow;
mod soak;
mod socket_files;
mod store;
mod store_support;
mod strangers;
mod supervisor;
mod support;
mod tls;
mod tokens;
mod torn;
mod trace;
mod upgrade;
mod verify;
mod wall;
mod writers;
