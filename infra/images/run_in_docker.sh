#!/usr/bin/env bash
# Builds an image with Docker and the executor's image, as kaniko's script of
# this name does.
#
#   infra/images/run_in_docker.sh DOCKERFILE CONTEXT DESTINATION [CACHE]
#
# DOCKERFILE is relative to CONTEXT, a directory of this machine. CACHE is true
# to use the layer cache. Credentials are those of gcloud and of Docker, where
# there are any. KILN_IMAGE is the image to run (kiln/executor).
set -euo pipefail
if [[ $# -lt 3 || $# -gt 4 ]]; then
	echo "usage: run_in_docker.sh DOCKERFILE CONTEXT DESTINATION [CACHE]" >&2
	exit 1
fi
context=$(cd "$2" && pwd)
options=(-v "$context:/workspace")
if [[ -d $HOME/.config/gcloud ]]; then options+=(-v "$HOME/.config/gcloud:/root/.config/gcloud:ro"); fi
if [[ -e $HOME/.docker/config.json ]]; then options+=(-v "$HOME/.docker/config.json:/kaniko/.docker/config.json:ro"); fi
exec docker run --rm "${options[@]}" "${KILN_IMAGE:-kiln/executor}" \
	--dockerfile "$1" --destination "$3" --context dir:///workspace/ --cache="${4:-false}"
