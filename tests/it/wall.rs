//! The wall between rooms: which may name which, where outside crates are at home, and that no files of a
//! folder import each other in a circle.
//!
//! The two tables are those of ARCHITECTURE.md, in the blocks after "Which room may name which" and "Where
//! outside crates are named", so that the page cannot say anything else. A room is a module of the library, or
//! a program. Everything before `mod tests`, which is the last item of a file, is looked at: each path that
//! begins with `crate`, `self`, `super`, a child module, the name of the library or that of a dependency,
//! wherever it stands. What a folder exports with `pub use self::…` is no import: the file that has the item
//! is the one that is named.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

/// A file of `src`, without its tests.
struct Source {
    /// Like `store/memory`, `http/mod`, `main`.
    name: String,
    code: String,
}

/// A path that a file names.
struct Named<'a> {
    source: &'a Source,
    line: usize,
    /// From the root of the library, or from a dependency.
    path: Vec<String>,
}

impl Source {
    fn read_all(directory: &Path, prefix: &str, sources: &mut Vec<Self>) {
        for entry in fs::read_dir(directory).unwrap().map(Result::unwrap) {
            let name = entry.file_name().into_string().unwrap();
            if entry.file_type().unwrap().is_dir() {
                Self::read_all(&entry.path(), &format!("{prefix}{name}/"), sources);
            } else if let Some(stem) = name.strip_suffix(".rs") {
                let text = fs::read_to_string(entry.path()).unwrap();
                let code = text
                    .split_once("mod tests {")
                    .map_or(&*text, |(code, _)| code);
                let code = code.lines().map(|line| {
                    let is_comment = line.trim_start().starts_with("//");
                    if is_comment { "" } else { line }
                });
                sources.push(Self {
                    name: format!("{prefix}{stem}"),
                    code: code.collect::<Vec<_>>().join("\n"),
                });
            }
        }
    }

    /// Where `crate` leads: the library, or the folder of a program.
    fn root(&self) -> Vec<String> {
        match self.name.split('/').collect::<Vec<_>>()[..] {
            ["main"] => vec!["main".into()],
            ["bin", program, ..] => vec!["bin".into(), program.into()],
            _ => Vec::new(),
        }
    }

    /// The module it is, as a path from the root of the library.
    fn module(&self) -> Vec<String> {
        let mut parts: Vec<_> = self.name.split('/').map(Into::into).collect();
        let is_of_folder = parts
            .last()
            .is_some_and(|last| last == "mod" || last == "lib");
        if is_of_folder || (parts.len() == 3 && parts[0] == "bin" && parts[2] == "main") {
            parts.pop();
        }
        parts
    }

    fn room(&self) -> String {
        match self.name.strip_prefix("bin/") {
            Some(program) => program.split('/').next().unwrap().into(),
            None => self.name.split('/').next().unwrap().into(),
        }
    }

    /// Each place where a word stands that is no part of a longer path before it.
    fn words(&self) -> impl Iterator<Item = (usize, &str)> {
        let is_word = |symbol: char| symbol.is_alphanumeric() || symbol == '_';
        let starts = self.code.match_indices(is_word).map(|(start, _)| start);
        let starts = starts.filter(move |&start| {
            let before = &self.code[..start];
            let is_inner =
                |before: &str| before.ends_with(|symbol| is_word(symbol) || symbol == '>');
            let is_part =
                before.ends_with(is_word) || before.strip_suffix("::").is_some_and(is_inner);
            // A visibility names nothing.
            !is_part && !before.ends_with("pub(in ")
        });
        starts.map(move |start| {
            let rest = &self.code[start..];
            let end = rest.find(|symbol| !is_word(symbol)).unwrap_or(rest.len());
            (start, &rest[..end])
        })
    }

