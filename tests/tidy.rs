//! The house keeps itself in order: what reviewers would otherwise have to say again and again.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// The layers of `src/`: a folder may import only what stands in its row, besides itself. Monitors, servers and
/// clients never import one another: they meet in `wire`.
const LAYERS: &[(&str, &[&str])] = &[
    ("types", &[]),
    ("codec", &["types"]),
    ("crypto", &["types"]),
    ("wire", &["types"]),
    ("env", &["types", "codec", "crypto", "wire"]),
    ("monitor", &["types", "codec", "crypto", "wire", "env"]),
    ("server", &["types", "codec", "crypto", "wire", "env"]),
    ("client", &["types", "codec", "crypto", "wire", "env"]),
    ("fuse", &["types", "codec", "crypto", "wire", "env", "client"]),
    ("agent", &["types", "codec", "crypto", "wire", "env"]),
    (
        "cli",
        &[
            "types", "codec", "crypto", "wire", "env", "monitor", "server", "client", "fuse",
            "agent",
        ],
    ),
];

/// Crates that only one place may name, so that there is one place to change when they are replaced.
const AT_HOME: &[(&str, &[&str])] = &[
    ("openraft", &["monitor/raft"]),
    ("fjall", &["monitor/store/disk.rs"]),
    ("anyhow", &["cli/"]),
    ("clap", &["cli/"]),
    ("indicatif", &["cli/"]),
    ("reed_solomon_erasure", &["codec/"]),
    ("rcgen", &["crypto/"]),
];

const LINES_MAX: usize = 900;

/// A source file: its path below `src/`, and its text.
struct Source {
    path: String,
    text: String,
}

impl Source {
    /// The layer that it belongs to; `None` for `main.rs` and `lib.rs`.
    fn layer(&self) -> Option<&str> {
        self.path.split_once('/').map(|(layer, _)| layer)
    }

    /// Lines of code that are not tests.
    fn shipped_code(&self) -> impl Iterator<Item = (usize, &str)> {
        let is_test = self.path.ends_with("tests.rs");
        let lines = self.code().filter(move |_| !is_test);
        lines.take_while(|(_, line)| line.trim() != "#[cfg(test)]")
    }

    /// Lines of code: comments are left out, so that they may talk about anything.
    fn code(&self) -> impl Iterator<Item = (usize, &str)> {
        let lines = self.text.lines().enumerate();
        lines
            .map(|(number, line)| (number + 1, line))
            .filter(|(_, line)| !line.trim_start().starts_with("//"))
    }
}

fn sources() -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    collect(&root, &mut files);
    files.sort();
    files
        .into_iter()
        .map(|file| Source {
            path: file.strip_prefix(&root).expect("below src").display().to_string(),
            text: fs::read_to_string(&file).expect("source files are text"),
        })
        .collect()
}

fn collect(dir: &Path, into: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).expect("src can be read") {
        let path = entry.expect("src can be read").path();
        if path.is_dir() {
            collect(&path, into);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            into.push(path);
        }
    }
}

fn none(problems: Vec<String>) {
    assert!(problems.is_empty(), "\n{}\n", problems.join("\n"));
}

/// The names that follow `crate::` in a line, those in braces included.
fn imported(line: &str) -> Vec<String> {
    let mut names = Vec::new();
    for (at, _) in line.match_indices("crate::") {
        // `$crate::` and `other_crate::` are something else.
        if line[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_' || c == '$') {
            continue;
        }
        let rest = &line[at + "crate::".len()..];
        let mut list = match rest.strip_prefix('{') {
            Some(group) => top_level(group),
            None => vec![rest],
        };
        names.extend(list.drain(..).map(first_name));
    }
    names.retain(|name| !name.is_empty());
    names
}

/// The parts between commas of `{a::{b, c}, d}` that are not in inner braces.
fn top_level(group: &str) -> Vec<&str> {
    let (mut depth, mut start, mut parts) = (0, 0, Vec::new());
    for (at, c) in group.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth > 0 => depth -= 1,
            ',' | '}' if depth == 0 => {
                parts.push(&group[start..at]);
                start = at + 1;
                if c == '}' {
                    return parts;
                }
            }
            _ => {}
        }
    }
    parts.push(&group[start..]);
    parts
}

