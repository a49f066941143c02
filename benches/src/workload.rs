//! Workloads and rivals as data: reads `workloads/*.toml`.
//!
//! A workload has lanes; within a round each lane is measured once, in order. A lane is a rival, maybe with its own
//! number of threads or its own spread of keys. A need is a ratio between two lanes.

use crate::keys::Distribution;
use crate::preload::Preload;
use crate::rival::parse_cores;
use crate::wire::{Protocol, Reads, Shape};
use anyhow::{Context as _, bail, ensure};
use std::path::Path;
use toml::{Table, Value};

/// A server that can be measured.
#[derive(Clone, Debug)]
pub struct Rival {
    /// What lanes call it.
    pub name: String,
    /// Program and arguments, with places such as `{port}` (see `rival`).
    pub command: Vec<String>,
    /// As `command`, for a second server that works for the first, as another node does: what it uses counts. May be empty.
    pub beside: Vec<String>,
    /// Prints the version.
    pub version: Vec<String>,
    /// What it speaks.
    pub protocol: Protocol,
    /// How its keys come in.
    pub preload: Preload,
    /// Whether every reply is that of key 0.
    pub canned: bool,
    /// Files that are put into the server's own folder: name and text, with the same places as the command.
    pub files: Vec<(String, String)>,
}

/// One measured series of a workload.
#[derive(Clone, Debug)]
pub struct Lane {
    /// Unique in the workload.
    pub name: String,
    /// Name of the rival.
    pub rival: String,
    /// Threads, and cores, of the server.
    pub threads: usize,
    /// Its own spread of keys.
    pub distribution: Distribution,
}

/// A ratio of CPU time per operation that shall hold.
#[derive(Clone, Debug)]
pub struct Need {
    /// The lane that shall be fast.
    pub lane: String,
    /// The lane it is compared with.
    pub against: String,
    /// Largest ratio that is well.
    pub at_most: f64,
}

/// What is asked of the servers.
#[derive(Clone, Debug)]
pub struct Workload {
    /// Unique over all files.
    pub name: String,
    /// One sentence for the record.
    pub summary: String,
    /// Share of reads in percent.
    pub get_percent: u8,
    /// Whether a read may find nothing.
    pub misses: bool,
    /// How memcached's clients read.
    pub reads: Reads,
    /// Requests in a batch.
    pub pipeline: usize,
    /// Connections in all.
    pub connections: usize,
    /// Number of keys.
    pub keys: u64,
    /// Cores of the generator, one thread each; `None` = as for all workloads.
    pub generator_cores: Option<Vec<usize>>,
    /// Times that the servers are started, with a part of the rounds each: where the system puts a process's memory is chance, and
    /// counts.
    pub starts: usize,
    /// What keys and values look like.
    pub shape: Shape,
    /// As tables list them.
    pub lanes: Vec<Lane>,
    /// What shall hold.
    pub needs: Vec<Need>,
}

/// All workloads and rivals.
#[derive(Clone, Debug, Default)]
pub struct Plans {
    /// In the order of the files' names, then as written.
    pub workloads: Vec<(String, Workload)>,
    /// From `rivals.toml`.
    pub rivals: Vec<Rival>,
}

impl Plans {
    /// Reads every `*.toml` of the folder; `rivals.toml` holds the rivals.
    ///
    /// # Errors
    /// Names the file and the mistake.
    pub fn read(folder: &Path) -> anyhow::Result<Self> {
        let mut paths = std::fs::read_dir(folder)
            .with_context(|| format!("no workloads in {}", folder.display()))?
            .map(|entry| entry.map(|entry| entry.path()))
            .collect::<Result<Vec<_>, _>>()?;
        paths.retain(|path| path.extension().is_some_and(|extension| extension == "toml"));
        paths.sort();
        let mut plans = Self::default();
        for path in paths {
            let stem = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
            plans.read_file(&path, &stem).with_context(|| format!("in {}", path.display()))?;
        }
        plans.check()?;
        Ok(plans)
    }

    /// The rival of that name.
    #[must_use]
    pub fn rival(&self, name: &str) -> Option<&Rival> {
        self.rivals.iter().find(|rival| rival.name == name)
    }

