//! Outputs that a client names when it is told what was built.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use async_trait::async_trait;
use gateway_api::Error;
use gateway_bridge::LateExporters;
use gateway_solver::Exporter;

use super::outputs::{Delivery, Outputs, Place};
use crate::peer::Peer;
use crate::proto::control::Exporter as Wanted;
use crate::session::{Sessions, find_exporters};

/// More outputs than anybody has for one build.
const MAX_EXPORTERS: usize = 64;

/// Those of one build's session.
pub struct SessionExporters {
    sessions: Sessions,
    peer: Peer,
    session: String,
    /// Exporters that the request names; the later ones are numbered on.
    before: usize,
    scratch: PathBuf,
    deliveries: Mutex<Vec<Delivery>>,
}

impl SessionExporters {
    pub fn new(
        sessions: Sessions,
        peer: Peer,
        session: String,
        before: usize,
        scratch: PathBuf,
    ) -> Self {
        SessionExporters {
            sessions,
            peer,
            session,
            before,
            scratch,
            deliveries: Mutex::default(),
        }
    }

    /// What these outputs left to be brought to the client; once.
    pub fn deliveries(&self) -> Vec<Delivery> {
        let mut deliveries = self
            .deliveries
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        std::mem::take(&mut *deliveries)
    }
}

#[async_trait]
impl LateExporters for SessionExporters {
    async fn find(
        &self,
        metadata: &BTreeMap<String, Vec<u8>>,
        results: Vec<String>,
    ) -> Result<Vec<Exporter>, Error> {
        let handle = self.sessions.find(&self.peer, &self.session).await?;
        let wanted = find_exporters(&handle, metadata, results).await?;
        if wanted.len() > MAX_EXPORTERS {
            return Err(Error::invalid(format!(
                "the client's session names {} exporters, more than {MAX_EXPORTERS}",
                wanted.len()
            )));
        }
        let place = Place {
            sessions: &self.sessions,
            peer: &self.peer,
            session: &self.session,
            scratch: &self.scratch,
        };
        let mut outputs = Outputs::default();
        let mut exporters = Vec::new();
        for (at, wanted) in wanted.into_iter().enumerate() {
            let wanted = Wanted {
                r#type: wanted.r#type,
                attrs: wanted.attrs,
            };
            exporters.push(outputs.exporter(self.before + at, wanted, &place)?);
        }
        let mut deliveries = self
            .deliveries
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        deliveries.extend(outputs.deliveries);
        Ok(exporters)
    }
}
