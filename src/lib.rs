#![doc = include_str!("../ARCHITECTURE.md")]
#![cfg_attr(
    test,
    allow(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic,
        clippy::indexing_slicing,
        clippy::missing_panics_doc,
        reason = "a test that panics is a test that fails"
    )
)]

pub mod digest;
pub mod file;
pub mod message;
pub mod ndjson;
pub mod text;

pub mod store;

pub mod service;

pub mod access;

pub mod http;

pub mod server;

pub mod client;

pub mod commands;

pub mod config;
pub mod logging;
pub mod metrics;
pub mod supervisor;

#[cfg(any(test, fuzzing))]
pub mod fuzz;
