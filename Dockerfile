# Builds the program with the toolchain of one official image, and puts it beside nothing but the C
# library that it is linked to. `tests/container.sh` builds and runs this file.
#
#     docker build -t demes:0.1.0 .
#     docker run --name ana -v ana:/var/lib/demes -p 7443:7443 demes:0.1.0 up --advertise HOST:7443
#
# The tag names the toolchain's and the system's version. It was not pulled when this was written: set
# RUST_IMAGE to another one where your registry has others, and to a digest where builds must be the
# same for ever.
ARG RUST_IMAGE=rust:1.95.0-slim-bookworm

FROM ${RUST_IMAGE} AS build
WORKDIR /demes
# The names of functions are a quarter of the program.
ENV CARGO_PROFILE_RELEASE_STRIP=symbols

# The dependencies are a layer of their own: it is built anew only when one of these files changes.
COPY Cargo.toml Cargo.lock build.rs ./
COPY proto proto
COPY benches benches
COPY src/api/Cargo.toml src/api/
COPY src/content/Cargo.toml src/content/build.rs src/content/
COPY src/protocol/Cargo.toml src/protocol/
COPY src/sealing/Cargo.toml src/sealing/
RUN echo 'fn main() {}' > src/main.rs \
    && touch src/lib.rs src/api/lib.rs src/content/mod.rs src/protocol/mod.rs src/sealing/mod.rs \
    && cargo build --release --locked --bin demes

# Cargo goes by the time of change, and a copied file keeps its own, which may lie before the build
# above.
COPY src src
RUN find src -exec touch {} + \
    && cargo build --release --locked --bin demes

# The whole file system of the final image: the program, the libraries that it is linked to, how
# names are looked up, and the user. Nobody else can be: there is no shell and no other program.
FROM ${RUST_IMAGE} AS layout
SHELL ["/bin/bash", "-euo", "pipefail", "-c"]
WORKDIR /layout
COPY --from=build /demes/target/release/demes usr/local/bin/demes
RUN ldd usr/local/bin/demes > /libraries \
    && ! grep 'not found' /libraries \
    && grep --only-matching '/[^ ]*' /libraries \
        | xargs cp --dereference --parents --target-directory . \
    && mkdir etc /data \
    && echo 'hosts: files dns' > etc/nsswitch.conf \
    && echo 'demes:x:65532:65532:demes:/var/lib/demes:/usr/local/bin/demes' > etc/passwd \
    && echo 'demes:x:65532:' > etc/group

FROM scratch
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="demes" \
      org.opencontainers.image.description="Private group chat with no server of its own" \
      org.opencontainers.image.licenses="Apache-2.0 OR MIT" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"

COPY --from=layout /layout /
COPY --from=layout --chown=65532:65532 --chmod=0700 /data /var/lib/demes

# Identity, chats and configuration are in /var/lib/demes, for every command without a flag.
ENV PATH=/usr/local/bin \
    HOME=/var/lib/demes \
    XDG_DATA_HOME=/var/lib \
    XDG_CONFIG_HOME=/var/lib
VOLUME /var/lib/demes
USER 65532:65532
# Other peers. The person's own programs reach the peer on loopback inside the container, 7444.
EXPOSE 7443
HEALTHCHECK --interval=10s --timeout=3s --start-period=5s CMD ["demes", "health"]
STOPSIGNAL SIGTERM
ENTRYPOINT ["demes"]
CMD ["up"]
