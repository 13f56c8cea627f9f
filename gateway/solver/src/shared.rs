//! Work that is done once and whose outcome many may await.

use futures_util::FutureExt;
use futures_util::future::{BoxFuture, Shared};
use gateway_api::{Code, Error};

pub type Outcome<T> = Result<T, Error>;
pub type SharedWork<T> = Shared<BoxFuture<'static, Outcome<T>>>;

/// Starts the work on a task of its own: awaiting a chain of works never deepens the stack.
pub fn spawn_shared<T: Clone + Send + Sync + 'static>(
    work: impl Future<Output = Outcome<T>> + Send + 'static,
) -> SharedWork<T> {
    let task = tokio::spawn(work);
    async move {
        match task.await {
            Ok(outcome) => outcome,
            Err(error) if error.is_cancelled() => Err(Error::canceled()),
            Err(error) => Err(Error::new(
                Code::Internal,
                format!("a part of the solver failed: {error}"),
            )),
        }
    }
    .boxed()
    .shared()
}

/// What is known already.
pub fn shared<T: Clone + Send + Sync + 'static>(outcome: Outcome<T>) -> SharedWork<T> {
    std::future::ready(outcome).boxed().shared()
}

/// Runs blocking work on the threads kept for it.
pub async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Outcome<T> + Send + 'static,
) -> Outcome<T> {
    match tokio::task::spawn_blocking(work).await {
        Ok(outcome) => outcome,
        Err(error) => Err(Error::new(
            Code::Internal,
            format!("a part of the solver failed: {error}"),
        )),
    }
}
