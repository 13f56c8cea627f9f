//! `gateway du` and `gateway prune`: what the store holds as usage records, and removing some of it.

use clap::{Args, ValueEnum};
use gateway_solver::{DiskSpace, PruneOptions, UsageRecord, time_text};

use crate::collection::{Space, duration};
use crate::error::{CliError, UsageError};
use crate::store::{StoreArgs, blocking, with_store};
use crate::table::{self, Column, Layout};
use crate::text::{print, size_text};

/// Show what the store holds and how much of it could be removed.
#[derive(Debug, Args)]
pub struct Du {
    /// Only records that match, e.g. type==exec.cachemount, 'description~=apt', mutable (may be repeated)
    #[arg(short, long = "filter", value_name = "FILTER")]
    filters: Vec<String>,

    /// All that is known of each record
    #[arg(short, long)]
    verbose: bool,

    /// How it is written
    #[arg(long, value_name = "FORM", default_value = "table")]
    format: Form,

    #[command(flatten)]
    store: StoreArgs,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Form {
    Table,
    Json,
}

/// Remove cached results, cache mounts and other records; never what a running build uses or a named image has.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  gateway prune --force                              everything that is not in use
  gateway prune --force --keep-duration 48h          what was not used for two days
  gateway prune --force --max-used-space 10GB        the least used, until 10 GB are left
  gateway prune --force --filter type==exec.cachemount   cache mounts")]
pub struct Prune {
    /// Also internal records, layers of frontends, and unpacked layers of named images
    #[arg(short, long)]
    all: bool,

    /// Only records that match, e.g. type==regular, until=24h (may be repeated)
    #[arg(long = "filter", value_name = "FILTER")]
    filters: Vec<String>,

    /// Spare what was used more recently, e.g. 48h
    #[arg(long, value_name = "DURATION")]
    keep_duration: Option<String>,

    /// Stop when no more than this is left, e.g. 10GB or 10%
    #[arg(long, value_name = "SPACE", alias = "keep-storage")]
    max_used_space: Option<String>,

    /// Stop when this much of the disk is free
    #[arg(long, value_name = "SPACE", alias = "free-storage")]
    min_free_space: Option<String>,

    /// Never go below this
    #[arg(long, value_name = "SPACE", alias = "keep-storage-min")]
    reserved_space: Option<String>,

    /// Do not ask
    #[arg(short, long)]
    force: bool,

    /// All that is known of each record
    #[arg(short, long)]
    verbose: bool,

    /// How it is written
    #[arg(long, value_name = "FORM", default_value = "table")]
    format: Form,

