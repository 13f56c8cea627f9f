//! Capabilities and workers, as Ping carries them.

use gateway_api::Worker;
use gateway_api::caps::{Cap, CapSet};

use crate::{apicaps, types};

/// Sorted by id.
pub fn to_wire(caps: &CapSet) -> Vec<apicaps::ApiCap> {
    caps.iter()
        .map(|(id, cap)| apicaps::ApiCap {
            id: id.to_owned(),
            enabled: cap.enabled,
            deprecated: cap.deprecated,
            disabled_reason: cap.disabled_reason.clone(),
            disabled_reason_msg: cap.disabled_reason_message.clone(),
            disabled_alternative: cap.disabled_alternative.clone(),
        })
        .collect()
}

pub fn from_wire(caps: Vec<apicaps::ApiCap>) -> CapSet {
    let mut set = CapSet::default();
    for cap in caps {
        set.insert(
            cap.id,
            Cap {
                enabled: cap.enabled,
                deprecated: cap.deprecated,
                disabled_reason: cap.disabled_reason,
                disabled_reason_message: cap.disabled_reason_msg,
                disabled_alternative: cap.disabled_alternative,
            },
        );
    }
    set
}

pub fn worker_to_wire(worker: &Worker) -> types::WorkerRecord {
    types::WorkerRecord {
        id: worker.id.clone(),
        labels: worker.labels.clone(),
        platforms: worker.platforms.clone(),
        ..types::WorkerRecord::default()
    }
}

pub fn worker_from_wire(worker: types::WorkerRecord) -> Worker {
    Worker {
        id: worker.id,
        labels: worker.labels,
        platforms: worker.platforms,
    }
}
