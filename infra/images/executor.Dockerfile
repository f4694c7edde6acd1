# The executor alone. Paths and environment are those that users of kaniko know.
# The context is laid out by infra/images/build.
FROM scratch
COPY executor /kaniko/executor
COPY ca-certificates.crt /kaniko/ssl/certs/
COPY LICENSE /kaniko/
ENV HOME=/root \
    USER=root \
    PATH=/usr/local/bin:/kaniko \
    SSL_CERT_DIR=/kaniko/ssl/certs \
    DOCKER_CONFIG=/kaniko/.docker/
LABEL org.opencontainers.image.title="kiln executor" \
      org.opencontainers.image.description="Builds container images from a Dockerfile inside a container" \
      org.opencontainers.image.licenses="Apache-2.0"
WORKDIR /workspace
ENTRYPOINT ["/kaniko/executor"]
