package buildlog

import (
	"testing"

	"github.com/kilnhook/kiln/events"
)

// What a part says of itself is not taken for what the whole says.
func TestMark(t *testing.T) {
	for _, tc := range []struct{ in, want events.Progress }{
		{events.Progress{Kind: "step", ID: "1.2", Name: "[build 2/3] RUN x"}, events.Progress{Kind: "step", ID: "linux/arm64 1.2", Name: "[linux/arm64 build 2/3] RUN x"}},
		{events.Progress{Kind: "bytes", Name: "sha256:1"}, events.Progress{Kind: "bytes", Name: "linux/arm64 sha256:1"}},
		{events.Progress{Kind: "note", Text: "hello"}, events.Progress{Kind: "note", Text: "linux/arm64: hello"}},
		{events.Progress{Kind: "result", Text: "sha256:1"}, events.Progress{Kind: "note", Text: "linux/arm64: sha256:1"}},
		{events.Progress{Kind: "result", Error: "RUN x: status 1"}, events.Progress{Kind: "note", Text: "linux/arm64: RUN x: status 1"}},
	} {
		got := tc.in
		Mark(&got, "linux/arm64")
		tc.want.Platform = "linux/arm64"
		if got != tc.want {
			t.Errorf("%+v became %+v", tc.in, got)
		}
	}
}
