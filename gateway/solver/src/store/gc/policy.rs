//! How much may stay: limits, their defaults, and the order in which things go.

use std::time::Duration;

use super::record::UsageRecord;
use crate::store::DiskSpace;

/// What may go and when to stop. All zero and empty: everything that is not used.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PruneOptions {
    /// Filters, of which one must match; none: everything.
    pub filters: Vec<String>,
    /// Also internal records, layers of frontends, and what named images have too.
    pub all: bool,
    /// Spares what was used more recently.
    pub keep_duration: Duration,
    /// Bytes that stay in any case; 0: none.
    pub reserved_space: u64,
    /// Bytes above which things go; 0: no such limit.
    pub max_used_space: u64,
    /// Free bytes of the disk below which things go; 0: no such limit.
    pub min_free_space: u64,
}

const GIB: u64 = 1 << 30;
const GB: u64 = 1_000_000_000;
const HOUR: Duration = Duration::from_secs(3600);
const RESERVED_PERCENT: u64 = 10;
const RESERVED_MOST: u64 = 10 * GB;
const MAX_USED_PERCENT: u64 = 80;
const MAX_USED_MOST: u64 = 100 * GB;
const MIN_FREE_PERCENT: u64 = 20;
/// What easily made things may take that nobody used for [`IDLE`].
const IDLE_BYTES: u64 = 512_000_000;
const IDLE: Duration = Duration::from_secs(48 * HOUR.as_secs());
const FORGOTTEN: Duration = Duration::from_secs(60 * 24 * HOUR.as_secs());

/// A part of the disk, rounded up as the reference does it.
pub fn percent(disk: DiskSpace, percent: u64) -> u64 {
    let part = u128::from(disk.total) * u128::from(percent) / 100;
    let part = u64::try_from(part).unwrap_or(u64::MAX);
    (part / GIB + 1).saturating_mul(GB)
}

/// The reference's policies for a disk when nobody configured any.
pub fn default_policies(disk: DiskSpace) -> Vec<PruneOptions> {
    policies_with_limits(
        percent(disk, RESERVED_PERCENT).min(RESERVED_MOST),
        percent(disk, MAX_USED_PERCENT).min(MAX_USED_MOST),
        percent(disk, MIN_FREE_PERCENT),
    )
}

/// The same with limits of one's own, in bytes.
pub fn policies_with_limits(
    reserved_space: u64,
    max_used_space: u64,
    min_free_space: u64,
) -> Vec<PruneOptions> {
    let limits = PruneOptions {
        reserved_space,
        max_used_space,
        min_free_space,
        ..PruneOptions::default()
    };
    vec![
        PruneOptions {
            filters: [
                "type==source.local",
                "type==exec.cachemount",
                "type==source.git.checkout",
            ]
            .map(str::to_owned)
            .to_vec(),
            keep_duration: IDLE,
            max_used_space: IDLE_BYTES,
            ..PruneOptions::default()
        },
        PruneOptions {
            keep_duration: FORGOTTEN,
            ..limits.clone()
        },
        limits.clone(),
        PruneOptions {
            all: true,
            ..limits
        },
    ]
}

impl PruneOptions {
    pub fn has_limits(&self) -> bool {
        self.reserved_space != 0 || self.max_used_space != 0 || self.min_free_space != 0
    }

    /// How many bytes may stay; `None`: as few as can be.
    pub fn keep_bytes(&self, used: u64, free: u64) -> Option<u64> {
        if !self.has_limits() {
            return None;
        }
        let mut keep = Some(self.max_used_space).filter(|bytes| *bytes != 0);
        match self.min_free_space.saturating_sub(free) {
            0 if self.min_free_space != 0 => keep = keep.or(Some(u64::MAX)),
            0 => {}
            excess => {
                let rest = used.saturating_sub(excess);
                keep = Some(keep.map_or(rest, |keep| keep.min(rest)));
            }
        }
        Some(keep.unwrap_or(0).max(self.reserved_space))
    }
}

