# Two stages: the build, and an image of the binary and the C library. There is no shell in it.
#   docker build -t leasehold .
#   docker run -p 6379:6379 leasehold
#   docker run -p 6379:6379 -v ./my.toml:/etc/leasehold/leasehold.toml:ro leasehold

FROM rust:1.95-bookworm AS build
WORKDIR /source
COPY . .
# The caches keep crates and objects between builds without being part of a layer.
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/source/target \
    cargo build --release --locked --package leasehold && cp target/release/leasehold /leasehold

# glibc rather than musl: the bundled SQLite and the allocator are built and tested against it.
FROM gcr.io/distroless/cc-debian12:nonroot
COPY --from=build /leasehold /usr/local/bin/leasehold
COPY conf/leasehold.toml /etc/leasehold/leasehold.toml
EXPOSE 6379
HEALTHCHECK --interval=10s --timeout=3s --start-period=5s \
    CMD ["/usr/local/bin/leasehold", "--conf", "/etc/leasehold/leasehold.toml", "--ping"]
ENTRYPOINT ["/usr/local/bin/leasehold"]
# All addresses of the container; which of its ports the world reaches is the business of -p. --set, so that a bind in
# arguments of one's own still wins.
CMD ["--conf", "/etc/leasehold/leasehold.toml", "--set", "bind=* -::*"]