    /// Whether `word` at `start` begins a path, or is all that a `use` names.
    fn is_named(&self, start: usize, word: &str) -> bool {
        let (before, rest) = self.code.split_at(start);
        before.trim_end_matches("::").ends_with("use ") || rest[word.len()..].starts_with("::")
    }

    /// The modules that it declares.
    fn children(&self) -> BTreeSet<&str> {
        let lines = self
            .code
            .lines()
            .map(|line| line.trim_start_matches("pub "));
        let children = lines.filter_map(|line| line.strip_prefix("mod ")?.strip_suffix(';'));
        children.collect()
    }

    /// The paths that begin at `start`: one, or those of a group in braces.
    fn paths_at(&self, start: usize) -> Vec<Vec<String>> {
        let end = self.code[start..].find(';').map(|end| start + end);
        let mut symbols = self.code[start..end.unwrap_or(self.code.len())]
            .chars()
            .peekable();
        let mut paths = Vec::new();
        read_tree(&mut symbols, &[], &mut paths);
        paths
    }
}

/// Reads `a::b::{c, d::e}` into its paths.
fn read_tree(
    symbols: &mut std::iter::Peekable<std::str::Chars>,
    before: &[String],
    paths: &mut Vec<Vec<String>>,
) {
    let mut path = before.to_vec();
    loop {
        while symbols.next_if(|symbol| symbol.is_whitespace()).is_some() {}
        if symbols.next_if_eq(&'{').is_some() {
            while symbols.peek().is_some_and(|symbol| *symbol != '}') {
                read_tree(symbols, &path, paths);
                while symbols.next_if(|symbol| !"},".contains(*symbol)).is_some() {}
                symbols.next_if_eq(&',');
                while symbols.next_if(|symbol| symbol.is_whitespace()).is_some() {}
            }
            symbols.next();
            return;
        }
        let mut word = String::new();
        while let Some(symbol) =
            symbols.next_if(|symbol| symbol.is_alphanumeric() || *symbol == '_')
        {
            word.push(symbol);
        }
        if !word.is_empty() && word != "self" || path.is_empty() {
            path.push(word);
        }
        if symbols.next_if_eq(&':').is_none() || symbols.next_if_eq(&':').is_none() {
            paths.push(path);
            return;
        }
    }
}

struct House {
    sources: Vec<Source>,
}

impl House {
    fn read() -> Self {
        let mut sources = Vec::new();
        Source::read_all(&Path::new(ROOT).join("src"), "", &mut sources);
        sources.sort_by(|one, other| one.name.cmp(&other.name));
        Self { sources }
    }

    /// All paths within the library, from its root.
    fn inner_paths(&self) -> Vec<Named<'_>> {
        let mut all = Vec::new();
        for source in &self.sources {
            let children = source.children();
            for (start, word) in source.words() {
                let is_child = children.contains(word);
                let is_root = matches!(word, "crate" | "self" | "super" | "digestd") || is_child;
                if !is_root || !source.is_named(start, word) {
                    continue;
                }
                for parts in source.paths_at(start) {
                    let mut path = match word {
                        "digestd" => Vec::new(),
                        "crate" => source.root(),
                        _ => source.module(),
                    };
                    for part in parts {
                        match part.as_str() {
                            "crate" | "self" | "digestd" => {}
                            "super" => drop(path.pop()),
                            _ => path.push(part),
                        }
                    }
                    let line = source.code[..start].matches('\n').count() + 1;
                    all.push(Named { source, line, path });
                }
            }
        }
        all
    }

    /// The file that a path leads to; what a folder hands on is that of the file that has it.
    fn target(&self, path: &[String]) -> Option<&Source> {
        let find = |path: &[String]| {
            let mut sources = self.sources.iter();
            sources.find(|source| source.name != "lib" && source.module() == path)
        };
        let length = (1..=path.len())
            .rev()
            .find(|&length| find(&path[..length]).is_some())?;
        let source = find(&path[..length])?;
        let item = path.get(length);
        let exports = source
            .code
            .match_indices("pub use self::")
            .flat_map(|(start, _)| source.paths_at(start + "pub use ".len()));
        let mut exports = exports.filter(|export| export.last() == item && item.is_some());
        match exports.next() {
            Some(export) => {
                let child: Vec<_> = path[..length]
                    .iter()
                    .chain(&export[1..2])
                    .cloned()
                    .collect();
                find(&child).or(Some(source))
            }
            None => Some(source),
        }
    }
}