    #[command(flatten)]
    store: StoreArgs,
}

pub fn du(args: &Du) -> Result<(), CliError> {
    let filters = filters(&args.filters)?.0;
    with_store(&args.store, async |solver, _| {
        let records = blocking(move || solver.disk_usage(&filters)).await?;
        print(&match (args.format, args.verbose) {
            (Form::Json, _) => json(&records),
            (Form::Table, true) => records.iter().map(details).collect(),
            (Form::Table, false) => table(&records, table::terminal()),
        });
        if args.format == Form::Table && args.filters.is_empty() {
            print(&summary(&records));
        }
        Ok(())
    })
}

pub fn prune(args: &Prune) -> Result<(), CliError> {
    let (filters, until) = filters(&args.filters)?;
    let space = |flag: &str, text: &Option<String>| {
        let parsed = text.as_deref().map(Space::parse).transpose();
        parsed
            .map_err(|problem| UsageError::new(flag, text.clone().unwrap_or_default(), problem))
            .map(Option::unwrap_or_default)
    };
    let max_used = space("--max-used-space", &args.max_used_space)?;
    let min_free = space("--min-free-space", &args.min_free_space)?;
    let reserved = space("--reserved-space", &args.reserved_space)?;
    let keep = match &args.keep_duration {
        Some(text) => {
            duration(text).map_err(|problem| UsageError::new("--keep-duration", text, problem))?
        }
        None => until.unwrap_or_default(),
    };
    confirm(args)?;
    let (all, form, verbose) = (args.all, args.format, args.verbose);
    let terminal = table::terminal();
    with_store(&args.store, async |solver, _| {
        let total = blocking(move || {
            // Parts of a disk are of that which has the store.
            let disk = solver
                .disk_space()
                .unwrap_or(DiskSpace { total: 0, free: 0 });
            let options = PruneOptions {
                filters,
                all,
                keep_duration: keep,
                reserved_space: reserved.bytes(disk),
                max_used_space: max_used.bytes(disk),
                min_free_space: min_free.bytes(disk),
            };
            let (mut total, mut first) = (0_u64, true);
            solver.prune(&[options], |record| {
                total = total.saturating_add(record.size);
                let one = std::slice::from_ref(record);
                print(&match (form, verbose) {
                    (Form::Json, _) => json_line(record),
                    (Form::Table, true) => details(record),
                    (Form::Table, false) if first => table(one, terminal),
                    (Form::Table, false) => rows(one, terminal),
                });
                first = false;
            })?;
            Ok::<_, gateway_solver::SolverError>(total)
        })
        .await?;
        if form == Form::Table {
            print(&format!("Total:\t{}\n", size_text(total)));
        }
        Ok(())
    })
}

/// Asks on a terminal; without one only `--force` will do.
fn confirm(args: &Prune) -> Result<(), CliError> {
    if args.force {
        return Ok(());
    }
    if !crate::prompt::is_possible() {
        let problem = "there is no terminal to ask on: say --force".to_owned();
        return Err(UsageError::new("prune", "", problem).into());
    }
    let what = match (args.all, args.filters.is_empty()) {
        (true, true) => "everything that is not in use, internal records too",
        (false, true) => "all cached results and cache mounts that are not in use",
        (_, false) => "what matches the filters and is not in use",
    };
    let answer = crate::prompt::ask(&format!("This removes {what}. Go on? [y/N] "), true)?;
    match answer.trim().to_ascii_lowercase().as_str() {
        "y" | "yes" => Ok(()),
        _ => Err(CliError::Refused),
    }
}

/// Filters as the store reads them. Those of `docker buildx` with a single `=` are understood too, and its
/// `until`, which is a duration.
fn filters(given: &[String]) -> Result<(Vec<String>, Option<std::time::Duration>), CliError> {
    let mut filters = Vec::new();
    let mut until = None;
    for filter in given {
        let single = filter
            .split_once('=')
            .filter(|(name, value)| !value.starts_with('=') && !name.ends_with(['!', '~']));
        match single {
            Some(("until", value)) => {
                let parsed = duration(value)
                    .map_err(|problem| UsageError::new("--filter", filter, problem))?;
                until = Some(parsed);
            }
            Some(("id", value)) => filters.push(format!("id~={value}")),
            Some((name, value)) => filters.push(format!("{name}=={value}")),
            None => filters.push(filter.clone()),
        }
    }
    Ok((filters, until))
}

fn json(records: &[UsageRecord]) -> String {
    let mut text = serde_json::to_string(records).unwrap_or_default();
    text.push('\n');
    text
}

fn json_line(record: &UsageRecord) -> String {
    let mut text = serde_json::to_string(record).unwrap_or_default();
    text.push('\n');
    text
}

fn columns() -> [Column; 4] {
    [
        Column::of("ID", 72).down_to(14),
        Column::of("RECLAIMABLE", 11),
        Column::of("      SIZE", 11),
        Column::of("LAST ACCESSED", 30).or_none(),
    ]
}

fn layout(terminal: Option<usize>) -> Layout {
    Layout::fit(&columns(), &[0], terminal)
}

fn table(records: &[UsageRecord], terminal: Option<usize>) -> String {
    layout(terminal).head(&columns()) + &rows(records, terminal)
}

fn rows(records: &[UsageRecord], terminal: Option<usize>) -> String {
    let layout = layout(terminal);
    let row = |record: &UsageRecord| {
        let mut id = record.id.clone();
        if record.mutable {
            id.push('*');
        }
        let shared = if record.shared { "*" } else { " " };
        layout.line(&[
            id,
            (!record.in_use).to_string(),
            format!("{:>10}{shared}", size_text(record.size)),
            record.last_used_at.map_or_else(String::new, time_text),
        ])
    };
    records.iter().map(row).collect()
}

fn details(record: &UsageRecord) -> String {
    let mut text = String::new();
    let mut line = |name: &str, value: &str| text.push_str(&format!("{name:16}{value}\n"));
    line("ID:", &record.id);
    if !record.parents.is_empty() {
        line("Parents:", &record.parents.join(";"));
    }
    line("Created at:", &time_text(record.created_at));
    line("Mutable:", &record.mutable.to_string());
    line("Reclaimable:", &(!record.in_use).to_string());
    line("Shared:", &record.shared.to_string());
    line("Size:", &size_text(record.size));
    if !record.description.is_empty() {
        line("Description:", &record.description);
    }
    line("Usage count:", &record.usage_count.to_string());
    if let Some(last) = record.last_used_at {
        line("Last used:", &time_text(last));
    }
    line("Type:", record.record_type.as_str());
    text.push('\n');
    text
}

fn summary(records: &[UsageRecord]) -> String {
    let sum = |wanted: &dyn Fn(&UsageRecord) -> bool| -> u64 {
        records.iter().filter(|r| wanted(r)).map(|r| r.size).sum()
    };
    let (total, shared) = (sum(&|_| true), sum(&|r| r.shared));
    let mut text = String::new();
    if shared > 0 {
        text += &format!("Shared:\t\t{}\n", size_text(shared));
        text += &format!("Private:\t{}\n", size_text(total - shared));
    }
    text += &format!("Reclaimable:\t{}\n", size_text(sum(&|r| !r.in_use)));
    text + &format!("Total:\t\t{}\n", size_text(total))
}

#[cfg(test)]
mod tests {
    use super::*;
    use gateway_solver::RecordType;

