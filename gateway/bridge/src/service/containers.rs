//! The containers of one frontend call by the ids that the frontend chose.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use gateway_api::{Code, Container, Error, Gateway};
use gateway_proto::convert::container::container_from_wire;
use gateway_proto::frontend::NewContainerRequest;

type Containers = BTreeMap<String, Arc<dyn Container>>;

/// Cheap to clone; the containers end with the last clone.
#[derive(Clone)]
pub struct ContainerTable {
    containers: Arc<Mutex<Containers>>,
    limit: usize,
}

impl ContainerTable {
    /// For at most this many at once: each holds mounts and descriptors.
    pub fn new(limit: usize) -> Self {
        ContainerTable {
            containers: Arc::default(),
            limit,
        }
    }

    fn locked(&self) -> MutexGuard<'_, Containers> {
        self.containers
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
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
        // Other requests may have been faster: then this container goes again.
        let mut table = self.locked();
        self.check(&table, &id)?;
        table.insert(id, container);
        Ok(())
    }

    fn check_new(&self, id: &str) -> Result<(), Error> {
        self.check(&self.locked(), id)
    }

    fn check(&self, table: &Containers, id: &str) -> Result<(), Error> {
        if table.contains_key(id) {
            return Err(Error::new(
                Code::AlreadyExists,
                format!("Container {id} already exists"),
            ));
        }
        if table.len() >= self.limit {
            return Err(Error::new(
                Code::ResourceExhausted,
                format!("more than {} containers at once", self.limit),
            ));
        }
        Ok(())
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
