//! A test's function as a frontend of the engine: once in process, once at the other end of a
//! connection. What holds for one door holds for the other.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex};

use gateway_api::*;
use gateway_bridge::service::{BridgeService, Outcome};
use gateway_bridge::transport::{Observed, serve};
use gateway_frontend::Environment;
use gateway_llb::{Constraints, LocalSource, MarshalOptions, State, pb};

use crate::rig::Rig;

pub type Ran = Pin<Box<dyn Future<Output = Result<(), Error>> + Send>>;
pub type Body = fn(Arc<dyn Gateway>) -> Ran;

/// Runs the function as a frontend of the engine, and once more at the other end of a connection.
pub async fn both(body: Body) {
    both_with(|_| {}, body).await;
}

/// The same after something was made ready; gives the two rigs.
pub async fn both_with(prepare: fn(&Rig), body: Body) -> Vec<Rig> {
    let mut rigs = Vec::new();
    for wire in [false, true] {
        let mut rig = Rig::new();
        prepare(&rig);
        let frontend: FrontendFn = Arc::new(move |gateway| {
            Box::pin(async move {
                match wire {
                    false => body(gateway).await?,
                    true => over_a_connection(gateway, body).await?,
                }
                Ok(BuildResult::default())
            })
        });
        rig.builtins.insert("test.v0".to_owned(), frontend);
        let built = rig.build("test.v0", &[]).await;
        built.unwrap_or_else(|error| panic!("wire: {wire}: {error:?}"));
        rigs.push(rig);
    }
    rigs
}

async fn over_a_connection(gateway: Arc<dyn Gateway>, body: Body) -> Result<(), Error> {
    let service = BridgeService::new(
        gateway,
        Arc::new(Outcome::default()),
        &gateway_bridge::FrontendLimits::default(),
    );
    let (host, child) = tokio::io::duplex(64 * 1024);
    let (read, write) = tokio::io::split(host);
    let server = tokio::spawn(serve(read, write, service, Arc::new(Observed::default())));
    // A failed assertion must fail the test, not become an error of the frontend.
    let panicked = Arc::new(Mutex::new(None));
    let noted = panicked.clone();
    let frontend: FrontendFn = Arc::new(move |gateway| {
        let noted = noted.clone();
        Box::pin(async move {
            match tokio::spawn(body(gateway)).await {
                Ok(ended) => ended?,
                Err(panicked) => *noted.lock().unwrap() = Some(panicked.into_panic()),
            }
            Ok(BuildResult::default())
        })
    });
    let ended = gateway_frontend::serve(child, Environment::default(), frontend).await;
    if let Some(panic) = panicked.lock().unwrap().take() {
        std::panic::resume_unwind(panic);
    }
    ended.unwrap();
    // As the host does with a process that has exited.
    server.abort();
    Ok(())
}

pub fn definition(state: &State) -> pb::Definition {
    let options = MarshalOptions::new(gateway_llb::platform::host());
    state.marshal(&options).unwrap()
}

pub fn root() -> State {
    let source = LocalSource {
        session: "the-session".to_owned(),
        ..LocalSource::new("root")
    };
    source.state(Constraints::new())
}

pub async fn solve(gateway: &Arc<dyn Gateway>, state: &State) -> Ref {
    let request = SolveRequest {
        definition: Some(definition(state)),
        ..SolveRequest::default()
    };
    match gateway.solve(request).await.unwrap().refs {
        Refs::Single(reference) => reference,
        other => panic!("{other:?}"),
    }
}
