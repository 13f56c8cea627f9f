//! Whole builds of a client, and what was said of them.

use std::collections::BTreeMap;

use super::wire::{
    BridgeSolveRequest, Definition, Named, Nothing, Progress, SolveRequest, SolveResponse,
};
use super::{Client, Failure, new_id};

/// Names and values as messages have them.
pub fn map(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    let pairs = pairs.iter();
    pairs
        .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
        .collect()
}

/// A build, and all that was said of it from its beginning to its end.
pub async fn built(
    client: &Client,
    request: &SolveRequest,
) -> (Result<SolveResponse, Failure>, Progress) {
    let outcome = client.solve(request).await;
    let mut status = client.stream("/moby.buildkit.v1.Control/Status", &[]).await;
    let name = request.name.clone();
    status.send(&Named { name }).await;
    status.finish();
    let mut said = Progress::default();
    while let Some(more) = status.next::<Progress>().await.expect("the status") {
        said.vertexes.extend(more.vertexes);
        said.logs.extend(more.logs);
    }
    (outcome, said)
}

/// What its steps wrote.
pub fn logs(said: &Progress) -> String {
    let text: Vec<u8> = said.logs.iter().flat_map(|log| log.text.clone()).collect();
    String::from_utf8_lossy(&text).into_owned()
}

/// A build whose frontend is the client itself; its name.
pub async fn driven(
    client: &Client,
    session: &str,
    entitlements: &[&str],
) -> (String, tokio::task::JoinHandle<()>) {
    let name = new_id();
    let request = SolveRequest {
        name: name.clone(),
        session: session.to_owned(),
        entitlements: entitlements.iter().map(|e| (*e).to_owned()).collect(),
        ..SolveRequest::default()
    };
    let mut call = client.stream("/moby.buildkit.v1.Control/Solve", &[]).await;
    call.send(&request).await;
    call.finish();
    let task = tokio::spawn(async move {
        let _ = call.next::<Nothing>().await;
    });
    (name, task)
}

/// A definition, solved in a build that the client drives.
pub async fn bridge_solve(
    client: &Client,
    build: &str,
    definition: Definition,
) -> Result<Nothing, Failure> {
    let request = BridgeSolveRequest {
        definition: Some(definition),
        return_result: true,
        evaluate: true,
        ..BridgeSolveRequest::default()
    };
    let path = "/moby.buildkit.v1.frontend.LLBBridge/Solve";
    let build = [("buildkit-controlapi-buildid", build)];
    client.ask(path, &build, &request).await
}
