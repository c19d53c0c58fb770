//! The layout that `src/lib.rs` draws is the layout that the sources have.

#![allow(clippy::unwrap_used, missing_docs)]

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// Modules that are pure: no I/O, no runtime, no store.
const PURE: [&str; 7] = ["state", "wheel", "schedule", "command", "task", "run", "id"];
const IMPURE_CRATES: [&str; 5] = ["tokio", "sled", "openraft", "axum", "reqwest"];

/// Who may name a crate.
const OWNERS: [(&str, &[&str]); 2] = [("sled", &["storage"]), ("openraft", &["raft", "storage", "node"])];

/// Files that may break a rule, the rule's word, and why.
const EXCEPTIONS: [(&str, &str, &str); 2] = [
    ("telemetry.rs", "sled", "the filter of the logs names the crates that it quiets"),
    ("telemetry.rs", "openraft", "the filter of the logs names the crates that it quiets"),
];

const LINES_MAX: usize = 500;

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

struct Source {
    /// Below `src`.
    path: String,
    /// The module of the crate's root that it belongs to; empty for the root itself.
    module: String,
    text: String,
}

impl Source {
    /// Words and what stands between them, without comments that have a line of their own.
    fn code(&self) -> String {
        self.text.lines().filter(|line| !line.trim_start().starts_with("//")).collect::<Vec<_>>().join("\n")
    }

    fn names(&self, word: &str) -> bool {
        let excepted = EXCEPTIONS.iter().any(|(path, name, _)| *path == self.path && *name == word);
        !excepted && self.code().split(|c: char| !c.is_alphanumeric() && c != '_').any(|w| w == word)
    }

    /// The modules of the crate's root that it speaks of.
    fn imports(&self) -> BTreeSet<String> {
        let code = self.code();
        let mut imports = BTreeSet::new();
        for after in code.split("crate::").skip(1) {
            let names: Vec<&str> = match after.strip_prefix('{') {
                Some(group) => top_level(group.split_inclusive("};").next().unwrap()),
                None => vec![after],
            };
            for name in names {
                let name: String = name.trim().chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
                imports.insert(name);
            }
        }
        imports
    }
}

