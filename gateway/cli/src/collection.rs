//! How much the store may hold: the keys of `[worker.oci]` in a buildkitd.toml, with their meaning there.

use std::time::Duration;

use gateway_solver::{DiskSpace, PruneOptions, default_policies, percent, policies_with_limits};

/// What is collected after builds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CollectionSettings {
    enabled: bool,
    limits: Limits,
    policies: Vec<Policy>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Limits {
    reserved: Space,
    max_used: Space,
    min_free: Space,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Policy {
    all: bool,
    filters: Vec<String>,
    keep: Duration,
    limits: Limits,
}

/// An amount of bytes, or a part of the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Space {
    Bytes(u64),
    Percent(u64),
}

impl Default for Space {
    fn default() -> Self {
        Space::Bytes(0)
    }
}

impl Space {
    /// `10GB`, `512MB`, `10%` or a number of bytes. As in buildkitd.toml a kB has 1024 bytes.
    pub fn parse(text: &str) -> Result<Space, String> {
        let text = text.trim();
        let wrong = || format!("{text:?} is no amount of space like 10GB or 10%");
        if let Some(number) = text.strip_suffix('%') {
            let number: u64 = number.parse().map_err(|_| wrong())?;
            return match number {
                0..=100 => Ok(Space::Percent(number)),
                _ => Err(wrong()),
            };
        }
        let lower = text.to_ascii_lowercase();
        let unit = lower.trim_start_matches(|c: char| c.is_ascii_digit() || c == '.');
        let number = lower.strip_suffix(unit).unwrap_or(&lower);
        let shift = match unit.trim().trim_end_matches('b').trim_end_matches('i') {
            "" => 0,
            "k" => 10,
            "m" => 20,
            "g" => 30,
            "t" => 40,
            "p" => 50,
            _ => return Err(wrong()),
        };
        let number: f64 = number.parse().map_err(|_| wrong())?;
        // Above 2^53 a byte more or less says nothing.
        Ok(Space::Bytes((number * (1_u64 << shift) as f64) as u64))
    }

    pub fn bytes(self, disk: DiskSpace) -> u64 {
        match self {
            Space::Bytes(bytes) => bytes,
            Space::Percent(0) => 0,
            Space::Percent(number) => percent(disk, number),
        }
    }
}

/// `48h`, `1h30m`, `10s`, or a number of seconds.
pub fn duration(text: &str) -> Result<Duration, String> {
    let wrong = || format!("{text:?} is no duration like 48h or 1h30m");
    if let Ok(seconds) = text.parse::<u64>() {
        return Ok(Duration::from_secs(seconds));
    }
    let mut total = 0.0_f64;
    let mut rest = text.trim();
    while !rest.is_empty() {
        let unit_at = rest
            .find(|c: char| !(c.is_ascii_digit() || c == '.'))
            .ok_or_else(wrong)?;
        let (number, after) = rest.split_at(unit_at);
        let number: f64 = number.parse().map_err(|_| wrong())?;
        let end = after
            .find(|c: char| c.is_ascii_digit() || c == '.')
            .unwrap_or(after.len());
        let (unit, next) = after.split_at(end);
        total += number
            * match unit {
                "h" => 3600.0,
                "m" => 60.0,
                "s" => 1.0,
                "ms" => 1e-3,
                _ => return Err(wrong()),
            };
        rest = next;
    }
    match text.trim().is_empty() {
        true => Err(wrong()),
        false => Duration::try_from_secs_f64(total).map_err(|_| wrong()),
    }
}

impl Default for CollectionSettings {
    fn default() -> Self {
        CollectionSettings {
            enabled: true,
            limits: Limits::default(),
            policies: Vec::new(),
        }
    }
}