fn first_name(path: &str) -> String {
    let is_name = |c: &char| c.is_alphanumeric() || *c == '_';
    path.trim().chars().take_while(is_name).collect()
}

#[test]
fn imports_are_read_as_rust_reads_them() {
    assert_eq!(imported("use crate::types::Ino;"), ["types"]);
    assert_eq!(imported("use crate::{wire::{self, admin}, types};"), ["wire", "types"]);
    assert_eq!(imported("    crate::env::x(crate::wire::y)"), ["env", "wire"]);
    assert!(imported("$crate::types").is_empty());
}

#[test]
fn a_layer_imports_only_what_is_below_it() {
    let table: BTreeMap<_, _> = LAYERS.iter().copied().collect();
    let mut problems = Vec::new();
    for source in sources() {
        let Some(layer) = source.layer() else {
            continue;
        };
        let Some(allowed) = table.get(layer) else {
            problems.push(format!("src/{layer} is in no layer; add it to the table"));
            continue;
        };
        for (number, line) in source.code() {
            for name in imported(line) {
                let is_layer = table.contains_key(name.as_str());
                if is_layer && name != layer && !allowed.contains(&name.as_str()) {
                    let path = &source.path;
                    problems.push(format!("src/{path}:{number}: {layer} imports {name}"));
                }
            }
        }
    }
    none(problems);
}

#[test]
fn crates_are_named_only_at_home() {
    let mut problems = Vec::new();
    for source in sources() {
        for (name, homes) in AT_HOME {
            if homes.iter().any(|home| source.path.starts_with(home)) {
                continue;
            }
            let path = format!("{name}::");
            for (number, line) in source.code() {
                let named = line.match_indices(&path).any(|(at, _)| {
                    !line[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_' || c == ':')
                });
                if named {
                    problems.push(format!("src/{}:{number}: names {name}", source.path));
                }
            }
        }
    }
    none(problems);
}

#[test]
fn one_file_knows_the_encoder() {
    let mut problems = Vec::new();
    for source in sources() {
        if source.path == "wire/codec.rs" {
            continue;
        }
        for (number, line) in source.code() {
            let derives = line.trim() == "use bincode::{Decode, Encode};";
            let encoder_trait =
                line.trim() == "use bincode::Encode;" || line.trim() == "use bincode::Decode;";
            if line.contains("bincode::") && !derives && !encoder_trait {
                problems.push(format!("src/{}:{number}: names bincode", source.path));
            }
        }
    }
    none(problems);
}

#[test]
fn every_module_opens_with_its_problem() {
    let without = sources()
        .into_iter()
        .filter(|source| !source.text.starts_with("//! "))
        .map(|source| format!("src/{} does not begin with //!", source.path));
    none(without.collect());
}

#[test]
fn files_can_be_read_in_one_sitting() {
    let long = sources().into_iter().filter_map(|source| {
        let lines = source.text.lines().count();
        (lines > LINES_MAX).then(|| format!("src/{} has {lines} lines", source.path))
    });
    none(long.collect());
}

#[test]
fn nothing_is_left_to_be_done() {
    // In pieces, so that this file may be searched too.
    let marks =
        [["TO", "DO"], ["FIX", "ME"], ["to", "do!("], ["unimple", "mented!("], ["db", "g!("]]
            .map(|halves| halves.concat());
    let mut problems = Vec::new();
    for source in sources() {
        for (number, line) in source.text.lines().enumerate() {
            for mark in marks.iter().filter(|mark| line.contains(mark.as_str())) {
                problems.push(format!("src/{}:{}: {mark}", source.path, number + 1));
            }
        }
    }
    none(problems);
}

#[test]
fn only_the_command_line_prints() {
    let mut problems = Vec::new();
    for source in sources() {
        if source.path == "cli/say.rs" {
            continue;
        }
        for (number, line) in source.shipped_code() {
            let prints = ["println!(", "print!(", "eprintln!(", "eprint!("];
            if prints.iter().any(|print| line.contains(print)) {
                problems.push(format!("src/{}:{number}: prints", source.path));
            }
        }
    }
    none(problems);
}
