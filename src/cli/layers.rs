//! What is in force: a file, over it the environment, over that the flags.
//!
//! A configuration file says how a role runs on this machine. Whoever starts it may know better for this one
//! start: a container by its environment, an administrator by a flag. So each key of a file can be given as a
//! variable (`OKAPIFS_SERVER_LISTEN`) and as `--set listen=…`. The stronger replaces the weaker value as a whole,
//! and where each value came from is kept, for `okapifs config` to show.

use std::collections::BTreeMap;

use anyhow::{Context, bail};
use toml::de::DeTable;
use toml::{Table, Value};

/// A key that a file may have.
pub(super) struct Key {
    /// Its name.
    pub(super) name: &'static str,
    /// What it holds.
    pub(super) kind: Kind,
    /// What is the case without it; `None` when it must be there.
    pub(super) default: Option<&'static str>,
}

/// How a value is written in the environment or a flag.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Kind {
    /// As it is.
    Text,
    /// In decimal digits.
    Number,
    /// Separated by commas.
    List,
}

/// A value that is in force.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Setting {
    pub(super) key: String,
    pub(super) value: String,
    pub(super) origin: Origin,
}

/// Where a value comes from, the weakest first.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Origin {
    /// Nobody has said anything.
    Default,
    /// The line of the file.
    Line(usize),
    /// The variable.
    Environment(String),
    /// `--set`.
    Flag,
}

/// Lays environment and flags over the text of a file. Gives the table to read the configuration from, and all
/// settings in the order of `keys`.
pub(super) fn lay_over(
    text: &str,
    role: &str,
    keys: &[Key],
    environment: impl Fn(&str) -> Option<String>,
    flags: &[String],
) -> anyhow::Result<(Table, Vec<Setting>)> {
    let mut table: Table = toml::from_str(text).context("it is no TOML")?;
    let mut origins: BTreeMap<String, Origin> = lines(text);
    for key in keys {
        let variable = format!("OKAPIFS_{role}_{}", key.name.to_ascii_uppercase());
        if let Some(written) = environment(&variable) {
            let value = key.read(&written).with_context(|| variable.clone())?;
            table.insert(key.name.to_owned(), value);
            origins.insert(key.name.to_owned(), Origin::Environment(variable));
        }
    }
    for flag in flags {
        let Some((name, written)) = flag.split_once('=') else {
            bail!("--set {flag:?}: write KEY=VALUE");
        };
        let Some(key) = keys.iter().find(|key| key.name == name) else {
            let known: Vec<&str> = keys.iter().map(|key| key.name).collect();
            bail!("--set {flag:?}: there is no such key; there are {}", known.join(", "));
        };
        table.insert(name.to_owned(), key.read(written).with_context(|| flag.clone())?);
        origins.insert(name.to_owned(), Origin::Flag);
    }
    let settings = settings(&table, &origins, keys);
    Ok((table, settings))
}

impl Key {
    fn read(&self, written: &str) -> anyhow::Result<Value> {
        Ok(match self.kind {
            Kind::Text => Value::String(written.to_owned()),
            Kind::Number => {
                let explain = || format!("{written:?} is no number");
                Value::Integer(written.parse().with_context(explain)?)
            }
            Kind::List => {
                let parts = written.split(',').filter(|part| !part.is_empty());
                Value::Array(parts.map(|part| Value::String(part.to_owned())).collect())
            }
        })
    }
}

fn settings(table: &Table, origins: &BTreeMap<String, Origin>, keys: &[Key]) -> Vec<Setting> {
    let others = table.keys().filter(|name| keys.iter().all(|key| key.name != name.as_str()));
    let names = keys
        .iter()
        .map(|key| (key.name, key.default))
        .chain(others.map(|name| (name.as_str(), None)));
    let setting = |(name, default): (&str, Option<&str>)| {
        let value = match table.get(name) {
            Some(value) => value.to_string(),
            None => default?.to_owned(),
        };
        let origin = origins.get(name).cloned().unwrap_or(Origin::Default);
        Some(Setting { key: name.to_owned(), value, origin })
    };
    names.filter_map(setting).collect()
}

/// The line of each key. (The text was read before: it is well-formed.)
fn lines(text: &str) -> BTreeMap<String, Origin> {
    let Ok(table) = DeTable::parse(text) else { return BTreeMap::new() };
    let line = |offset: usize| text[..offset].matches('\n').count() + 1;
    let keys = table.get_ref().keys();
    keys.map(|key| (key.get_ref().to_string(), Origin::Line(line(key.span().start)))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEYS: &[Key] = &[
        Key { name: "listen", kind: Kind::Text, default: None },
        Key { name: "monitors", kind: Kind::List, default: None },
        Key { name: "capacity_bytes", kind: Kind::Number, default: Some("all of its disk") },
    ];
    const TEXT: &str = "# about\nlisten = \"a:1\"\n\nmonitors = [\"m:1\"]\n";

    fn laid(environment: &[(&str, &str)], flags: &[&str]) -> anyhow::Result<Vec<Setting>> {
        let variable = |name: &str| {
            let found = environment.iter().find(|(known, _)| *known == name);
            found.map(|(_, value)| (*value).to_owned())
        };
        let flags: Vec<String> = flags.iter().map(|flag| (*flag).to_owned()).collect();
        lay_over(TEXT, "SERVER", KEYS, variable, &flags).map(|(_, settings)| settings)
    }

    fn setting(key: &str, value: &str, origin: Origin) -> Setting {
        Setting { key: key.to_owned(), value: value.to_owned(), origin }
    }

    #[test]
    fn a_file_alone_names_its_lines() {
        let expected = [
            setting("listen", "\"a:1\"", Origin::Line(2)),
            setting("monitors", "[\"m:1\"]", Origin::Line(4)),
            setting("capacity_bytes", "all of its disk", Origin::Default),
        ];
        assert_eq!(laid(&[], &[]).expect("good"), expected);
    }

    #[test]
    fn the_environment_is_stronger_than_the_file_and_a_flag_than_both() {
        let environment =
            [("OKAPIFS_SERVER_MONITORS", "x:1,y:2"), ("OKAPIFS_SERVER_LISTEN", "e:1")];
        let settings = laid(&environment, &["listen=f:1", "capacity_bytes=7"]).expect("good");
        let variable = Origin::Environment("OKAPIFS_SERVER_MONITORS".to_owned());
        let expected = [
            setting("listen", "\"f:1\"", Origin::Flag),
            setting("monitors", "[\"x:1\", \"y:2\"]", variable),
            setting("capacity_bytes", "7", Origin::Flag),
        ];
        assert_eq!(settings, expected);
    }

    #[test]
    fn mistakes_are_named() {
        let refused = |environment: &[(&str, &str)], flags: &[&str]| {
            format!("{:#}", laid(environment, flags).expect_err("refused"))
        };
        assert!(refused(&[], &["lisen=a"]).contains("there are listen, monitors"));
        assert!(refused(&[], &["listen"]).contains("KEY=VALUE"));
        let error = refused(&[("OKAPIFS_SERVER_CAPACITY_BYTES", "much")], &[]);
        assert!(error.contains("OKAPIFS_SERVER_CAPACITY_BYTES: \"much\" is no number"), "{error}");
    }
}