impl CollectionSettings {
    /// What the file says. Keys that are not about collection are the reference's own business.
    pub fn parse(document: &toml::Table) -> Result<CollectionSettings, String> {
        let mut settings = CollectionSettings::default();
        let worker = document
            .get("worker")
            .and_then(|worker| worker.get("oci"))
            .and_then(toml::Value::as_table);
        let Some(worker) = worker else {
            return Ok(settings);
        };
        let at = |problem: String| format!("worker.oci: {problem}");
        if let Some(gc) = worker.get("gc") {
            settings.enabled = gc
                .as_bool()
                .ok_or_else(|| at("gc must be true or false".into()))?;
        }
        settings.limits = limits(worker, "gckeepstorage").map_err(at)?;
        let policies = match worker.get("gcpolicy") {
            None => Vec::new(),
            Some(list) => list
                .as_array()
                .cloned()
                .ok_or_else(|| at("gcpolicy must be a list of tables".into()))?,
        };
        for policy in policies {
            let at = |problem: String| format!("worker.oci.gcpolicy: {problem}");
            let table = policy
                .as_table()
                .ok_or_else(|| at("must be a list of tables".into()))?;
            settings.policies.push(one_policy(table).map_err(at)?);
        }
        Ok(settings)
    }

    /// The policies for a disk; none when nothing is to be collected.
    pub fn policies(self) -> Option<impl FnOnce(DiskSpace) -> Vec<PruneOptions>> {
        let settings = self;
        settings.enabled.then_some(move |disk| settings.on(disk))
    }

    fn on(self, disk: DiskSpace) -> Vec<PruneOptions> {
        if !self.policies.is_empty() {
            let options = |policy: Policy| PruneOptions {
                filters: policy.filters,
                all: policy.all,
                keep_duration: policy.keep,
                reserved_space: policy.limits.reserved.bytes(disk),
                max_used_space: policy.limits.max_used.bytes(disk),
                min_free_space: policy.limits.min_free.bytes(disk),
            };
            return self.policies.into_iter().map(options).collect();
        }
        if self.limits == Limits::default() {
            return default_policies(disk);
        }
        policies_with_limits(
            self.limits.reserved.bytes(disk),
            self.limits.max_used.bytes(disk),
            self.limits.min_free.bytes(disk),
        )
    }
}

fn space(table: &toml::Table, key: &str) -> Result<Space, String> {
    match table.get(key) {
        None => Ok(Space::default()),
        Some(toml::Value::Integer(bytes)) => u64::try_from(*bytes)
            .map(Space::Bytes)
            .map_err(|_| format!("{key} must not be negative")),
        Some(toml::Value::String(text)) => {
            Space::parse(text).map_err(|problem| format!("{key}: {problem}"))
        }
        Some(_) => Err(format!(
            "{key} must be a number of bytes or a text like \"10GB\""
        )),
    }
}

/// `old` is what the reserved space was called before there were three limits.
fn limits(table: &toml::Table, old: &str) -> Result<Limits, String> {
    let mut limits = Limits {
        reserved: space(table, "reservedSpace")?,
        max_used: space(table, "maxUsedSpace")?,
        min_free: space(table, "minFreeSpace")?,
    };
    if limits.reserved == Space::default() {
        limits.reserved = space(table, old)?;
    }
    Ok(limits)
}

fn one_policy(table: &toml::Table) -> Result<Policy, String> {
    let mut policy = Policy {
        limits: limits(table, "keepBytes")?,
        ..Policy::default()
    };
    for (key, value) in table {
        match key.as_str() {
            "all" => {
                policy.all = value
                    .as_bool()
                    .ok_or_else(|| "all must be true or false".to_owned())?;
            }
            "filters" => {
                policy.filters = value
                    .as_array()
                    .and_then(|list| {
                        list.iter()
                            .map(|entry| entry.as_str().map(str::to_owned))
                            .collect()
                    })
                    .ok_or_else(|| "filters must be a list of texts".to_owned())?;
            }
            "keepDuration" => {
                policy.keep = match value {
                    toml::Value::Integer(seconds) => u64::try_from(*seconds)
                        .map(Duration::from_secs)
                        .map_err(|_| "keepDuration must not be negative".to_owned())?,
                    toml::Value::String(text) => duration(text)?,
                    _ => return Err("keepDuration must be a text like \"48h\"".to_owned()),
                };
            }
            "reservedSpace" | "maxUsedSpace" | "minFreeSpace" | "keepBytes" => {}
            // What is not understood could mean that less is to be removed.
            other => return Err(format!("unknown key {other}")),
        }
    }
    Ok(policy)
}