    fn read_file(&mut self, path: &Path, stem: &str) -> anyhow::Result<()> {
        let table: Table = std::fs::read_to_string(path)?.parse()?;
        for (name, value) in &table {
            match (name.as_str(), value) {
                ("workload", Value::Array(list)) => {
                    for value in list {
                        let workload = workload(value.as_table().context("a workload is a table")?)?;
                        self.workloads.push((stem.to_owned(), workload));
                    }
                }
                ("rival", Value::Table(rivals)) => {
                    for (name, value) in rivals {
                        let rival = rival(name, value.as_table().context("a rival is a table")?);
                        self.rivals.push(rival.with_context(|| format!("rival {name}"))?);
                    }
                }
                _ => bail!("`{name}` is neither [[workload]] nor [rival.NAME]"),
            }
        }
        Ok(())
    }

    fn check(&self) -> anyhow::Result<()> {
        for (index, (_, workload)) in self.workloads.iter().enumerate() {
            let name = &workload.name;
            ensure!(!self.workloads[..index].iter().any(|(_, other)| other.name == *name), "two workloads {name}");
            for (index, lane) in workload.lanes.iter().enumerate() {
                ensure!(self.rival(&lane.rival).is_some(), "workload {name}: no rival {}", lane.rival);
                let twice = workload.lanes[..index].iter().any(|other| other.name == lane.name);
                ensure!(!twice, "workload {name}: two lanes {}", lane.name);
            }
            // A key that is missing has no reply of its own, and a write no place in the line.
            let is_joinable = workload.get_percent == 100 && !workload.misses;
            ensure!(
                workload.reads != Reads::Joined || is_joinable,
                "workload {name}: joined reads that all hit, or none"
            );
            for lane in workload.needs.iter().flat_map(|need| [&need.lane, &need.against]) {
                ensure!(workload.lanes.iter().any(|other| other.name == *lane), "workload {name}: no lane {lane}");
            }
        }
        Ok(())
    }
}

fn workload(table: &Table) -> anyhow::Result<Workload> {
    let name = text(table, "name")?.to_owned();
    workload_fields(table, name.clone()).with_context(|| format!("workload {name}"))
}

fn workload_fields(table: &Table, name: String) -> anyhow::Result<Workload> {
    only(
        table,
        &[
            "name",
            "summary",
            "get_percent",
            "misses",
            "reads",
            "pipeline",
            "connections",
            "keys",
            "generator_cores",
            "starts",
            "prefix",
            "key_bytes",
            "value_bytes",
            "distribution",
            "lanes",
            "needs",
        ],
    )?;
    let spread = distribution(table)?.unwrap_or(Distribution::Uniform);
    let lanes = table.get("lanes").and_then(Value::as_array).context("lanes: a list")?;
    let needs = table.get("needs").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    Ok(Workload {
        name,
        summary: text(table, "summary")?.to_owned(),
        get_percent: u8::try_from(number(table, "get_percent", 100, 0, 100)?)?,
        misses: table.get("misses").and_then(Value::as_bool).unwrap_or(false),
        reads: reads(table)?,
        pipeline: number(table, "pipeline", 1, 1, 1000)?,
        connections: number(table, "connections", 50, 1, 10_000)?,
        keys: number(table, "keys", 1_000_000, 1, 99_999_999)? as u64,
        generator_cores: match table.get("generator_cores") {
            None => None,
            Some(_) => Some(parse_cores(text(table, "generator_cores")?).context("generator_cores")?),
        },
        starts: number(table, "starts", 1, 1, 100)?,
        shape: Shape {
            prefix: table.get("prefix").and_then(Value::as_str).unwrap_or("key:").to_owned(),
            key_bytes: number(table, "key_bytes", 32, 16, 250)?,
            value_bytes: number(table, "value_bytes", 32, 1, 1 << 20)?,
        },
        lanes: lanes.iter().map(|value| lane(value, spread)).collect::<anyhow::Result<_>>()?,
        needs: needs.iter().map(need).collect::<anyhow::Result<_>>()?,
    })
}

fn lane(value: &Value, spread: Distribution) -> anyhow::Result<Lane> {
    match value {
        Value::String(rival) => {
            Ok(Lane { name: rival.clone(), rival: rival.clone(), threads: 1, distribution: spread })
        }
        Value::Table(table) => {
            only(table, &["name", "rival", "threads", "distribution"])?;
            Ok(Lane {
                name: text(table, "name")?.to_owned(),
                rival: text(table, "rival")?.to_owned(),
                threads: number(table, "threads", 1, 1, 1024)?,
                distribution: distribution(table)?.unwrap_or(spread),
            })
        }
        _ => bail!("a lane is a rival's name or a table"),
    }
}

