//! The books of the long runs: a line of JSON for each in `docs/runs.jsonl`, written by what ran,
//! never by hand; and the table in `docs/verification.md`, which is made of them.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    fs::{self, OpenOptions},
    io::{self, Write as _},
    path::Path,
    process::{Command, ExitCode},
    time::{SystemTime, UNIX_EPOCH},
};

use serde_json::{Value, json};

const RUNS: &str = "docs/runs.jsonl";
const PAGE: &str = "docs/verification.md";
const BEGIN: &str = "<!-- This table is made of runs.jsonl. -->\n";
const END: &str = "<!-- Here it ends. -->\n";

/// A way to look for what is lost; a row of the table.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Method {
    /// Its name in the books.
    pub name: &'static str,
    /// What one run is made of: seeds, cycles.
    pub unit: &'static str,
    /// What it does, and to what.
    pub what: &'static str,
    /// The command.
    pub command: &'static str,
}

/// All methods.
pub const METHODS: [Method; 16] = [
    Method {
        name: "simulation",
        unit: "seeds",
        what: "a whole node on a simulated disk, clock and network: crashes, power cuts, failing \
               and rotting disks",
        command: "cargo sim --seeds 0..20000 --record",
    },
    Method {
        name: "worlds",
        unit: "crash states",
        what: "every short workload on one log, and on a whole node with a topic that comes and \
               goes: a crash after every event of the disk with what it may leave; each call \
               failing once",
        command: "cargo worlds --steps 4 --record`, `cargo worlds --node --steps 6 --record",
    },
    Method {
        name: "planted",
        unit: "bugs",
        what: "bugs that are put into the product on purpose: the unchanged simulation must find \
               each, in seeds that pass without it",
        command: "cargo planted --record",
    },
    Method {
        name: "chains",
        unit: "seeds",
        what: "simulated chains of two to five replicas: crashes, power cuts, wiped disks, links \
               broken one way or both, a control plane that falls silent",
        command: "cargo chains --seeds 0..20000 --record",
    },
    Method {
        name: "cluster",
        unit: "seeds",
        what: "two to five whole nodes that are a cluster, simulated: what befalls one, and links \
               broken and cut, nodes cut off, processes that stand still, a control plane that is \
               silent or heard of late",
        command: "cargo sim --seeds 0..20000 --nodes 3 --record",
    },
    Method {
        name: "nemesis",
        unit: "seconds",
        what: "three real processes that are a cluster: killed, paused, cut off one way or both, \
               on slow links, full and rotting disks, while consumers poll",
        command: "cargo nemesis all --seconds 60 --record",
    },
    Method {
        name: "power",
        unit: "cuts",
        what: "the real server on ext4 on a disk with a volatile cache, under load: each write \
               that was not flushed is kept, torn or dropped",
        command: "cargo crash power --cycles 2000 --record",
    },
    Method {
        name: "os",
        unit: "crashes",
        what: "the same stack; the file system is shut down without its journal",
        command: "cargo crash os --cycles 2000 --record",
    },
    Method {
        name: "kill",
        unit: "kills",
        what: "the same stack; the process is killed, on a slow disk and in recovery too, and the \
               next one starts at once",
        command: "cargo crash kill --cycles 2000 --record",
    },
    Method {
        name: "error",
        unit: "errors",
        what: "the same stack; a write or a flush fails, then the process ends or the power goes",
        command: "cargo crash error --cycles 500 --record",
    },
    Method {
        name: "full",
        unit: "full disks",
        what: "the same stack; the disk fills up, crashes, is trimmed, and writes go on",
        command: "cargo crash full --cycles 100 --record",
    },
    Method {
        name: "lie",
        unit: "cuts",
        what: "the control: power cuts on a disk that says it has flushed and has not, on which \
               the harness must see records lost",
        command: "cargo crash lie --record",
    },
    Method {
        name: "corruption",
        unit: "cases",
        what: "the real server on files of its own of which some bytes were spoilt",
        command: "cargo corrupt --cases 1000 --record",
    },
    Method {
        name: "fuzzing",
        unit: "inputs",
        what: "made-up bytes for whatever reads the network or the disk, a whole log of spoilt \
               files among them",
        command: "cargo fuzz-all --minutes 20 --record",
    },
    Method {
        name: "soak",
        unit: "minutes",
        what: "the real server under a mixed load, killed three times; memory, descriptors and \
               files must not grow",
        command: "cargo load soak --minutes 120 --record",
    },
    Method {
        name: "overload",
        unit: "runs",
        what: "the real server under ten times of what its disk takes, beside floods of \
               connections, silent, slow and malformed ones",
        command: "cargo load overload --record",
    },
];

/// What a run came to.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Run {
    /// The name of the method.
    pub method: &'static str,
    /// How it was called.
    pub command: String,
    /// How many seeds, cycles or the like.
    pub units: u64,
    /// Batches acknowledged.
    pub acked: u64,
    /// Acknowledged records that were compared.
    pub checked: u64,
    /// Acknowledged records that were not there.
    pub lost: u64,
    /// Records that were there twice.
    pub duplicated: u64,
    /// Seeds, cycles or the like that broke any promise.
    pub broken: u64,
    /// What was injected, by kind.
    pub faults: BTreeMap<String, u64>,
    /// What else is known of it, by name: how much proved nothing and was passed over, how much
    /// was in flight.
    pub notes: BTreeMap<String, u64>,
    /// How long it took.
    pub seconds: u64,
}