#[cfg(test)]
mod tests {
    use super::*;

    const DISK: DiskSpace = DiskSpace {
        total: 100 << 30,
        free: 50 << 30,
    };

    fn policies(text: &str) -> Vec<PruneOptions> {
        let settings = CollectionSettings::parse(&text.parse().unwrap()).unwrap();
        settings.policies().unwrap()(DISK)
    }

    #[test]
    fn space_and_durations_are_read_as_the_reference_reads_them() {
        for (text, bytes) in [
            ("10GB", 10 << 30),
            ("512mb", 512 << 20),
            ("1.5k", 1536),
            ("7", 7),
            ("2GiB", 2 << 30),
            ("10%", 11_000_000_000),
            ("0%", 0),
        ] {
            assert_eq!(Space::parse(text).unwrap().bytes(DISK), bytes, "{text}");
        }
        for bad in ["", "GB", "10XB", "-1", "101%", "1..2"] {
            assert!(Space::parse(bad).is_err(), "{bad}");
        }
        for (text, seconds) in [("48h", 172_800), ("1h30m", 5400), ("90", 90), ("1.5m", 90)] {
            assert_eq!(duration(text).unwrap().as_secs(), seconds, "{text}");
        }
        for bad in ["", "h", "1x", "1h2", "-1h", "99999999999999999999h"] {
            assert!(duration(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn nothing_said_means_the_usual_policies() {
        assert_eq!(policies(""), default_policies(DISK));
        assert_eq!(
            policies("[worker.oci]\nrootless = true\n"),
            default_policies(DISK)
        );
        let off =
            CollectionSettings::parse(&"[worker.oci]\ngc = false\n".parse().unwrap()).unwrap();
        assert!(off.policies().is_none());
    }

    #[test]
    fn limits_and_policies_of_the_file_are_used() {
        let limited = policies("[worker.oci]\nreservedSpace = \"1GB\"\nmaxUsedSpace = 5\n");
        assert_eq!(limited.len(), 4);
        assert_eq!(limited[3].reserved_space, 1 << 30);
        assert_eq!(limited[3].max_used_space, 5);
        let old = policies("[worker.oci]\ngckeepstorage = 9000\n");
        assert_eq!(old[2].reserved_space, 9000);
        let own = policies(
            "[[worker.oci.gcpolicy]]\nfilters = [\"type==source.local\"]\nkeepDuration = \"48h\"\nkeepBytes = 7\n[[worker.oci.gcpolicy]]\nall = true\nminFreeSpace = \"20%\"\n",
        );
        assert_eq!(own.len(), 2);
        assert_eq!(own[0].filters, ["type==source.local"]);
        assert_eq!(own[0].keep_duration.as_secs(), 172_800);
        assert_eq!(own[0].reserved_space, 7);
        assert!(own[1].all);
        assert_eq!(own[1].min_free_space, 21_000_000_000);
    }

    #[test]
    fn what_is_not_understood_of_a_policy_is_an_error() {
        for text in [
            "[worker.oci]\ngc = 1\n",
            "[worker.oci]\nmaxUsedSpace = \"much\"\n",
            "[worker.oci]\ngcpolicy = 5\n",
            "[[worker.oci.gcpolicy]]\nkeepduration = \"48h\"\n",
            "[[worker.oci.gcpolicy]]\nkeepDuration = \"long\"\n",
        ] {
            assert!(
                CollectionSettings::parse(&text.parse().unwrap()).is_err(),
                "{text}"
            );
        }
    }
}
