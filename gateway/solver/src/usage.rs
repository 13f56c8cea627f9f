//! What the steps of a build and the whole machine used while it ran, for attestations of its
//! provenance that are to say so. In BuildKit's form: a few samples over the time, whatever it was.

use std::future::Future;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use gateway_sandbox::usage::{Pressure, Usage, pressure};
use serde::Serialize;
use serde_json::{Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// Time between two samples, until there are too many.
const INTERVAL: Duration = Duration::from_secs(2);

/// Samples of one step, and of the machine during a build, before they are taken half as often.
const OF_STEP: u32 = 10;
const OF_MACHINE: u32 = 20;

/// The kernel counts time in hundredths of a second towards programs, on every architecture that
/// builds run on.
const TICKS: f64 = 100.0;

/// Samples whose distance grows with the time that they cover, so that their number does not.
struct Samples<T> {
    most: u32,
    interval: Duration,
    first: OffsetDateTime,
    last: OffsetDateTime,
    list: Vec<(OffsetDateTime, T)>,
}

impl<T: Clone> Samples<T> {
    fn new(most: u32, now: OffsetDateTime) -> Samples<T> {
        Samples {
            most,
            interval: INTERVAL,
            first: now,
            last: now,
            list: Vec::new(),
        }
    }

    fn is_due(&self, now: OffsetDateTime) -> bool {
        self.list.is_empty() || now - self.last >= self.interval
    }

    fn add(&mut self, now: OffsetDateTime, sample: T) {
        self.last = now;
        self.list.push((now, sample));
        if now - self.first >= self.interval * self.most {
            self.interval *= 2;
        }
    }

    /// As many as are wanted, and the last one.
    fn told(&self, last: Option<(OffsetDateTime, T)>) -> Vec<(OffsetDateTime, T)> {
        let mut told: Vec<(OffsetDateTime, T)> = Vec::new();
        for (time, sample) in &self.list {
            let far = |(before, _): &(OffsetDateTime, T)| *time - *before >= self.interval;
            if told.last().is_none_or(far) {
                told.push((*time, sample.clone()));
            }
        }
        told.extend(last);
        told
    }
}

#[derive(Serialize)]
struct Timed<T> {
    timestamp: String,
    #[serde(flatten)]
    sample: T,
}

fn listed<T: Serialize>(samples: Vec<(OffsetDateTime, T)>) -> Vec<Value> {
    let timed = samples.into_iter().filter_map(|(time, sample)| {
        let timestamp = time.format(&Rfc3339).ok()?;
        Some(Timed { timestamp, sample })
    });
    timed
        .filter_map(|sample| serde_json::to_value(sample).ok())
        .collect()
}

/// Follows one step.
pub(crate) struct StepUsage {
    samples: Samples<Usage>,
    machine: Option<Processors>,
}

impl StepUsage {
    pub(crate) fn start() -> StepUsage {
        StepUsage {
            samples: Samples::new(OF_STEP, OffsetDateTime::now_utc()),
            machine: Statistics::read().map(|read| read.processors),
        }
    }

    /// Waits for the step's end, and reads now and then what it used so far.
    pub(crate) async fn during<F: Future>(
        &mut self,
        read: impl Fn() -> Option<Usage>,
        work: F,
    ) -> F::Output {
        tokio::pin!(work);
        loop {
            tokio::select! {
                biased;
                out = &mut work => return out,
                () = tokio::time::sleep(INTERVAL) => {
                    let now = OffsetDateTime::now_utc();
                    if self.samples.is_due(now) && let Some(sample) = read() {
                        self.samples.add(now, sample);
                    }
                }
            }
        }
    }

    /// All of it, with what the step used in the end.
    pub(crate) fn told(&self, last: Option<Usage>) -> Value {
        let last = last.map(|last| (OffsetDateTime::now_utc(), last));
        let mut told = serde_json::Map::new();
        let samples = listed(self.samples.told(last));
        if !samples.is_empty() {
            told.insert("samples".into(), samples.into());
        }
        let now = Statistics::read().map(|read| read.processors);
        if let (Some(before), Some(now)) = (&self.machine, now) {
            told.insert("sysCPUStat".into(), json!(now.since(before)));
        }
        told.into()
    }
}

/// Follows the whole machine as long as it lives.
pub struct MachineUsage {
    samples: Arc<Mutex<Samples<Machine>>>,
    task: tokio::task::JoinHandle<()>,
}

impl MachineUsage {
    /// To be called inside a runtime.
    pub fn start() -> MachineUsage {
        let samples = Samples::new(OF_MACHINE, OffsetDateTime::now_utc());
        let samples = Arc::new(Mutex::new(samples));
        let taken = samples.clone();
        let task = tokio::spawn(async move {
            loop {
                tokio::time::sleep(INTERVAL).await;
                let now = OffsetDateTime::now_utc();
                let mut samples = taken.lock().unwrap_or_else(PoisonError::into_inner);
                if samples.is_due(now)
                    && let Some(sample) = Machine::read()
                {
                    samples.add(now, sample);
                }
            }
        });
        MachineUsage { samples, task }
    }

    /// What it was so far, and is now.
    pub fn told(&self) -> Vec<Value> {
        let last = Machine::read().map(|last| (OffsetDateTime::now_utc(), last));
        let samples = self.samples.lock().unwrap_or_else(PoisonError::into_inner);
        listed(samples.told(last))
    }
}

impl Drop for MachineUsage {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Seconds that all processors together spent.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
struct Processors {
    user: f64,
    nice: f64,
    system: f64,
    idle: f64,
    iowait: f64,
    irq: f64,
    softirq: f64,
    steal: f64,
    guest: f64,
    guest_nice: f64,
}

impl Processors {
    fn of(ticks: &[u64]) -> Processors {
        let at = |index: usize| ticks.get(index).copied().unwrap_or(0) as f64 / TICKS;
        Processors {
            user: at(0),
            nice: at(1),
            system: at(2),
            idle: at(3),
            iowait: at(4),
            irq: at(5),
            softirq: at(6),
            steal: at(7),
            guest: at(8),
            guest_nice: at(9),
        }
    }

    fn since(&self, before: &Processors) -> Processors {
        let less = |now: f64, before: f64| ((now - before) * 1000.0).round() / 1000.0;
        Processors {
            user: less(self.user, before.user),
            nice: less(self.nice, before.nice),
            system: less(self.system, before.system),
            idle: less(self.idle, before.idle),
            iowait: less(self.iowait, before.iowait),
            irq: less(self.irq, before.irq),
            softirq: less(self.softirq, before.softirq),
            steal: less(self.steal, before.steal),
            guest: less(self.guest, before.guest),
            guest_nice: less(self.guest_nice, before.guest_nice),
        }
    }
}

/// What `/proc/stat` says.
#[derive(Clone, Debug, Default, PartialEq)]
struct Statistics {
    processors: Processors,
    context_switches: u64,
    created: u64,
    running: u64,
}

impl Statistics {
    fn read() -> Option<Statistics> {
        let text = std::fs::read_to_string("/proc/stat").ok()?;
        Some(Statistics::parse(&text))
    }

    fn parse(text: &str) -> Statistics {
        let mut read = Statistics::default();
        for line in text.lines() {
            let mut words = line.split_whitespace();
            let name = words.next().unwrap_or_default();
            let mut numbers = words.map_while(|word| word.parse::<u64>().ok());
            match name {
                "cpu" => read.processors = Processors::of(&numbers.collect::<Vec<_>>()),
                "ctxt" => read.context_switches = numbers.next().unwrap_or(0),
                "processes" => read.created = numbers.next().unwrap_or(0),
                "procs_running" => read.running = numbers.next().unwrap_or(0),
                _ => {}
            }
        }
        read
    }
}

/// In the kernel's units of 1024 bytes, as `/proc/meminfo` and BuildKit have it.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
struct Memory {
    total: Option<u64>,
    free: Option<u64>,
    available: Option<u64>,
    buffers: Option<u64>,
    cached: Option<u64>,
    active: Option<u64>,
    inactive: Option<u64>,
    swap: Option<u64>,
    dirty: Option<u64>,
    writeback: Option<u64>,
    slab: Option<u64>,
}

impl Memory {
    fn parse(text: &str) -> Memory {
        let mut read = Memory::default();
        for (name, value) in text.lines().filter_map(|line| line.split_once(':')) {
            let place = match name {
                "MemTotal" => &mut read.total,
                "MemFree" => &mut read.free,
                "MemAvailable" => &mut read.available,
                "Buffers" => &mut read.buffers,
                "Cached" => &mut read.cached,
                "Active" => &mut read.active,
                "Inactive" => &mut read.inactive,
                "SwapTotal" => &mut read.swap,
                "Dirty" => &mut read.dirty,
                "Writeback" => &mut read.writeback,
                "Slab" => &mut read.slab,
                _ => continue,
            };
            let value = value.split_whitespace().next();
            *place = value.and_then(|value| value.parse().ok());
        }
        read
    }
}

#[derive(Clone, Serialize)]
#[serde(rename_all = "camelCase")]
struct Processes {
    context_switches: u64,
    process_created: u64,
    processes_running: u64,
}

/// The whole machine at one moment.
#[derive(Clone, Serialize)]
#[serde(rename_all = "camelCase")]
struct Machine {
    cpu_stat: Processors,
    proc_stat: Processes,
    #[serde(skip_serializing_if = "Option::is_none")]
    memory_stat: Option<Memory>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cpu_pressure: Option<Pressure>,
    #[serde(skip_serializing_if = "Option::is_none")]
    memory_pressure: Option<Pressure>,
    #[serde(rename = "ioPressure", skip_serializing_if = "Option::is_none")]
    io_pressure: Option<Pressure>,
}

impl Machine {
    /// `None` where the kernel tells nothing.
    fn read() -> Option<Machine> {
        let statistics = Statistics::read()?;
        let memory = std::fs::read_to_string("/proc/meminfo").ok();
        Some(Machine {
            proc_stat: Processes {
                context_switches: statistics.context_switches,
                process_created: statistics.created,
                processes_running: statistics.running,
            },
            cpu_stat: statistics.processors,
            memory_stat: memory.as_deref().map(Memory::parse),
            cpu_pressure: pressure(Path::new("/proc/pressure/cpu")),
            memory_pressure: pressure(Path::new("/proc/pressure/memory")),
            io_pressure: pressure(Path::new("/proc/pressure/io")),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> OffsetDateTime {
        OffsetDateTime::UNIX_EPOCH + Duration::from_secs(seconds)
    }

    #[test]
    fn samples_get_rarer_as_the_time_gets_longer() {
        let mut samples = Samples::new(OF_STEP, at(0));
        for second in (2..=60).step_by(2) {
            if samples.is_due(at(second)) {
                samples.add(at(second), second);
            }
        }
        let told: Vec<u64> = samples
            .told(Some((at(61), 61)))
            .into_iter()
            .map(|(_, at)| at)
            .collect();
        // Doubled at 20 and at 40 seconds: the early ones are thinned out too.
        assert_eq!(told, [2, 10, 18, 28, 36, 48, 56, 61]);
    }

    #[test]
    fn a_short_step_has_one_sample() {
        let samples: Samples<u8> = Samples::new(OF_STEP, at(0));
        assert_eq!(samples.told(Some((at(1), 7))), [(at(1), 7)]);
        assert!(samples.told(None).is_empty());
    }

    #[test]
    fn the_kernels_files_are_read() {
        let read = Statistics::parse(
            "cpu  100 2 50 4000 7 0 1 0 0 0\ncpu0 1 1 1 1\nintr 5 6\nctxt 99\nprocesses 12\nprocs_running 3\n",
        );
        assert_eq!(
            (read.context_switches, read.created, read.running),
            (99, 12, 3)
        );
        let later = Statistics::parse("cpu 133 2 50 4000 7 0 1 0 0 0\n");
        let spent = later.processors.since(&read.processors);
        assert_eq!(
            serde_json::to_value(&spent).unwrap(),
            json!({
                "user": 0.33, "nice": 0.0, "system": 0.0, "idle": 0.0, "iowait": 0.0, "irq": 0.0,
                "softirq": 0.0, "steal": 0.0, "guest": 0.0, "guestNice": 0.0,
            })
        );
        let memory = Memory::parse("MemTotal:  100 kB\nMemFree: 20 kB\nOdd\nActive(anon): 3 kB\n");
        assert_eq!(
            (memory.total, memory.free, memory.active),
            (Some(100), Some(20), None)
        );
    }

    #[tokio::test]
    async fn a_step_that_used_something_tells_it_with_its_time() {
        let mut usage = StepUsage::start();
        assert_eq!(usage.during(|| None, async { 7 }).await, 7);
        let told = usage.told(Some(Usage::default()));
        assert!(told["samples"][0]["timestamp"].is_string(), "{told}");
        assert!(told["sysCPUStat"]["user"].is_number(), "{told}");
        let machine = MachineUsage::start().told();
        assert!(machine[0]["memoryStat"]["total"].is_u64(), "{machine:?}");
    }
}
