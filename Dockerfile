# The Dockerfile frontend as an image: one static binary, nothing else. And, with --target tool, the tool.
#
#   scripts/quickstart shows it built and used with no network at all.
#   With network:  gateway build --target from-source .

# Compiles from source; needs network for the toolchain and the crates.
FROM rust:1-alpine AS compile
RUN apk add --no-cache musl-dev
WORKDIR /src
COPY . .
RUN --mount=type=cache,target=/usr/local/cargo/registry --mount=type=cache,target=/src/target \
    cargo build --profile frontend -p gateway-dockerfile --bin dockerfile-frontend && \
    cp target/frontend/dockerfile-frontend /dockerfile-frontend

FROM scratch AS labels
LABEL moby.buildkit.frontend.network.none="true" \
      moby.buildkit.frontend.caps="moby.buildkit.frontend.inputs,moby.buildkit.frontend.subrequests,moby.buildkit.frontend.contexts,moby.buildkit.frontend.gitquerystring"
ENTRYPOINT ["/bin/dockerfile-frontend"]

FROM labels AS from-source
COPY --from=compile /dockerfile-frontend /bin/dockerfile-frontend

# The tool itself: `gateway build --target tool -t you/gateway .` packs what scripts/release made. A build inside a
# container needs what a build needs elsewhere: to make namespaces and mounts, which --security-opt seccomp=unconfined
# allows, and a volume for the store.
FROM scratch AS tool-base
ENV SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt GATEWAY_ROOT=/var/lib/gateway
VOLUME /var/lib/gateway
ENTRYPOINT ["/bin/gateway"]

FROM tool-base AS tool
COPY target/dist/ca-certificates.crt /etc/ssl/certs/
COPY target/dist/gateway /bin/gateway

# The same from source; needs network for the toolchain and the crates.
FROM compile AS compile-tool
RUN apk add --no-cache build-base ca-certificates
RUN --mount=type=cache,target=/usr/local/cargo/registry --mount=type=cache,target=/src/target \
    cargo build --release -p gateway && cp target/release/gateway /gateway

FROM tool-base AS tool-from-source
COPY --from=compile-tool /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/
COPY --from=compile-tool /gateway /bin/gateway

# Packs the binary that was built beforehand (see build_static_frontend in scripts/packages).
FROM labels
COPY target/frontend/dockerfile-frontend /bin/dockerfile-frontend
