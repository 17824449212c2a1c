//! What the commands say to people: the only place that prints.
//!
//! Results go to standard output, progress and errors to standard error, so that either can be piped away.

use std::fmt::Display;
use std::io::Write;

use indicatif::{ProgressBar, ProgressStyle};

/// One line of result. A reader that has gone away (`okapifs status | head -1`) is no error.
pub(super) fn line(text: impl Display) {
    let mut out = std::io::stdout().lock();
    if let Err(error) = writeln!(out, "{text}").and_then(|()| out.flush()) {
        log::debug!("standard output is closed: {error}");
    }
}

/// One line about what goes on, not part of a result.
pub(super) fn note(text: impl Display) {
    to_stderr(&text);
}

/// What went wrong, in one line: causes follow their consequence after a colon.
pub(super) fn error(error: &anyhow::Error) {
    let text = format!("{error:#}").replace('\n', " ");
    to_stderr(&format_args!("okapifs: {text}"));
}

fn to_stderr(text: &dyn Display) {
    if let Err(error) = writeln!(std::io::stderr().lock(), "{text}") {
        log::debug!("standard error is closed: {error}");
    }
}

/// A table with aligned columns; the first row is the heading.
pub(super) fn table(rows: &[Vec<String>]) {
    for row in aligned(rows) {
        line(row);
    }
}

fn aligned(rows: &[Vec<String>]) -> Vec<String> {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column));
        cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let padded = |row: &Vec<String>| {
        let cells = row.iter().zip(&widths);
        let cells: Vec<String> = cells.map(|(cell, width)| format!("{cell:width$}")).collect();
        cells.join("  ").trim_end().to_owned()
    };
    rows.iter().map(padded).collect()
}

/// A progress bar over `total` steps; invisible where standard error is no terminal.
pub(super) fn progress(total: u64, what: &str) -> ProgressBar {
    let style = ProgressStyle::with_template("{msg} {wide_bar} {pos}/{len} {eta}")
        .expect("the template is well-formed");
    let bar = ProgressBar::new(total).with_style(style);
    bar.set_message(what.to_owned());
    bar
}

/// Bytes as people read them: `1.5 GiB`.
pub(super) fn bytes(count: u64) -> String {
    const UNITS: [&str; 6] = ["bytes", "KiB", "MiB", "GiB", "TiB", "PiB"];
    let mut unit = 0;
    let mut scaled = count as f64;
    while scaled >= 1024.0 && unit + 1 < UNITS.len() {
        scaled /= 1024.0;
        unit += 1;
    }
    match unit {
        0 => format!("{count} bytes"),
        _ => format!("{scaled:.1} {}", UNITS[unit]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_rounded_to_what_people_read() {
        assert_eq!(bytes(0), "0 bytes");
        assert_eq!(bytes(1023), "1023 bytes");
        assert_eq!(bytes(1536), "1.5 KiB");
        assert_eq!(bytes(3 << 40), "3.0 TiB");
    }

    #[test]
    fn columns_are_aligned() {
        let rows = [vec!["ID", "NAME"], vec!["1234", "a"]];
        let rows = rows.map(|row| row.into_iter().map(str::to_owned).collect());
        assert_eq!(aligned(&rows), ["ID    NAME", "1234  a"]);
    }
}
