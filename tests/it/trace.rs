//! System calls of a server, from a trace that `strace -f -y -o` wrote.

use std::collections::HashMap;

/// A system call in a trace.
#[derive(Debug)]
pub(crate) struct Call {
    pub(crate) name: String,
    pub(crate) arguments: String,
    pub(crate) result: i64,
    /// Lines of the trace: strace writes them in the order in which things happened.
    pub(crate) began: usize,
    pub(crate) ended: usize,
}

impl Call {
    /// The path of the file that its first argument, a descriptor, stands for.
    pub(crate) fn path(&self) -> &str {
        let path = self.arguments.split_once('<').map(|(_, rest)| rest);
        path.and_then(|rest| rest.split_once('>')).unwrap().0
    }
}

/// The calls that returned, in the order in which they did.
pub(crate) fn calls(trace: &str) -> Vec<Call> {
    let mut open: HashMap<&str, (usize, String)> = HashMap::new();
    let mut calls = Vec::new();
    for (at, line) in trace.lines().enumerate() {
        let (thread, event) = line.split_once(' ').unwrap();
        let event = event.trim_start();
        if let Some(call) = event.strip_suffix(" <unfinished ...>") {
            open.insert(thread, (at, call.to_owned()));
            continue;
        }
        let (began, call) = match event.strip_prefix("<... ") {
            Some(rest) => {
                let (began, head) = open.remove(thread).unwrap();
                let (_, tail) = rest.split_once(" resumed>").unwrap();
                (began, head + tail)
            }
            None => (at, event.to_owned()),
        };
        // Signals and ends of threads are no calls; a call that its thread's end cut off has no
        // result.
        let Some((name, rest)) = call.split_once('(') else {
            continue;
        };
        let Some((arguments, result)) = rest.rsplit_once(" = ") else {
            continue;
        };
        let Some(Ok(result)) = result.split([' ', '<']).next().map(str::parse) else {
            continue;
        };
        calls.push(Call {
            name: name.to_owned(),
            arguments: arguments.to_owned(),
            result,
            began,
            ended: at,
        });
    }
    calls
}
