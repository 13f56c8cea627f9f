//! The LLBBridge messages and gRPC service, and their conversion to the values of gateway-api.
//! Both sides of the wire use it: the bridge that hosts frontends, and the SDK inside of them.
//!
//! What may not enter: connections and processes, and anything that decides what a call means.

pub mod convert;
pub mod error;
pub mod limits;

pub use google::rpc;
pub use moby::buildkit::v1::{apicaps, frontend, sourcepolicy, types};

// The nesting is that of the packages: generated code finds its neighbours by it.
#[allow(clippy::all, missing_docs)]
mod moby {
    pub mod buildkit {
        pub mod v1 {
            pub mod frontend {
                include!(concat!(env!("OUT_DIR"), "/moby.buildkit.v1.frontend.rs"));
            }
            pub mod apicaps {
                include!(concat!(env!("OUT_DIR"), "/moby.buildkit.v1.apicaps.rs"));
            }
            pub mod types {
                include!(concat!(env!("OUT_DIR"), "/moby.buildkit.v1.types.rs"));
            }
            pub mod sourcepolicy {
                include!(concat!(
                    env!("OUT_DIR"),
                    "/moby.buildkit.v1.sourcepolicy.rs"
                ));
            }
        }
    }
}
#[allow(clippy::all, missing_docs)]
pub mod fsutil {
    pub mod types {
        include!(concat!(env!("OUT_DIR"), "/fsutil.types.rs"));
    }
}
#[allow(clippy::all, missing_docs)]
mod google {
    pub mod rpc {
        include!(concat!(env!("OUT_DIR"), "/google.rpc.rs"));
    }
}
#[allow(clippy::all, missing_docs)]
pub mod health {
    include!(concat!(env!("OUT_DIR"), "/grpc.health.v1.rs"));
}