/// The parts of a `use` group: `a::{b, c}, d};` has the parts `a::{b, c}` and `d`.
fn top_level(group: &str) -> Vec<&str> {
    let (mut depth, mut start, mut parts) = (0, 0, Vec::new());
    for (at, c) in group.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth == 0 => {
                parts.push(&group[start..at]);
                return parts;
            }
            '}' => depth -= 1,
            ',' if depth == 0 => {
                parts.push(&group[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    parts.push(&group[start..]);
    parts
}

fn sources() -> Vec<Source> {
    fn walk(dir: &Path, found: &mut Vec<PathBuf>) {
        for entry in std::fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                walk(&path, found);
            } else if path.extension().is_some_and(|e| e == "rs") {
                found.push(path);
            }
        }
    }
    let src = root().join("src");
    let mut found = Vec::new();
    walk(&src, &mut found);
    found.sort();
    let source = |path: PathBuf| {
        let text = std::fs::read_to_string(&path).unwrap();
        let path = path.strip_prefix(&src).unwrap().to_str().unwrap().to_owned();
        let first = path.split('/').next().unwrap().trim_end_matches(".rs");
        let module = if ["lib", "main"].contains(&first) { String::new() } else { first.to_owned() };
        Source { path, module, text }
    };
    let sources: Vec<Source> = found.into_iter().map(source).collect();
    assert!(sources.len() > 50, "only {} files were found", sources.len());
    sources
}

/// The drawing in `src/lib.rs`: each module and its line, 0 at the top.
fn drawing() -> BTreeMap<String, usize> {
    let text = std::fs::read_to_string(root().join("src/lib.rs")).unwrap();
    let lines = text.lines().filter_map(|line| line.strip_prefix("//!"));
    let lines = lines.skip_while(|line| line.trim() != "```text").skip(1).take_while(|line| line.trim() != "```");
    let mut ranks = BTreeMap::new();
    for (rank, line) in lines.enumerate() {
        // What stands in parentheses explains.
        let bare: String = line.split('(').map(|part| part.split_once(')').map_or(part, |(_, rest)| rest)).collect();
        for name in bare.split('·').map(str::trim).filter(|name| !name.is_empty()) {
            assert!(ranks.insert(name.to_owned(), rank).is_none(), "{name} is drawn twice");
        }
    }
    ranks
}

#[test]
fn the_drawing_has_each_module_once() {
    let text = std::fs::read_to_string(root().join("src/lib.rs")).unwrap();
    let declared = text.lines().filter_map(|line| line.strip_prefix("pub mod ")?.strip_suffix(';'));
    let declared: BTreeSet<String> = declared.map(str::to_owned).collect();
    let drawn: BTreeSet<String> = drawing().into_keys().collect();
    assert_eq!(drawn, declared);
}

#[test]
fn a_module_imports_from_its_own_line_or_below() {
    let ranks = drawing();
    let mut wrong = Vec::new();
    for source in sources().iter().filter(|s| !s.module.is_empty()) {
        let own = ranks[&source.module];
        for import in source.imports() {
            if ranks.get(&import).is_some_and(|rank| *rank < own) {
                wrong.push(format!("{} imports {import}, which is drawn above it", source.path));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn a_crate_is_named_only_by_those_that_own_it() {
    let mut wrong = Vec::new();
    for source in sources() {
        for (name, owners) in OWNERS {
            if source.names(name) && !owners.contains(&source.module.as_str()) {
                wrong.push(format!("{} names {name}", source.path));
            }
        }
        for name in IMPURE_CRATES.into_iter().filter(|_| PURE.contains(&source.module.as_str())) {
            if source.names(name) {
                wrong.push(format!("{} is pure and names {name}", source.path));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// They panic where nothing takes what is printed: the reader of a pipe has gone, say.
#[test]
fn nothing_is_printed_by_a_macro_that_can_panic() {
    let mut wrong = Vec::new();
    for source in sources() {
        let code = source.code();
        let shipped = code.split("#[cfg(test)]\nmod tests {").next().unwrap();
        let words: BTreeSet<&str> = shipped.split(|c: char| !c.is_alphanumeric() && !"_!".contains(c)).collect();
        let found = ["print!", "println!", "eprint!", "eprintln!"].into_iter().filter(|name| words.contains(name));
        wrong.extend(
            found.map(|name| format!("{} uses {name}; telemetry::print and telemetry::say do not panic", source.path)),
        );
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// A line of the log is an object with these keys already: of two keys with one name most parsers keep the last.
#[test]
fn no_field_of_a_log_line_has_the_name_of_another_key() {
    const KEYS: [&str; 4] = ["timestamp", "level", "message", "target"];
    const MACROS: [&str; 5] = ["trace!(", "debug!(", "info!(", "warn!(", "error!("];
    let (mut wrong, mut seen) = (Vec::new(), 0);
    for source in sources() {
        for macro_name in MACROS {
            for call in source.code().split(&format!("tracing::{macro_name}")).skip(1) {
                // The fields come before the message.
                let fields = call.split('"').next().unwrap();
                for field in fields.split(',') {
                    let name = field.split('=').next().unwrap().trim().trim_start_matches(['%', '?']);
                    seen += usize::from(!name.is_empty());
                    if KEYS.contains(&name) {
                        wrong.push(format!("{}: {macro_name}{}", source.path, fields.trim()));
                    }
                }
            }
        }
    }
    assert!(seen > 50, "the fields of the log are not found any more: {seen}");
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn no_exception_is_stale() {
    let sources = sources();
    for (path, word, why) in EXCEPTIONS {
        let file = sources.iter().find(|s| s.path == path);
        assert!(file.is_some_and(|s| s.text.contains(word)), "{path} need not be excepted any more: {why}");
    }
}

#[test]
fn no_file_is_too_long() {
    let lengths = sources().into_iter().map(|s| (s.text.lines().count(), s.path));
    let long: Vec<_> = lengths.filter(|(lines, _)| *lines > LINES_MAX).collect();
    assert!(long.is_empty(), "over {LINES_MAX} lines: {long:?}");
}

#[test]
fn openapi_lists_each_route_that_is_served() {
    let text = std::fs::read_to_string(root().join("src/http/mod.rs")).unwrap();
    let text: String = text.split_whitespace().collect();
    let served: BTreeSet<(String, String)> = text
        .split(".route(\"")
        .skip(1)
        .map(|route| {
            let (path, rest) = route.split_once("\",").unwrap();
            (path.to_owned(), rest.split('(').next().unwrap().to_owned())
        })
        .collect();
    assert!(served.contains(&("/xcron/createTask".to_owned(), "post".to_owned())), "{served:?}");

    let text = std::fs::read_to_string(root().join("doc/openapi.json")).unwrap();
    let document: serde_json::Value = serde_json::from_str(&text).unwrap();
    let mut listed = BTreeSet::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        for method in ["get", "put", "post", "delete", "patch"] {
            if item.get(method).is_some() {
                listed.insert((path.clone(), method.to_owned()));
            }
        }
    }
    assert_eq!(listed, served);
}

#[test]
fn the_document_of_the_api_has_each_code_that_is_answered() {
    let text = std::fs::read_to_string(root().join("src/http/error.rs")).unwrap();
    // As in `Code::Malformed => 1000,`.
    let arms =
        text.lines().filter_map(|line| line.trim().strip_prefix("Code::")?.strip_suffix(',')?.split_once(" => "));
    let answered: BTreeSet<String> =
        arms.map(|(_, code)| code.to_owned()).filter(|code| code.parse::<u16>().is_ok()).collect();
    assert!(answered.len() > 10 && answered.contains("1000"), "the codes are not found any more: {answered:?}");

    let text = std::fs::read_to_string(root().join("doc/http-api.md")).unwrap();
    let table = text.split_once("| code | HTTP | meaning |").unwrap().1.split("\n\n").next().unwrap();
    let rows = table.lines().filter_map(|row| row.strip_prefix("| ")?.split(" |").next());
    let listed: BTreeSet<String> = rows.filter(|row| !["---", "0"].contains(row)).map(str::to_owned).collect();
    assert_eq!(listed, answered, "the table of the document, and the codes of the source");
}

#[test]
fn the_check_of_the_zone_data_tells_an_older_release_from_a_newer_one() {
    let passes = |locked: &str, newest: &str| {
        let script = root().join(".ci/zone-data");
        let mut run = std::process::Command::new("bash");
        run.arg(script).args([locked, newest]).output().expect("bash").status.success()
    };
    assert!(passes("1.0.0", "1.0.0") && passes("1.0.10", "1.0.9") && passes("2.0.0", "1.9.9"));
    assert!(!passes("1.0.0", "1.0.1") && !passes("1.0.9", "1.0.10") && !passes("0.1.10", "1.0.0"));
}

#[test]
fn the_check_of_the_zone_data_is_skipped_under_ci_only_where_that_is_excused() {
    let dir = tempfile::tempdir().unwrap();
    // A registry that cannot be reached.
    let cargo = dir.path().join("cargo");
    std::fs::write(&cargo, "#!/bin/sh\nexit 101\n").unwrap();
    std::fs::set_permissions(&cargo, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let path = format!("{}:{}", dir.path().display(), std::env::var("PATH").unwrap());
    let passes = |ci: &str, excused: &str| {
        let mut run = std::process::Command::new("bash");
        run.arg(root().join(".ci/zone-data")).env("PATH", &path).env("CI", ci).env("XCRON_MAY_SKIP", excused);
        let output = run.output().expect("bash");
        assert!(String::from_utf8_lossy(&output.stderr).contains("skipped: needs registry"), "{output:?}");
        output.status.success()
    };
    assert!(passes("", "") && passes("", "mounts"), "by hand it is only said");
    assert!(!passes("true", "") && !passes("true", "mounts,namespaces,prlimit"));
    assert!(passes("true", "registry") && passes("true", "mounts,registry"));
}
