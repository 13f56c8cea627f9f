//! What a frontend returned: once, the first stands.

use std::sync::OnceLock;

use gateway_api::{BuildResult, Error};
use tokio::sync::Notify;

#[derive(Debug, Default)]
pub struct Outcome {
    returned: OnceLock<Result<BuildResult, Error>>,
    changed: Notify,
}

impl Outcome {
    /// # Errors
    /// The frontend has returned before.
    pub fn set(&self, returned: Result<BuildResult, Error>) -> Result<(), Error> {
        self.returned
            .set(returned)
            .map_err(|_| Error::unknown("gateway result is already set"))?;
        self.changed.notify_waiters();
        Ok(())
    }

    pub fn get(&self) -> Option<&Result<BuildResult, Error>> {
        self.returned.get()
    }

    /// Ends when the frontend has returned; never, if it does not.
    pub async fn wait(&self) {
        let changed = self.changed.notified();
        tokio::pin!(changed);
        changed.as_mut().enable();
        if self.returned.get().is_none() {
            changed.await;
        }
    }
}
