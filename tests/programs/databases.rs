//! Databases of sqlite3: it locks ranges of bytes, believes that nobody else's journal is hot while that is locked, and
//! looks at the first page to know whether what it has in memory is still so.

use std::io::Write;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use super::Places;
use super::common::cluster::text;
use super::common::runner::long;
use super::common::tools::need;
use super::common::wait_for;

/// Whatever a statement waits for comes sooner.
const SOON: Duration = Duration::from_secs(60);

const TABLES: &str = "CREATE TABLE log(writer, number, filling, PRIMARY KEY(writer, number));\
     CREATE TABLE count(n); INSERT INTO count VALUES(0);";

/// Transactions of both mounts with each kind of rollback journal, and one that is killed in between.
pub(crate) fn from_both(places: &Places) {
    need(&["sqlite3"]);
    let transactions = if long() { 300 } else { 6 };
    for mode in ["DELETE", "TRUNCATE", "PERSIST"] {
        let name = format!("{mode}.db");
        sqlite(&places.one.join(&name), TABLES);
        places.at_once(|dir, number| {
            sqlite(&dir.join(&name), &transactions_of(number, transactions, mode));
        });
        for dir in places.both() {
            check(&dir.join(&name), 2 * transactions);
        }
    }
    let [one, two] = places.both().map(|dir| dir.join("DELETE.db"));
    leave_a_hot_journal(&one);
    check(&two, 2 * transactions);
    check(&one, 2 * transactions);
}

/// Two programs with a write-ahead log on one mount, whose index is a shared mapping; when they have ended, the other
/// mount reads what they wrote.
pub(crate) fn with_a_wal(places: &Places) {
    need(&["sqlite3"]);
    let transactions = if long() { 1000 } else { 20 };
    let db = places.one.join("wal.db");
    assert_eq!(sqlite(&db, "PRAGMA journal_mode = WAL;").trim(), "wal");
    sqlite(&db, TABLES);
    thread::scope(|scope| {
        for writer in 0..2 {
            let db = &db;
            scope.spawn(move || sqlite(db, &transactions_of(writer, transactions, "WAL")));
        }
        for _ in 0..5 {
            assert_eq!(
                sqlite(&db, "SELECT (SELECT count(*) FROM log) = n FROM count;").trim(),
                "1"
            );
        }
    });
    check(&db, 2 * transactions);
    check(&places.two.join("wal.db"), 2 * transactions);
}

/// Each transaction counts itself, and changes several pages.
fn transactions_of(writer: usize, count: usize, mode: &str) -> String {
    let transaction = |number| {
        format!(
            "BEGIN IMMEDIATE; \
             INSERT INTO log VALUES({writer}, {number}, randomblob(3000)); \
             UPDATE count SET n = n + 1; \
             UPDATE log SET filling = randomblob(2000) WHERE number = {number} / 2; COMMIT;\n"
        )
    };
    let transactions: String = (0..count).map(transaction).collect();
    format!("PRAGMA journal_mode = {mode};\n{transactions}")
}

/// All transactions are in it, once.
fn check(db: &Path, transactions: usize) {
    let question = "PRAGMA integrity_check; SELECT n FROM count; SELECT count(*) FROM log;\
         SELECT count(*) FROM log WHERE filling = 'nobody';";
    let answer = sqlite(db, question);
    let expected = format!("ok\n{transactions}\n{transactions}\n0\n");
    assert_eq!(answer, expected, "{}", db.display());
}

/// A program dies within a transaction when parts of it are in the file already: the next one has to take them back.
fn leave_a_hot_journal(db: &Path) {
    let mut child = start(db);
    let stdin = child.stdin.as_mut().expect("a pipe");
    // With so small a cache most of what is changed is written before the end.
    let begin = "PRAGMA cache_size = 2; BEGIN IMMEDIATE; UPDATE log SET filling = 'nobody';\n\
         .print begun\n";
    stdin.write_all(begin.as_bytes()).expect("said");
    let journal = db.with_file_name("DELETE.db-journal");
    wait_for("its journal is there", SOON, || {
        std::fs::metadata(&journal).is_ok_and(|journal| journal.len() > 4096).then_some(())
    });
    child.kill().expect("killed");
    child.wait().expect("ended");
    assert!(journal.exists(), "nothing was left to take back");
}

/// Has statements done; what they say.
fn sqlite(db: &Path, statements: &str) -> String {
    let mut child = start(db);
    let mut stdin = child.stdin.take().expect("a pipe");
    thread::scope(|scope| {
        scope.spawn(move || stdin.write_all(statements.as_bytes()).expect("said"));
        let output = child.wait_with_output().expect("it ends");
        assert!(output.status.success(), "{}: {}", db.display(), text(&output));
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.stderr.is_empty(), "{}: {}", db.display(), text(&output));
        said
    })
}

/// It waits for others as long as it must.
fn start(db: &Path) -> Child {
    let mut command = Command::new("sqlite3");
    command.args(["-batch", "-bail", "-cmd", &format!(".timeout {}", SOON.as_millis())]).arg(db);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command.spawn().expect("sqlite3 runs")
}
