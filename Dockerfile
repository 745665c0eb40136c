# One static binary in an empty image: nothing to patch but digestd, no shell for an intruder.
#
# The tag moves on. A build that is to be repeated names the image by its digest as well:
# --build-arg BASE=rust:1.95-slim-bookworm@sha256:…, as `docker buildx imagetools inspect` shows it.
ARG BASE=rust:1.95-slim-bookworm
FROM ${BASE} AS build
WORKDIR /build

# Static with the glibc that everything was tested with. It takes a target, since procedural macros
# cannot be static.
ENV RUSTFLAGS="-C target-feature=+crt-static" CARGO_BUILD_TARGET=host-tuple

# The dependencies, in a layer that stays when only the code changes: built for programs that do
# nothing.
COPY Cargo.toml Cargo.lock ./
COPY benches benches
COPY vendor vendor
RUN mkdir -p src/bin/find-pair \
    && for source in src/lib.rs $(sed -n 's/^path = "\(.*\)"/\1/p' Cargo.toml); do \
         echo 'fn main() {}' > "$source"; \
       done \
    && cargo build --release --locked --bin digestd

COPY ARCHITECTURE.md build.rs* ./
# What `--version` says beside the number: --build-arg COMMIT="$(git log -1 --format='%h of %cs')"
ARG COMMIT=
ENV DIGESTD_COMMIT=${COMMIT}
COPY src src
# Cargo goes by the time of a file, and these may be older than the ones they replace.
RUN touch src/lib.rs src/main.rs \
    && cargo build --release --locked --bin digestd \
    && mkdir data \
    && mv target/*/release/digestd .

# What the licenses of all that is linked ask for.
COPY LICENSE ./
COPY deploy/notices deploy/
RUN deploy/notices >NOTICE

FROM scratch
LABEL org.opencontainers.image.title="digestd" \
      org.opencontainers.image.description="Keeps messages and finds them by their SHA-256 digest" \
      org.opencontainers.image.licenses="MIT"
COPY --from=build /build/digestd /usr/local/bin/digestd
COPY --from=build /build/NOTICE /NOTICE
# Whom its client commands trust.
COPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/ca-certificates.crt
COPY --from=build --chown=65532:65532 /build/data /data

USER 65532:65532
# A platform that wants another port sets PORT; DIGESTD_LISTEN, or --listen, wins over it.
ENV PORT=8080 DIGESTD_DATA_DIR=/data
VOLUME /data
EXPOSE 8080
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=3s --start-period=60s CMD ["digestd", "healthcheck"]
ENTRYPOINT ["digestd"]
