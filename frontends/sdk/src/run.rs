//! A frontend's life: connect, Ping, the function, exactly one Return, an exit code.

use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::process::ExitCode;
use std::sync::Arc;

use futures_util::FutureExt;
use gateway_api::{BuildResult, Code, Error, FrontendFn, Gateway};
use tokio::io::{AsyncRead, AsyncWrite};

use crate::client::Client;
use crate::invocation::Environment;
use crate::{stdio, transport};

/// Why a frontend's process ends with an error.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    #[error("this program is a frontend: stdin and stdout must be pipes to a build server: {0}")]
    Stdio(std::io::Error),
    #[error("cannot start: {0}")]
    Runtime(std::io::Error),
    #[error("cannot connect to the build server: {0}")]
    Connect(hyper::Error),
    #[error("cannot connect to the build server: {0}")]
    Ping(Error),
    #[error("the build server has closed the connection")]
    Closed,
    #[error("cannot return the result: {0}")]
    Return(Error),
    /// The function failed; the build server knows.
    #[error("{0}")]
    Frontend(Error),
}

/// A function as the value that gateways and hosts pass around.
pub fn function<F, B>(frontend: F) -> FrontendFn
where
    F: Fn(Arc<dyn Gateway>) -> B + Send + Sync + 'static,
    B: Future<Output = Result<BuildResult, Error>> + Send + 'static,
{
    Arc::new(move |gateway| Box::pin(frontend(gateway)))
}

/// The whole `main` of a frontend image: serves one call over stdin and stdout.
///
/// A panic of the function is an error of the build. Nothing but the protocol may be written to
/// stdout; what is written to stderr is shown to the user.
pub async fn run<F, B>(frontend: F) -> ExitCode
where
    F: Fn(Arc<dyn Gateway>) -> B + Send + Sync + 'static,
    B: Future<Output = Result<BuildResult, Error>> + Send + 'static,
{
    let ended = match stdio::take() {
        Ok(io) => serve(io, own_environment(), function(frontend)).await,
        Err(error) => Err(RunError::Stdio(error)),
    };
    exit_code(ended)
}

/// As [`run`], with a runtime of its own: for a `main` without one.
pub fn main<F, B>(frontend: F) -> ExitCode
where
    F: Fn(Arc<dyn Gateway>) -> B + Send + Sync + 'static,
    B: Future<Output = Result<BuildResult, Error>> + Send + 'static,
{
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => return exit_code(Err(RunError::Runtime(error))),
    };
    let code = runtime.block_on(run(frontend));
    // A call that still runs must not hold up the exit.
    runtime.shutdown_background();
    code
}

fn exit_code(ended: Result<(), RunError>) -> ExitCode {
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        // The build server has it and tells the user.
        Err(RunError::Frontend(_)) => ExitCode::FAILURE,
        Err(error) => {
            // The one place that may speak: stderr of a frontend is for its user.
            eprintln!("frontend: {error}");
            ExitCode::FAILURE
        }
    }
}

fn own_environment() -> Environment {
    let variables = std::env::vars_os().map(|(name, value)| {
        let text = |text: std::ffi::OsString| text.to_string_lossy().into_owned();
        (text(name), text(value))
    });
    Environment::parse(variables)
}

/// Serves one call over any stream.
///
/// # Errors
/// See [`RunError`]; the build server has been told where it could be.
pub async fn serve<T>(io: T, environment: Environment, frontend: FrontendFn) -> Result<(), RunError>
where
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (channel, connection) = transport::connect(io).await.map_err(RunError::Connect)?;
    let connection = tokio::spawn(connection);
    let call = async {
        let client = Client::connect(channel, environment)
            .await
            .map_err(RunError::Ping)?;
        let client = Arc::new(client);
        let gateway = client.clone();
        let built = guarded(async { frontend(gateway).await }).await;
        let failure = built.as_ref().err().cloned();
        client.finish(built).await.map_err(RunError::Return)?;
        match failure {
            Some(error) => Err(RunError::Frontend(error)),
            None => Ok(()),
        }
    };
    tokio::select! {
        // When both are ready the call's own words are the better ones.
        biased;
        ended = call => ended,
        _ = connection => Err(RunError::Closed),
    }
}

/// A panic is an error of the build: the host must get a Return in any case.
async fn guarded(
    frontend: impl Future<Output = Result<BuildResult, Error>>,
) -> Result<BuildResult, Error> {
    AssertUnwindSafe(frontend)
        .catch_unwind()
        .await
        .unwrap_or_else(|panic| {
            let text = panic
                .downcast_ref::<&str>()
                .map(|text| (*text).to_owned())
                .or_else(|| panic.downcast_ref::<String>().cloned());
            let text = text.unwrap_or_else(|| "no message".to_owned());
            Err(Error::new(
                Code::Internal,
                format!("frontend panicked: {text}"),
            ))
        })
}
