//! The LLBBridge messages and gRPC service, and their conversion to the values of gateway-api.