fn need(value: &Value) -> anyhow::Result<Need> {
    let table = value.as_table().context("a need is a table")?;
    only(table, &["lane", "against", "at_most"])?;
    Ok(Need {
        lane: text(table, "lane")?.to_owned(),
        against: text(table, "against")?.to_owned(),
        at_most: table.get("at_most").and_then(Value::as_float).context("at_most: a decimal number")?,
    })
}

fn rival(name: &str, table: &Table) -> anyhow::Result<Rival> {
    only(table, &["command", "beside", "version", "protocol", "preload", "canned", "files"])?;
    Ok(Rival {
        name: name.to_owned(),
        command: texts(table, "command")?,
        beside: if table.contains_key("beside") { texts(table, "beside")? } else { Vec::new() },
        version: texts(table, "version")?,
        protocol: match text(table, "protocol")? {
            "resp" => Protocol::Resp,
            "memcached" => Protocol::Memcached,
            other => bail!("protocol `{other}`: resp or memcached"),
        },
        preload: match table.get("preload").map_or(Some("set"), Value::as_str) {
            Some("nothing") => Preload::Nothing,
            Some("set") => Preload::Set,
            Some("load") => Preload::Load,
            _ => bail!("preload: nothing, set or load"),
        },
        canned: table.get("canned").and_then(Value::as_bool).unwrap_or(false),
        files: match table.get("files") {
            None => Vec::new(),
            Some(files) => {
                let files = files.as_table().context("files: a table of texts")?;
                files
                    .iter()
                    .map(|(name, _)| Ok((name.clone(), text(files, name)?.to_owned())))
                    .collect::<anyhow::Result<_>>()?
            }
        },
    })
}

fn distribution(table: &Table) -> anyhow::Result<Option<Distribution>> {
    Ok(Some(match table.get("distribution").map(Value::as_str) {
        None => return Ok(None),
        Some(Some("uniform")) => Distribution::Uniform,
        Some(Some("zipf")) => Distribution::Zipf,
        Some(Some("hot")) => Distribution::Hot,
        Some(_) => bail!("distribution: uniform, zipf or hot"),
    }))
}

fn reads(table: &Table) -> anyhow::Result<Reads> {
    Ok(match table.get("reads").map(|value| value.as_str()) {
        None | Some(Some("get")) => Reads::Get,
        Some(Some("meta")) => Reads::Meta,
        Some(Some("joined")) => Reads::Joined,
        Some(_) => bail!("reads: get, meta or joined"),
    })
}

fn only(table: &Table, allowed: &[&str]) -> anyhow::Result<()> {
    match table.keys().find(|name| !allowed.contains(&name.as_str())) {
        Some(name) => bail!("unknown field `{name}`; allowed: {}", allowed.join(", ")),
        None => Ok(()),
    }
}

fn text<'a>(table: &'a Table, name: &str) -> anyhow::Result<&'a str> {
    table.get(name).and_then(Value::as_str).with_context(|| format!("{name}: a text is missing"))
}

fn texts(table: &Table, name: &str) -> anyhow::Result<Vec<String>> {
    let list = table.get(name).and_then(Value::as_array).with_context(|| format!("{name}: a list is missing"))?;
    let text = |value: &Value| value.as_str().map(str::to_owned).with_context(|| format!("{name}: texts only"));
    list.iter().map(text).collect()
}

fn number(table: &Table, name: &str, default: i64, least: i64, most: i64) -> anyhow::Result<usize> {
    let value = match table.get(name) {
        None => default,
        Some(value) => value.as_integer().with_context(|| format!("{name}: a whole number"))?,
    };
    ensure!((least..=most).contains(&value), "{name} = {value}: {least} to {most}");
    Ok(value as usize)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_workloads_in_the_tree_are_sound() {
        let plans = Plans::read(&Path::new(env!("CARGO_MANIFEST_DIR")).join("workloads")).expect("sound files");
        assert!(plans.workloads.len() >= 5);
        assert!(plans.workloads.iter().any(|(_, workload)| !workload.needs.is_empty()));
    }

    #[test]
    fn a_mistake_is_named() {
        let table: Table = "name = \"x\"\nsummary = \"y\"\npipelin = 3\nlanes = []".parse().expect("TOML");
        let error = format!("{:#}", workload(&table).expect_err("a misspelt field"));
        assert!(error.contains("pipelin") && error.contains("workload x"), "{error}");
    }
}