impl Run {
    /// Writes it to the books, with the time and the commit; a commit whose files were changed
    /// since is marked. It is called at the root of the repository.
    ///
    /// # Errors
    /// When the books cannot be written, or git does not tell the commit.
    pub fn record(&self) -> io::Result<()> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_err(io::Error::other)?;
        let line = json!({
            "unix_s": now.as_secs(),
            "commit": commit()?,
            "method": self.method,
            "command": self.command,
            "units": self.units,
            "acked": self.acked,
            "checked": self.checked,
            "lost": self.lost,
            "duplicated": self.duplicated,
            "broken": self.broken,
            "faults": self.faults,
            "notes": self.notes,
            "seconds": self.seconds,
        });
        let mut books = OpenOptions::new().append(true).create(true).open(RUNS)?;
        // One write, so that runs that end at once do not garble each other.
        books.write_all(format!("{line}\n").as_bytes())?;
        update(Path::new(".")).map(|_| ()).map_err(io::Error::other)
    }
}

fn commit() -> io::Result<String> {
    let head = git(&["rev-parse", "--short=12", "HEAD"])?;
    let [books, page] = [RUNS, PAGE].map(|file| format!(":!{file}"));
    let changed = git(&["status", "--porcelain", "--", ".", &books, &page])?;
    let mark = if changed.is_empty() { "" } else { "+" };
    Ok(format!("{head}{mark}"))
}

fn git(arguments: &[&str]) -> io::Result<String> {
    let output = Command::new("git").args(arguments).output()?;
    if !output.status.success() {
        return Err(io::Error::other(String::from_utf8_lossy(&output.stderr).into_owned()));
    }
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// Makes the table of the page tell what the books tell, in the repository at `root`; whether that
/// changed it.
///
/// # Errors
/// When the books or the page cannot be read, or are not as they should be.
pub fn update(root: &Path) -> Result<bool, String> {
    let path = root.join(PAGE);
    let page = fs::read_to_string(&path).map_err(|error| format!("{PAGE}: {error}"))?;
    let parts = page.split_once(BEGIN).and_then(|(head, rest)| Some((head, rest.split_once(END)?)));
    let (head, (_, tail)) = parts.ok_or_else(|| format!("{PAGE} has no place for the table"))?;
    let told = format!("{head}{BEGIN}\n{}\n{END}{tail}", table(root)?);
    if told == page {
        return Ok(false);
    }
    fs::write(path, told).map_err(|error| format!("{PAGE}: {error}"))?;
    Ok(true)
}

/// The table of all methods, with the sums of the books.
fn table(root: &Path) -> Result<String, String> {
    let books = fs::read_to_string(root.join(RUNS)).map_err(|error| format!("{RUNS}: {error}"))?;
    let mut sums: BTreeMap<&str, Sums> = BTreeMap::new();
    for (at, line) in books.lines().enumerate() {
        let wrong = |what: &str| format!("{RUNS}, line {}: {what}", at + 1);
        let run: Value = serde_json::from_str(line).map_err(|error| wrong(&error.to_string()))?;
        let method = METHODS.iter().find(|method| run["method"] == method.name);
        let sum = sums.entry(method.ok_or_else(|| wrong("an unknown method"))?.name).or_default();
        sum.add(&run).ok_or_else(|| wrong("not a run"))?;
    }
    let mut table = String::from(
        "| method | command | runs so far | faults injected | batches acknowledged | records \
         checked | lost | duplicated | broken otherwise | last commit |\n",
    );
    table.push_str("|---|---|---|---|---|---|---|---|---|---|\n");
    for Method { name, unit, what, command } in METHODS {
        let sum = sums.remove(name).unwrap_or_default();
        let Sums { units, discarded, faults, acked, checked, .. } = sum;
        let Sums { lost, duplicated, broken, last, .. } = sum;
        let [units, faults, acked, checked] = [units, faults, acked, checked].map(grouped);
        let beside = match discarded {
            0 => String::new(),
            discarded => format!(", {} discarded", grouped(discarded)),
        };
        writeln!(
            table,
            "| {name}: {what} | `{command}` | {units} {unit}{beside} | {faults} | {acked} \
             | {checked} | {lost} | {duplicated} | {broken} | {last} |"
        )
        .expect("a string takes it");
    }
    Ok(table)
}

#[derive(Default)]
struct Sums {
    units: u64,
    discarded: u64,
    faults: u64,
    acked: u64,
    checked: u64,
    lost: u64,
    duplicated: u64,
    broken: u64,
    last: String,
}

impl Sums {
    fn add(&mut self, run: &Value) -> Option<()> {
        self.units += run["units"].as_u64()?;
        self.acked += run["acked"].as_u64()?;
        self.checked += run["checked"].as_u64()?;
        self.lost += run["lost"].as_u64()?;
        self.duplicated += run["duplicated"].as_u64()?;
        self.broken += run["broken"].as_u64()?;
        for count in run["faults"].as_object()?.values() {
            self.faults += count.as_u64()?;
        }
        self.discarded += run["notes"]["discarded"].as_u64().unwrap_or_default();
        run["commit"].as_str()?.clone_into(&mut self.last);
        Some(())
    }
}

/// What a harness's process ends with: 0 when all is well, 1 when something was broken, and 2, with
/// words on the error output, when it could not be run.
#[must_use]
pub fn exit_code(ran: Result<bool, String>) -> ExitCode {
    match ran {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::from(2)
        }
    }
}

/// Digits in threes.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut grouped = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digits_stand_in_threes() {
        let told = [0, 999, 1000, 12_345, 1_234_567].map(grouped);
        assert_eq!(told, ["0", "999", "1,000", "12,345", "1,234,567"]);
    }
}
