package request_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/kilnhook/kiln/functions/dispatch"
	"github.com/kilnhook/kiln/infra/kiln/internal/request"
)

// Every example request of every forge and bucket is read, and those that its
// parser takes are taken from the file too.
func TestEveryExample(t *testing.T) {
	doors := map[string]string{
		"github": dispatch.DoorGitHub, "gitlab": dispatch.DoorGitLab, "gitea": dispatch.DoorGitea, "bitbucket": dispatch.DoorBitbucket,
		"git": dispatch.DoorGit, "s3": dispatch.DoorS3, "gcs": dispatch.DoorEvents, "azure": dispatch.DoorEvents, "knative": dispatch.DoorEvents,
		"put": dispatch.DoorEvents, "cdevents": dispatch.DoorEvents,
	}
	read := 0
	for name, door := range doors {
		files, err := filepath.Glob("../../../../events/source/" + name + "/testdata/*.http")
		if err != nil || len(files) == 0 {
			t.Fatalf("%s: %v %v", name, files, err)
		}
		for _, file := range files {
			data, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			golden, err := os.ReadFile(strings.TrimSuffix(file, ".http") + ".golden")
			if err != nil {
				t.Fatal(err)
			}
			if !strings.HasPrefix(string(golden), "[") {
				continue // what the parser refuses
			}
			r, err := request.Parse(data)
			if err != nil {
				t.Errorf("%s: %v", file, err)
				continue
			}
			if r.Path != door && r.Path != dispatch.DoorEvents { // which takes all CloudEvents
				t.Errorf("%s: door %s", file, r.Path)
			}
			changes, err := dispatch.Trusted(r.Path, "https://bitbucket.example.com", r.Header, r.Body)
			if err != nil || len(changes) == 0 {
				t.Errorf("%s: %v, %v", file, changes, err)
			}
			read++
		}
	}
	if read < 30 {
		t.Errorf("only %d examples were read", read)
	}
}

func TestForms(t *testing.T) {
	const push = `{"ref":"refs/heads/main","before":"a10867b14bb761a232cd80139fbd4c0d33264240","after":"199eddf46df50de8d02e99bf1c5fdb4101338224","repository":{"clone_url":"https://h/r"}}`
	for name, in := range map[string]string{
		"body":    push,
		"kept":    `{"headers":{"X-GitHub-Event":"push","Content-Type":["application/json"]},"body":` + push + `}`,
		"as text": `{"path":"/hooks/github","headers":{"x-github-event":"push"},"body":` + string(mustQuote(push)) + `}`,
		"as sent": "POST /hooks/github?x=1 HTTP/1.1\r\nX-GitHub-Event: push\r\nContent-Type: application/json\r\n\r\n" + push,
		"headers": "X-GitHub-Event: push\n\n" + push,
	} {
		r, err := request.Parse([]byte(in))
		if err != nil || r.Path != dispatch.DoorGitHub {
			t.Errorf("%s: %+v, %v", name, r, err)
			continue
		}
		if changes, err := dispatch.Trusted(r.Path, "", r.Header, r.Body); err != nil || len(changes) != 1 {
			t.Errorf("%s: %v", name, err)
		}
	}
	for _, in := range []string{"", "{", "{}", "hello", `{"headers":{"a":1},"body":{}}`} {
		if r, err := request.Parse([]byte(in)); err == nil {
			t.Errorf("%q: %+v", in, r)
		}
	}
}

func mustQuote(s string) []byte { return []byte(`"` + strings.ReplaceAll(s, `"`, `\"`) + `"`) }

func FuzzParse(f *testing.F) {
	f.Add([]byte("POST / HTTP/1.1\r\nA: b\r\n\r\n{}"))
	f.Add([]byte(`{"headers":{"a":["b"]},"body":"c"}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		r, err := request.Parse(data)
		if err == nil && r.Path == "" {
			t.Error("no door and no error")
		}
		_, _ = dispatch.Trusted(r.Path, "", r.Header, r.Body) // must not panic
	})
}
