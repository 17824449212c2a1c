//! Builds: make believes that a file is older than what was made of it, to the nanosecond, whichever machine made it.

use std::fs;
use std::path::Path;
use std::process::Command;

use super::common::runner::long;
use super::common::tools::need;
use super::{Places, shell};

const MAKEFILE: &str = "\
OBJECTS = $(patsubst %.c,%.o,$(wildcard *.c))
program: $(OBJECTS)
\tcc -o $@ $^
%.o: %.c ../common.h
\tcc -c -o $@ $<
";

/// Both build at once, each a directory; the other one has nothing to do there, until something changes.
pub(crate) fn on_both(places: &Places) {
    need(&["make", "cc"]);
    let sources = if long() { 150 } else { 6 };
    fs::write(places.one.join("common.h"), "#define FACTOR 1\n").expect("written");
    for (name, dir) in ["a", "b"].into_iter().zip(places.both()) {
        write_sources(&dir.join(name), sources);
    }
    places.at_once(|dir, number| drop(shell(dir, &format!("make -j4 -C {}", name(number)))));
    places.at_once(|dir, number| {
        let other = dir.join(name(1 - number));
        assert!(is_up_to_date(&other));
        assert_eq!(shell(&other, "./program"), sum(sources, 1));
    });
    fs::write(places.two.join("common.h"), "#define FACTOR 2\n").expect("written");
    places.at_once(|dir, number| {
        let other = dir.join(name(1 - number));
        assert!(!is_up_to_date(&other));
        shell(&other, "make -j4");
    });
    places.at_once(|dir, number| {
        assert!(is_up_to_date(&dir.join(name(number))));
        assert_eq!(shell(&dir.join(name(number)), "./program"), sum(sources, 2));
    });
}

fn name(number: usize) -> &'static str {
    ["a", "b"][number]
}

fn write_sources(dir: &Path, sources: usize) {
    fs::create_dir(dir).expect("made");
    fs::write(dir.join("Makefile"), MAKEFILE).expect("written");
    let mut main = String::from("#include <stdio.h>\n");
    let mut calls = String::new();
    for number in 0..sources {
        let source = format!(
            "#include \"../common.h\"\nint part_{number}(void) {{ return FACTOR * {number}; }}\n"
        );
        fs::write(dir.join(format!("part_{number}.c")), source).expect("written");
        main.push_str(&format!("int part_{number}(void);\n"));
        calls.push_str(&format!(" + part_{number}()"));
    }
    main.push_str(&format!("int main(void) {{ printf(\"%d\\n\", 0{calls}); return 0; }}\n"));
    fs::write(dir.join("main.c"), main).expect("written");
}

fn sum(sources: usize, factor: usize) -> String {
    format!("{}\n", (0..sources).sum::<usize>() * factor)
}

fn is_up_to_date(dir: &Path) -> bool {
    let status = Command::new("make").arg("-q").current_dir(dir).status().expect("make runs");
    match status.code() {
        Some(0) => true,
        Some(1) => false,
        _ => panic!("make -q in {}: {status}", dir.display()),
    }
}
