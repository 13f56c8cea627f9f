//! The containers of one frontend call by the ids that the frontend chose.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use gateway_api::{Code, Container, Error, Gateway};
use gateway_proto::convert::container::container_from_wire;
use gateway_proto::frontend::NewContainerRequest;

/// More than any frontend runs at once; each holds mounts and descriptors.
const MAX_CONTAINERS: usize = 256;

/// Cheap to clone; the containers end with the last clone.
#[derive(Clone, Default)]
pub struct ContainerTable(Arc<Mutex<BTreeMap<String, Arc<dyn Container>>>>);

impl ContainerTable {
    fn locked(&self) -> MutexGuard<'_, BTreeMap<String, Arc<dyn Container>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub async fn create(
        &self,
        gateway: &dyn Gateway,
        call: NewContainerRequest,
    ) -> Result<(), Error> {
        let id = call.container_id.clone();
        self.check_new(&id)?;
        let container = gateway.new_container(container_from_wire(call)).await?;
        let container: Arc<dyn Container> = Arc::from(container);
        // Another request may have been faster: then this container goes again.
        let mut table = self.locked();
        if table.contains_key(&id) {
            return Err(exists(&id));
        }
        table.insert(id, container);
        Ok(())
    }

    fn check_new(&self, id: &str) -> Result<(), Error> {
        let table = self.locked();
        if table.contains_key(id) {
            return Err(exists(id));
        }
        match table.len() < MAX_CONTAINERS {
            true => Ok(()),
            false => Err(Error::new(
                Code::ResourceExhausted,
                format!("more than {MAX_CONTAINERS} containers at once"),
            )),
        }
    }

    pub fn get(&self, id: &str) -> Option<Arc<dyn Container>> {
        self.locked().get(id).cloned()
    }

    /// For reading files, whose errors name the mount.
    pub fn get_for_mount(
        &self,
        id: &str,
        mount: i32,
    ) -> Result<(Arc<dyn Container>, usize), Error> {
        let container = self.get(id).ok_or_else(|| {
            Error::unknown(format!("container details for {id}@{mount} not found"))
        })?;
        let mount = usize::try_from(mount)
            .map_err(|_| Error::unknown(format!("mount index {mount} is out of bounds")))?;
        Ok((container, mount))
    }

    pub async fn release(&self, id: &str) -> Result<(), Error> {
        let container = self.locked().remove(id);
        match container {
            Some(container) => container.release().await,
            None => Err(Error::unknown(format!(
                "container details for {id} not found"
            ))),
        }
    }
}

fn exists(id: &str) -> Error {
    Error::new(
        Code::AlreadyExists,
        format!("Container {id} already exists"),
    )
}
