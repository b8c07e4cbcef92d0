# syntax=docker/dockerfile:1

# Base images. Their tags were not pulled when this was written: override them where your registry
# has others, and pin digests where you deploy. Both must be of the same Debian release, since the
# program is linked to its C library.
#
#     docker build -t demes:0.1.0 --build-arg RUST_IMAGE=… --build-arg RUN_IMAGE=… .
ARG RUST_IMAGE=rust:1.95-slim-bookworm
ARG RUN_IMAGE=gcr.io/distroless/cc-debian12:nonroot

FROM ${RUST_IMAGE} AS build
WORKDIR /demes

# The dependencies are a layer of their own: it is built anew only when one of these files changes.
COPY Cargo.toml Cargo.lock build.rs ./
COPY proto proto
COPY benches benches
COPY src/protocol/Cargo.toml src/protocol/
RUN echo 'fn main() {}' > src/main.rs \
    && touch src/lib.rs src/protocol/mod.rs \
    && cargo build --release --locked --bin demes

# Cargo goes by the time of change, and a copied file keeps its own, which may lie before the build
# above.
COPY src src
RUN find src -exec touch {} + \
    && cargo build --release --locked --bin demes \
    && mkdir /data

FROM ${RUN_IMAGE}
ARG VERSION=0.1.0
LABEL org.opencontainers.image.title="demes" \
      org.opencontainers.image.description="Private group chat with no server of its own" \
      org.opencontainers.image.licenses="Apache-2.0 OR MIT" \
      org.opencontainers.image.version="${VERSION}"

COPY --from=build /demes/target/release/demes /usr/local/bin/demes
COPY --from=build --chown=65532:65532 --chmod=0700 /data /var/lib/demes

# Identity, chats and configuration are in /var/lib/demes, for every command without a flag.
ENV XDG_DATA_HOME=/var/lib \
    XDG_CONFIG_HOME=/var/lib
VOLUME /var/lib/demes
USER 65532:65532
# Other peers. The person's own programs reach the peer on loopback inside the container, 7444.
EXPOSE 7443
HEALTHCHECK --interval=10s --timeout=3s --start-period=5s CMD ["demes", "health"]
STOPSIGNAL SIGTERM
ENTRYPOINT ["demes"]
CMD ["up"]