/// The lines of the block of ARCHITECTURE.md after the line `heading`: a word, an arrow, words.
fn table(heading: &str) -> BTreeMap<String, BTreeSet<String>> {
    let page = fs::read_to_string(Path::new(ROOT).join("ARCHITECTURE.md")).unwrap();
    let (_, rest) = page.split_once(heading).expect(heading);
    let block = rest.split("```").nth(1).unwrap();
    let rows = block.lines().skip(1).map(|row| {
        let (name, names) = row.split_once('→').expect(row);
        let names = names
            .split_whitespace()
            .map(|name| name.trim_matches(',').to_owned());
        (name.trim().to_owned(), names.collect())
    });
    rows.collect()
}

/// What is left of a graph once everything is taken away that leads to nothing: its circles, and what leads
/// into them.
fn circles<'a>(
    arrows: &BTreeMap<&'a str, BTreeSet<&'a str>>,
) -> BTreeMap<&'a str, BTreeSet<&'a str>> {
    let mut left = arrows.clone();
    loop {
        let names: BTreeSet<_> = left.keys().copied().collect();
        for targets in left.values_mut() {
            targets.retain(|target| names.contains(target));
        }
        let before = left.len();
        left.retain(|_, targets| !targets.is_empty());
        if left.len() == before {
            return left;
        }
    }
}

#[test]
fn a_room_names_only_rooms_that_its_row_allows() {
    let house = House::read();
    let allowed = table("Which room may name which");
    let mut wrong = Vec::new();
    let mut used = BTreeSet::new();
    for named in house.inner_paths() {
        let from = named.source.room();
        // All of the library, by `use crate::*` or under another name.
        let everything = "everything".to_owned();
        let to = named.path.first().unwrap_or(&everything);
        if from == *to || from == "lib" || to == "bin" {
            continue;
        }
        used.insert((from.clone(), to.clone()));
        if !allowed
            .get(&from)
            .is_some_and(|rooms| rooms.contains(to) || rooms.contains("*"))
        {
            wrong.push(format!(
                "src/{}.rs:{}: {from} names {to}",
                named.source.name, named.line
            ));
        }
    }
    for (from, rooms) in &allowed {
        let idle = rooms
            .iter()
            .filter(|to| *to != "*" && !used.contains(&(from.clone(), (*to).clone())));
        wrong.extend(idle.map(|to| format!("ARCHITECTURE.md: {from} does not name {to}")));
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    let arrows = allowed
        .iter()
        .map(|(from, rooms)| (from.as_str(), rooms.iter().map(String::as_str).collect()));
    assert_eq!(circles(&arrows.collect()), BTreeMap::new());
}

#[test]
fn no_files_of_a_folder_import_each_other_in_a_circle() {
    let house = House::read();
    // By folder: what is in it, as its file or as a folder below, and what that names of the others.
    let mut folders: BTreeMap<&str, BTreeMap<&str, BTreeSet<&str>>> = BTreeMap::new();
    for named in house.inner_paths() {
        let is_door = named.source.name.ends_with("/mod")
            && named
                .source
                .code
                .lines()
                .nth(named.line - 1)
                .is_some_and(|line| line.starts_with("pub use self::"));
        let Some(target) = house.target(&named.path).filter(|_| !is_door) else {
            continue;
        };
        let (from, to) = (named.source.name.as_str(), target.name.as_str());
        // The folder that both are in, and what of it each is.
        let shared = from
            .bytes()
            .zip(to.bytes())
            .take_while(|(one, other)| one == other)
            .count();
        let Some(folder) = from[..shared].rfind('/') else {
            continue;
        };
        let entry = |name: &'_ str| {
            name[folder + 1..]
                .find('/')
                .map_or(name.len(), |end| folder + 1 + end)
        };
        let (from, to) = (&from[..entry(from)], &to[..entry(to)]);
        if from != to {
            folders
                .entry(&from[..folder])
                .or_default()
                .entry(from)
                .or_default()
                .insert(to);
        }
    }
    for (folder, arrows) in &folders {
        assert_eq!(circles(arrows), BTreeMap::new(), "{folder}");
    }
    assert!(folders.len() > 5, "{folders:?}");
}

