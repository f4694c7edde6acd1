#!/bin/sh
# Waits for the next image that Kiln built, checks it and prints its name with the
# digest: follow.sh URL [LAST_EVENT_ID]
# Written after docs/subscribe.md; needs curl, jq and sha256sum.
set -eu
url=$1 last=${2:-}
type=dev.kilnhook.build.finished.v1
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
mkfifo "$scratch/stream"

curl -sSN --fail "$url/events?type=$type${last:+&lastEventId=$last}" >"$scratch/stream" &
curl=$!
trap 'kill $curl 2>/dev/null || :; rm -rf "$scratch"' EXIT

seen=' '
while IFS= read -r line; do
	case $line in data:*) event=${line#data:} ;; *) continue ;; esac
	field() { printf '%s' "$event" | jq -r "$1 // empty"; }
	[ "$(field .specversion)" = 1.0 ] && [ "$(field .type)" = $type ] || continue
	key="$(field .source)#$(field .id)"
	case $seen in *" $key "*) continue ;; esac
	seen="$seen$key "
	if [ "$(field .outcome)" != success ]; then
		echo "build $(field .buildid): $(field .outcome): $(field .data.message)" >&2
		continue
	fi
	digest=$(field .imagedigest) repository=$(field .data.image.repository)
	[ "$(field .subject)" = "$repository@$digest" ] || { echo "subject and image differ" >&2; exit 1; }
	# The registry's answer must have the digest that the event tells.
	curl -sS --fail -H 'Accept: application/vnd.oci.image.manifest.v1+json, application/vnd.oci.image.index.v1+json' \
		-o "$scratch/manifest" "${REGISTRY_SCHEME:-https}://${repository%%/*}/v2/${repository#*/}/manifests/$digest"
	got=sha256:$(sha256sum "$scratch/manifest" | cut -d ' ' -f 1)
	[ "$got" = "$digest" ] || { echo "the registry has $got for $digest" >&2; exit 1; }
	echo "$repository@$digest"
	exit 0
done <"$scratch/stream"
echo "the stream ended" >&2
exit 1