    fn records() -> Vec<UsageRecord> {
        let layer = UsageRecord {
            id: format!("sha256:{}", "ab".repeat(32)),
            mutable: false,
            in_use: false,
            size: 1_980_000,
            parents: vec!["p1".into()],
            created_at: 1_700_000_000_000_000_000,
            last_used_at: Some(1_700_000_060_000_000_000),
            usage_count: 3,
            record_type: RecordType::Regular,
            shared: true,
            description: "pulled from docker.io/library/busybox:latest".into(),
        };
        let cache = UsageRecord {
            id: "0123456789abcdef".into(),
            mutable: true,
            in_use: true,
            size: 20_000,
            parents: Vec::new(),
            last_used_at: None,
            usage_count: 0,
            record_type: RecordType::CacheMount,
            shared: false,
            description: "cached mount /c from exec /bin/sh -c true".into(),
            ..layer.clone()
        };
        vec![layer, cache]
    }

    #[test]
    fn records_are_a_table_with_a_summary() {
        let text = table(&records(), None) + &summary(&records());
        insta::assert_snapshot!(text, @r"
        ID                                                                        RECLAIMABLE        SIZE   LAST ACCESSED
        sha256:abababababababababababababababababababababababababababababababab   true             1.98MB*  2023-11-14T22:14:20Z
        0123456789abcdef*                                                         false           20.00kB
        Shared:		1.98MB
        Private:	20.00kB
        Reclaimable:	1.98MB
        Total:		2.00MB
        ");
    }

    #[test]
    fn details_are_lines_and_json_has_the_names_of_the_reference() {
        insta::assert_snapshot!(details(&records()[0]), @r"
        ID:             sha256:abababababababababababababababababababababababababababababababab
        Parents:        p1
        Created at:     2023-11-14T22:13:20Z
        Mutable:        false
        Reclaimable:    true
        Shared:         true
        Size:           1.98MB
        Description:    pulled from docker.io/library/busybox:latest
        Usage count:    3
        Last used:      2023-11-14T22:14:20Z
        Type:           regular
        ");
        insta::assert_snapshot!(json(&records()[1..]), @r#"[{"id":"0123456789abcdef","mutable":true,"inUse":true,"size":20000,"parents":[],"createdAt":"2023-11-14T22:13:20Z","lastUsedAt":null,"usageCount":0,"recordType":"exec.cachemount","shared":false,"description":"cached mount /c from exec /bin/sh -c true"}]"#);
    }

    #[test]
    fn filters_of_other_clients_are_understood() {
        let given = [
            "type=regular",
            "id=ab",
            "until=1h",
            "mutable",
            "id~=^a",
            "type!=x",
            "a==b",
        ];
        let given: Vec<String> = given.iter().map(|f| (*f).to_owned()).collect();
        let (read, until) = filters(&given).unwrap();
        assert_eq!(
            read,
            [
                "type==regular",
                "id~=ab",
                "mutable",
                "id~=^a",
                "type!=x",
                "a==b"
            ]
        );
        assert_eq!(until.unwrap().as_secs(), 3600);
        assert!(filters(&["until=soon".to_owned()]).is_err());
    }
}