/// The records in the order in which they go: those long not used and seldom used first. Places in both
/// orders are added up, each as a part of the number of different values.
pub fn order(records: &mut [&UsageRecord]) {
    let places = |values: Vec<i64>| {
        let mut sorted = values.clone();
        sorted.sort_unstable();
        sorted.dedup();
        let count = sorted.len().max(1) as f64;
        values
            .iter()
            .map(|value| (sorted.partition_point(|v| v < value) + 1) as f64 / count)
            .collect::<Vec<f64>>()
    };
    // Never used is longest not used.
    let times = records.iter().map(|r| r.last_used_at.unwrap_or(i64::MIN));
    let times = places(times.collect());
    let counts = records
        .iter()
        .map(|r| i64::try_from(r.usage_count).unwrap_or(i64::MAX));
    let counts = places(counts.collect());
    let mut scored: Vec<(f64, &UsageRecord)> = times
        .iter()
        .zip(&counts)
        .map(|(time, count)| time + count)
        .zip(records.iter().copied())
        .collect();
    scored.sort_by(|(a, one), (b, two)| {
        a.total_cmp(b)
            .then_with(|| one.created_at.cmp(&two.created_at))
            .then_with(|| one.id.cmp(&two.id))
    });
    for (place, (_, record)) in records.iter_mut().zip(scored) {
        *place = record;
    }
}

#[cfg(test)]
mod tests {
    use super::super::record::RecordType;
    use super::*;

    #[test]
    fn limits_are_put_together_as_the_reference_does_it() {
        let options = |reserved_space, max_used_space, min_free_space| PruneOptions {
            reserved_space,
            max_used_space,
            min_free_space,
            ..PruneOptions::default()
        };
        // used 100, free 50
        for (reserved, max, free, keep) in [
            (0, 0, 0, None),
            (0, 80, 0, Some(80)),
            (90, 80, 0, Some(90)),
            (90, 0, 0, Some(90)),
            (0, 0, 40, Some(u64::MAX)),
            (0, 0, 70, Some(80)),
            (0, 60, 70, Some(60)),
            (0, 90, 70, Some(80)),
            (85, 90, 70, Some(85)),
            (0, 0, 500, Some(0)),
        ] {
            let kept = options(reserved, max, free).keep_bytes(100, 50);
            assert_eq!(kept, keep, "{reserved} {max} {free}");
        }
    }

    #[test]
    fn default_policies_are_those_of_the_reference() {
        let small = default_policies(DiskSpace {
            total: 50 * GIB,
            free: 0,
        });
        assert_eq!(small.len(), 4);
        assert_eq!(small[0].max_used_space, 512_000_000);
        assert_eq!(small[0].keep_duration.as_secs(), 48 * 3600);
        assert_eq!(small[1].keep_duration.as_secs(), 60 * 86_400);
        assert_eq!(small[2].reserved_space, 6 * GB);
        assert_eq!(small[2].max_used_space, 41 * GB);
        assert_eq!(small[2].min_free_space, 11 * GB);
        assert!(small[3].all && !small[2].all);
        let large = default_policies(DiskSpace {
            total: 4000 * GIB,
            free: 0,
        });
        assert_eq!(large[3].reserved_space, 10 * GB);
        assert_eq!(large[3].max_used_space, 100 * GB);
        assert_eq!(large[3].min_free_space, 801 * GB);
    }

    #[test]
    fn what_was_used_long_ago_and_seldom_goes_first() {
        let record = |id: &str, last_used_at, usage_count| UsageRecord {
            id: id.into(),
            mutable: false,
            in_use: false,
            size: 1,
            parents: Vec::new(),
            created_at: 0,
            last_used_at,
            usage_count,
            record_type: RecordType::Regular,
            shared: false,
            description: String::new(),
        };
        let records = [
            record("often, now", Some(30), 9),
            record("once, now", Some(30), 1),
            record("often, long ago", Some(10), 9),
            record("once, long ago", Some(10), 1),
            record("never", None, 0),
        ];
        let mut ordered: Vec<&UsageRecord> = records.iter().collect();
        order(&mut ordered);
        let names: Vec<&str> = ordered.iter().map(|record| record.id.as_str()).collect();
        assert_eq!(names[..2], ["never", "once, long ago"]);
        assert_eq!(names[4], "often, now");
    }
}
