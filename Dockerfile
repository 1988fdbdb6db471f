FROM rust:1.95-slim-bookworm AS build
WORKDIR /source
COPY . .
RUN cargo build --release --locked

FROM debian:bookworm-slim
# The certificate authorities are for TLS to a database on another machine.
RUN apt-get update \
    && apt-get install -y --no-install-recommends ca-certificates \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --system --uid 10001 --user-group --home-dir /data --create-home posthaste
COPY --from=build /source/target/release/posthaste /usr/local/bin/posthaste
USER posthaste
WORKDIR /data
VOLUME /data
# 127.0.0.1 inside a container cannot be reached from outside.
ENV POSTHASTE_LISTEN=0.0.0.0:8000 POSTHASTE_DATA_DIR=/data
EXPOSE 8000
# The image has no HTTP client, so bash sends the request.
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s --retries=3 CMD ["bash", "-c", \
    "exec 3<>/dev/tcp/127.0.0.1/8000; printf 'GET /readyz HTTP/1.0\\r\\nHost: localhost\\r\\n\\r\\n' >&3; read -r status <&3; [[ $status == *' 200 '* ]]"]
ENTRYPOINT ["posthaste"]
CMD ["serve"]
