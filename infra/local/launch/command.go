package launch

import (
	"maps"
	"slices"

	"github.com/kilnhook/kiln/events"
)

// Arguments is the executor's command line for a request: what to build and
// where to push it, by digest only. context replaces the request's own.
// extra are flags of the installation, such as registry maps.
func Arguments(req events.Request, context string, extra []string) []string {
	args := []string{"--context", context}
	add := func(flag, value string) {
		if value != "" {
			args = append(args, flag, value)
		}
	}
	add("--context-sub-path", req.ContextSubPath)
	add("--dockerfile", req.Dockerfile)
	add("--target", req.Target)
	add("--custom-platform", req.Platform)
	for _, k := range slices.Sorted(maps.Keys(req.Args)) {
		args = append(args, "--build-arg", k+"="+req.Args[k])
	}
	for _, k := range slices.Sorted(maps.Keys(req.Labels)) {
		args = append(args, "--label", k+"="+req.Labels[k])
	}
	if req.Image == "" {
		args = append(args, "--no-push")
	} else {
		args = append(args, "--destination", req.Image, "--push-by-digest")
	}
	return append(args, extra...)
}
