#!/bin/sh
# Shows what the fastest decompressors there are need for the layers of an image, in
# seconds of processor time, user and system: the least that anybody needs who is to know
# what is in a gzip layer. The layers are in memory; what is decompressed goes to /dev/null.
#
#	sh e2e/bench/bound.sh LAYOUT [ROUNDS]
#
# LAYOUT is an OCI image layout; by default that of the base of the workload copy, which
# "make bench" keeps in ~/.cache/kiln. It needs Debian's packages isal and
# libdeflate-tools; a tool that is not there is left out.
set -eu
layout=${1:-$(ls -d "$HOME"/.cache/kiln/bench-full-large-*/image | head -1)}
rounds=${2:-5}
work=$(mktemp -d -p /dev/shm)
trap 'rm -rf "$work"' EXIT
for blob in "$layout"/blobs/sha256/*; do
	if [ "$(od -An -tx1 -N2 "$blob" | tr -d ' ')" = 1f8b ]; then
		cp "$blob" "$work/$(basename "$blob").gz"
	fi
done
compressed=$(cat "$work"/*.gz | wc -c)
plain=$(for l in "$work"/*.gz; do gzip -dc "$l"; done | wc -c)
echo "$(ls "$work" | wc -l) layers, $((compressed / 1000000)) MB compressed, $((plain / 1000000)) MB plain; medians of $rounds rounds, s of CPU"

# cpu prints the processor time of a command for all layers.
cpu() {
	for l in "$work"/*.gz; do
		/usr/bin/env TIMEFORMAT='%U %S' bash -c 'time "$0" "$@" >/dev/null 2>/dev/null' "$@" "$l"
	done 2>&1 | awk '{ t += $1 + $2 } END { printf "%.3f\n", t }'
}

measure() {
	name=$1
	shift
	command -v "$1" >/dev/null || return 0
	for _ in $(seq "$rounds"); do cpu "$@"; done | sort -n | awk -v name="$name" '{ v[NR] = $1 } END { printf "%-34s %.2f\n", name, v[int((NR + 1) / 2)] }'
}

measure 'igzip -d (ISA-L)' igzip -d -c
measure 'libdeflate-gunzip' libdeflate-gunzip -c
measure 'gzip -d' gzip -d -c
measure 'SHA-256 of the compressed bytes' openssl dgst -sha256
