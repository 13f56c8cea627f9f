//! The health service of gRPC: nothing seen calls it, the reference registers it.

use gateway_proto::health::health_check_response::ServingStatus;
use gateway_proto::health::health_server::Health;
use gateway_proto::health::{HealthCheckRequest, HealthCheckResponse};
use tokio_stream::Stream;
use tonic::{Request, Response, Status};

#[derive(Debug, Clone, Copy)]
pub struct HealthService;

impl HealthService {
    fn status(service: &str) -> Result<HealthCheckResponse, Status> {
        if !service.is_empty() {
            return Err(Status::not_found("unknown service"));
        }
        Ok(HealthCheckResponse {
            status: ServingStatus::Serving as i32,
        })
    }
}

type Watching =
    std::pin::Pin<Box<dyn Stream<Item = Result<HealthCheckResponse, Status>> + Send + 'static>>;

#[tonic::async_trait]
impl Health for HealthService {
    async fn check(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<HealthCheckResponse>, Status> {
        Self::status(&request.into_inner().service).map(Response::new)
    }

    type WatchStream = Watching;

    async fn watch(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<Watching>, Status> {
        use tokio_stream::StreamExt;
        let now = Self::status(&request.into_inner().service)?;
        let stream = tokio_stream::once(Ok(now)).chain(tokio_stream::pending());
        Ok(Response::new(Box::pin(stream)))
    }
}
