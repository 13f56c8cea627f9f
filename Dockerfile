# The Dockerfile frontend as an image: one static binary, nothing else.
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

# Packs the binary that was built beforehand (see build_static_frontend in scripts/packages).
FROM labels
COPY target/frontend/dockerfile-frontend /bin/dockerfile-frontend
