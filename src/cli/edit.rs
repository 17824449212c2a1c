//! One value of a configuration file is replaced; what people wrote around it stays.

use std::fs;
use std::path::Path;

use anyhow::{Context, anyhow};
use toml::Value;
use toml::de::DeTable;

use crate::env::system::files::{PUBLIC, write_atomic};

/// Brings the list `key` of a file of `host:port`s up to date. Names of hosts stay in it: somebody wrote them, and
/// knows why. A list that has all of them and more stays as it is: the others may be about to come. Whether it changed.
pub(super) fn learn_addresses(path: &Path, key: &str, learnt: &[String]) -> anyhow::Result<bool> {
    let text =
        fs::read_to_string(path).with_context(|| format!("{} cannot be read", path.display()))?;
    let changed = replaced(&text, key, learnt)
        .with_context(|| format!("{} cannot be changed", path.display()))?;
    let Some(changed) = changed else { return Ok(false) };
    write_atomic(path, changed.as_bytes(), PUBLIC)?;
    Ok(true)
}

/// The text with the new list; `None` when it has it already.
fn replaced(text: &str, key: &str, learnt: &[String]) -> anyhow::Result<Option<String>> {
    let table = DeTable::parse(text).context("it is no TOML")?;
    let found = table.get_ref().iter().find(|(name, _)| name.get_ref().as_ref() == key);
    let (_, value) = found.with_context(|| format!("there is no {key} in it"))?;
    let array = value.get_ref().as_array().ok_or_else(|| anyhow!("{key} is no list"))?;
    let known: Vec<&str> = array.iter().filter_map(|entry| entry.get_ref().as_str()).collect();
    if learnt.iter().all(|address| known.contains(&address.as_str())) {
        return Ok(None);
    }
    let names = known.iter().filter(|address| !is_number(address)).map(|name| (*name).to_owned());
    let list: Vec<String> = names.chain(learnt.iter().cloned()).collect();
    let list = Value::Array(list.into_iter().map(Value::String).collect());
    let span = value.span();
    Ok(Some(format!("{}{list}{}", &text[..span.start], &text[span.end..])))
}

/// Whether an address has no name in it.
fn is_number(address: &str) -> bool {
    address.parse::<std::net::SocketAddr>().is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn owned(list: &[&str]) -> Vec<String> {
        list.iter().map(|text| (*text).to_owned()).collect()
    }

    #[test]
    fn only_the_list_changes_and_only_if_it_must() {
        let text = "# mine\nlisten = \"a:1\" # here\nmonitors = [\n  \"10.0.0.1:1\", # first\n  \"b:2\"]\nz = 1\n";
        let learnt = owned(&["10.0.0.2:1", "10.0.0.3:1"]);
        let changed = replaced(text, "monitors", &learnt).expect("good").expect("another list");
        let expected = "# mine\nlisten = \"a:1\" # here\nmonitors = [\"b:2\", \"10.0.0.2:1\", \"10.0.0.3:1\"]\nz = 1\n";
        assert_eq!(changed, expected);
        let learnt = owned(&["10.0.0.3:1", "10.0.0.2:1"]);
        assert_eq!(replaced(&changed, "monitors", &learnt).expect("good"), None, "another order");
        let fewer = owned(&["10.0.0.3:1"]);
        assert_eq!(replaced(&changed, "monitors", &fewer).expect("good"), None, "some are away");
        replaced(text, "listen", &learnt).expect_err("no list");
        replaced(text, "others", &learnt).expect_err("no such key");
    }
}
