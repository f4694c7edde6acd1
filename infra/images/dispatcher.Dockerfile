# The dispatcher with an executor for its children, for Cloud Run. Built from the
# root of a clone:
#   bin/executor --context . --dockerfile infra/images/dispatcher.Dockerfile --destination …
FROM docker.io/library/golang:1.26-bookworm AS build
WORKDIR /src
COPY go.mod go.sum ./
RUN go mod download
COPY . .
RUN CGO_ENABLED=0 go build -trimpath -buildvcs=false -ldflags '-s -w' -o /out/ ./functions/dispatcher ./executor

FROM docker.io/library/debian:bookworm-slim
# git asks repositories where a ref is; newuidmap is for builds without root.
RUN apt-get update \
 && apt-get install -y --no-install-recommends ca-certificates git uidmap \
 && rm -rf /var/lib/apt/lists/*
COPY --from=build /out/dispatcher /out/executor /usr/local/bin/
COPY LICENSE /usr/local/share/doc/kiln/
LABEL org.opencontainers.image.title="kiln dispatcher" \
      org.opencontainers.image.description="Receives changes and builds them with executors of its own" \
      org.opencontainers.image.licenses="Apache-2.0"
ENTRYPOINT ["/usr/local/bin/dispatcher"]
