//! Who is told of the frontends that run, and may stand between them and their gateways: for
//! recordings.

use std::sync::Arc;

use gateway_api::{BuildResult, Error, Gateway};

use crate::host::conduct::Conduct;

/// Told of every frontend.
pub trait Observer: Send + Sync {
    /// A frontend begins: `name` is that of a built-in one or the reference of an image.
    fn begins(&self, name: &str, gateway: Arc<dyn Gateway>) -> Box<dyn Observed>;
}

/// One frontend under observation.
pub trait Observed: Send {
    /// What the frontend is given; it must pass all calls on.
    fn gateway(&self) -> Arc<dyn Gateway>;

    /// How the host of this frontend is to differ from what it is, if its frontend is an image.
    fn conduct(&self) -> Option<Arc<Conduct>> {
        None
    }

    /// The frontend has ended; not told of one that could not be started.
    fn ended(self: Box<Self>, returned: &Result<BuildResult, Error>);
}

/// A frontend that is observed, or not.
pub(super) struct Watch {
    gateway: Arc<dyn Gateway>,
    observed: Option<Box<dyn Observed>>,
}

impl Watch {
    pub fn new(observer: Option<&dyn Observer>, name: &str, gateway: Arc<dyn Gateway>) -> Watch {
        let observed = observer.map(|observer| observer.begins(name, gateway.clone()));
        let gateway = match &observed {
            Some(observed) => observed.gateway(),
            None => gateway,
        };
        Watch { gateway, observed }
    }

    pub fn gateway(&self) -> Arc<dyn Gateway> {
        self.gateway.clone()
    }

    pub fn conduct(&self) -> Option<Arc<Conduct>> {
        self.observed.as_ref()?.conduct()
    }

    pub fn ended(self, returned: &Result<BuildResult, Error>) {
        if let Some(observed) = self.observed {
            observed.ended(returned);
        }
    }
}
