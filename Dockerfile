# syntax=docker/dockerfile:1
# The server in a minimal image: the binary, root certificates, no shell, no package manager, not root.
# Docker's default seccomp profile forbids io_uring, which the server is built on (docs/security.md):
#
#   docker build -t synckit-server .
#   docker run -p 8080:8080 --security-opt seccomp=tuning/seccomp.json --ulimit memlock=-1 synckit-server

FROM rust:1.88-bookworm AS build
WORKDIR /source
# Dependencies first: they change less often than the source.
COPY Cargo.toml Cargo.lock ./
COPY loadtest/Cargo.toml loadtest/Cargo.toml
COPY tests/support/Cargo.toml tests/support/Cargo.toml
RUN mkdir -p src loadtest/src benches \
    && for file in src/main.rs loadtest/src/main.rs benches/hot_path.rs benches/json_envelope.rs benches/text_merge.rs; do \
        echo 'fn main() {}' >"$file"; done \
    && touch src/lib.rs loadtest/src/lib.rs tests/support/mod.rs \
    && cargo build --release --locked --bin synckit-server
COPY src src
COPY tuning/sysctl.d tuning/sysctl.d
# Newer than the placeholders, whatever times the files have.
RUN find src -name '*.rs' -exec touch {} + \
    && cargo build --release --locked --bin synckit-server \
    && strip target/release/synckit-server

FROM gcr.io/distroless/cc-debian12:nonroot
COPY --from=build /source/target/release/synckit-server /usr/bin/synckit-server
ENV SYNCKIT_ENV=production \
    PORT=8080
EXPOSE 8080
USER 65532:65532
STOPSIGNAL SIGTERM
ENTRYPOINT ["/usr/bin/synckit-server"]
CMD ["serve"]