#[test]
fn an_outside_crate_is_named_only_where_it_is_at_home() {
    let house = House::read();
    let manifest = fs::read_to_string(Path::new(ROOT).join("Cargo.toml")).unwrap();
    assert!(!manifest.contains("dependencies.") && !manifest.contains("[target"));
    let (_, dependencies) = manifest.split_once("\n[dependencies]\n").unwrap();
    let dependencies = dependencies.split("\n[").next().unwrap().lines();
    let dependencies: BTreeSet<_> = dependencies
        .filter_map(|line| Some(line.split_once(" = ")?.0.replace('-', "_")))
        .collect();
    let mut homes: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for (home, crates) in table("Where outside crates are named") {
        for name in crates {
            homes.entry(name).or_default().insert(home.clone());
        }
    }
    let listed: BTreeSet<_> = homes.keys().cloned().collect();
    assert_eq!(listed, dependencies);

    let mut wrong = Vec::new();
    let mut used = BTreeSet::new();
    for source in &house.sources {
        for (start, word) in source.words() {
            let Some(homes) = homes.get(word) else {
                continue;
            };
            if !source.is_named(start, word) {
                continue;
            }
            let name = source.name.trim_start_matches("bin/");
            let is_home = |home: &&String| {
                *home == "everywhere"
                    || name
                        .strip_prefix(home.as_str())
                        .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
            };
            if let Some(home) = homes.iter().find(is_home) {
                used.insert((word.to_owned(), home.clone()));
            } else {
                let line = source.code[..start].matches('\n').count() + 1;
                wrong.push(format!("src/{}.rs:{line}: {word}", source.name));
            }
        }
    }
    for (name, homes) in &homes {
        let idle = homes
            .iter()
            .filter(|home| !used.contains(&(name.clone(), (*home).clone())));
        // Only a feature of `time` is needed, by rcgen.
        let idle = idle.filter(|_| name != "time");
        wrong.extend(idle.map(|home| format!("ARCHITECTURE.md: {name} is not named in {home}")));
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn no_file_is_longer_than_600_lines() {
    let mut found = Vec::new();
    for source in House::read().sources {
        let path = Path::new(ROOT)
            .join("src")
            .join(format!("{}.rs", source.name));
        let lines = fs::read_to_string(path).unwrap().lines().count();
        if lines > 600 {
            found.push(source.name);
        }
    }
    assert_eq!(found, [""; 0]);
}

#[test]
fn the_paths_of_a_group_are_read_one_by_one() {
    let source = Source {
        name: "room/file".into(),
        code:
            "use crate::{one, two::{self, Three as Four}};\nlet x = super::five::six(crate::seven);"
                .into(),
    };
    let paths = |word: &str| {
        let (start, _) = source.words().find(|(_, found)| *found == word).unwrap();
        let paths = source.paths_at(start).into_iter();
        paths.map(|path| path.join("::")).collect::<Vec<_>>()
    };
    assert_eq!(
        paths("crate"),
        ["crate::one", "crate::two", "crate::two::Three"]
    );
    assert_eq!(paths("super"), ["super::five::six"]);
}
