//! Who may import whom (DESIGN section 2), read from the source. A folder not listed here may import nothing but the leaves.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    missing_docs
)]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Everyone may import these.
const LEAVES: [&str; 5] = ["env", "limits", "error", "metrics", "identity"];

/// What each part may import beside the leaves.
fn allowed() -> BTreeMap<&'static str, Vec<&'static str>> {
    BTreeMap::from([
        ("env", vec![]),
        ("limits", vec![]),
        // The public error names the refusals of the state machine.
        ("error", vec!["mvcc"]),
        // Gauges are set from values.
        ("metrics", vec!["raft"]),
        ("identity", vec![]),
        ("proto", vec![]),
        ("mvcc", vec![]),
        ("storage", vec![]),
        ("transport", vec![]),
        // Of transport, what TLS is to be like.
        ("config", vec!["transport"]),
        ("raft", vec!["mvcc", "storage", "discovery", "transport", "proto", "config"]),
        ("discovery", vec!["transport"]),
        ("duties", vec!["raft", "mvcc", "config"]),
        ("membership", vec!["raft", "discovery", "mvcc", "proto"]),
        ("watch", vec!["mvcc"]),
        // Of the configuration, the limits on requests.
        ("api", vec!["raft", "membership", "mvcc", "proto", "transport", "watch", "config"]),
        ("client", vec!["mvcc", "proto", "transport", "raft", "watch"]),
        (
            "node",
            vec![
                "mvcc",
                "storage",
                "raft",
                "discovery",
                "membership",
                "transport",
                "api",
                "client",
                "config",
                "proto",
                "watch",
                "duties",
            ],
        ),
        (
            "cli",
            vec![
                "config",
                "node",
                "client",
                "playground",
                "simulation",
                "storage",
                "mvcc",
                "proto",
                "transport",
                "raft",
            ],
        ),
        ("playground", vec!["node", "config"]),
        // It damages files where that must be noticed, and reads what a member says of itself.
        ("simulation", vec!["node", "config", "client", "mvcc", "playground", "storage", "api"]),
        ("fuzzing", vec!["api", "mvcc", "proto", "raft", "storage"]),
        ("testing", vec!["node", "config", "client"]),
    ])
}

fn sources(directory: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs")
            // Unit tests set up peers of their own.
            && !path.to_string_lossy().ends_with("_tests.rs")
        {
            found.push(path);
        }
    }
}

/// The part that a file belongs to: the first folder or the file's name below `src`.
fn part_of(path: &Path, root: &Path) -> String {
    let first = path.strip_prefix(root).unwrap().components().next().unwrap();
    first.as_os_str().to_string_lossy().trim_end_matches(".rs").to_string()
}

/// Parts named by `crate::…` in code, also within `use crate::{a, b::c}`. Comments do not count.
fn imports(source: &str) -> Vec<String> {
    let code: String =
        source.lines().map(|line| line.split("//").next().unwrap_or_default()).collect::<Vec<_>>().join("\n");
    let mut found = Vec::new();
    for (at, _) in code.match_indices("crate::") {
        let before = code[..at].chars().next_back();
        if before.is_some_and(|c| c == ':' || c == '$' || c.is_alphanumeric() || c == '_') {
            continue;
        }
        let rest = &code[at + "crate::".len()..];
        if let Some(group) = rest.strip_prefix('{') {
            let mut depth = 0;
            let mut name = String::new();
            for c in group.chars() {
                match c {
                    '{' => depth += 1,
                    '}' if depth == 0 => break,
                    '}' => depth -= 1,
                    ',' if depth == 0 => found.push(std::mem::take(&mut name)),
                    c if depth == 0 => name.push(c),
                    _ => {}
                }
            }
            found.push(name);
        } else {
            found.push(rest.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect());
        }
    }
    found
        .into_iter()
        .map(|name| name.trim().split("::").next().unwrap_or_default().to_string())
        .filter(|name| name.starts_with(|c: char| c.is_lowercase()))
        .collect()
}

#[test]
fn every_part_imports_only_what_it_may() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let allowed = allowed();
    let mut files = Vec::new();
    sources(&root, &mut files);
    assert!(files.len() > 20, "the source was not found: {files:?}");
    let mut wrong = Vec::new();
    for file in files {
        let part = part_of(&file, &root);
        if part == "lib" || part == "main" {
            continue;
        }
        let may = allowed.get(part.as_str()).unwrap_or_else(|| panic!("{part} is not in the table"));
        for import in imports(&std::fs::read_to_string(&file).unwrap()) {
            let fine = import == part || LEAVES.contains(&import.as_str()) || may.contains(&import.as_str());
            if !fine {
                wrong.push(format!("{}: {part} may not import {import}", file.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Crates that only one part may name.
#[test]
fn sled_openraft_and_the_client_protobufs_each_have_one_home() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let homes: [(&str, &[&str]); 5] = [
        ("sled::", &["storage"]),
        ("openraft::", &["raft"]),
        ("etcdserverpb", &["api", "client", "cli", "proto", "metrics", "fuzzing"]),
        ("hickory_resolver", &["env", "playground"]),
        ("rustls", &["transport"]),
    ];
    let mut files = Vec::new();
    sources(&root, &mut files);
    let mut wrong = Vec::new();
    for file in files {
        let part = part_of(&file, &root);
        let source = std::fs::read_to_string(&file).unwrap();
        let code: Vec<&str> = source.lines().filter(|line| !line.trim_start().starts_with("//")).collect();
        for (name, may) in homes {
            if code.iter().any(|line| line.contains(name)) && !may.contains(&part.as_str()) {
                wrong.push(format!("{}: {part} may not name {name}", file.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn imports_are_found_in_every_form() {
    let source = "use crate::mvcc::State;\nuse crate::{api::{A, b}, raft, error::Error};\n// use crate::wrong;\nlet x = crate::node::f();";
    assert_eq!(imports(source), ["mvcc", "api", "raft", "error", "node"]);
}
