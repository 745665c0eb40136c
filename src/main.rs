//! Command line → command → exit code.

use digestd::commands;

/// Messages and pages of the index are made by one thread and freed by another, which with glibc's
/// allocator means that they wait for each other now and then.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() {
    let code = commands::run(std::env::args_os());
    // Not by returning: an index that failed can fail once more when dropped.
    std::process::exit(code)
}
