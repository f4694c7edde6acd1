package console

import (
	"encoding/json"
	"flag"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "write the screenshots in docs/screenshots")

const evil = `<img src=x onerror="window.hostile=1">`

// demo is an app whose build takes a while and prints in colours.
func demo(env, large string) map[string]string {
	return map[string]string{
		"Dockerfile": "FROM debian:bookworm-slim AS build\nCOPY . /src/\nRUN cksum /src/* > /sums\n\n" +
			"FROM debian:bookworm-slim\nENV FLAVOUR=" + env + "\nCOPY . /app/\n" +
			`RUN for i in $(seq 1 20); do printf '\033[32mtick %d\033[0m of 20\n' $i; sleep 0.15; done` + "\n" +
			"COPY --from=build /sums /app/sums\nRUN head -c 300000 /dev/urandom > /app/made && rm /app/hello\n",
		"hello": "hello\n", "large": strings.Repeat(large, 60_000), "small": "small\n",
	}
}

// hostile is an app all of whose words are markup.
func hostile(label string) map[string]string {
	return map[string]string{
		"Dockerfile": "FROM debian:bookworm-slim\nLABEL note='" + label + "'\nCOPY . /app/\n" +
			"RUN printf '%s\\n' '<script>window.hostile=2</script>' '</pre></details>" + evil + "' '<b class=evil>bold</b>' && printf '<\\033[31mimg src=x onerror=window.hostile=3>\\n'\n",
		evil + ".txt": strings.Repeat("x", 5000),
	}
}

const longLog = "FROM debian:bookworm-slim\nRUN seq -f 'line %.0f of a log that is as long as some are, with text to read in every one of its lines' 1 200000\n"

// The page does in a browser what it is for.
func TestConsole(t *testing.T) {
	b := newBrowser(t)
	s := start(t, "--max-parallel", "3", "--executor-arg=--cache", "--executor-arg=--cache-copy-layers", "--executor-arg=--cache-repo=oci:"+t.TempDir())
	b.url = s.URL
	long := s.put(t, "long", map[string]string{"Dockerfile": longLog})

	live := struct{ ID, Text, Timeline, Layers string }{}
	b.run(t, "live", args{"archive": archive(t, demo("plain", "a")), "name": "shop"}, &live)
	if !strings.Contains(live.Text, "127.0.0.1") || !strings.Contains(live.Text, "shop") || !strings.Contains(live.Text, "shown") {
		t.Errorf("the page of the build says %q, without image and tag", live.Text)
	}
	if !strings.Contains(live.Timeline, "miss: no entry") {
		t.Errorf("the timeline says %q, and not why the cache had nothing", live.Timeline)
	}
	changed := s.put(t, "shop", demo("salted", "b"))

	ref := "refs/heads/<img/src=x/onerror=window.hostile=4>"
	first := s.push(t, "evil", ref, hostile("kind"))
	b.run(t, "cancel", args{"archive": archive(t, map[string]string{"Dockerfile": "FROM debian:bookworm-slim\nRUN echo asleep; sleep 300\n"}), "name": "sleeper"}, nil)
	s.wait(t, first, "success")
	second := s.push(t, "evil", ref, hostile(evil))
	s.wait(t, second, "success")
	s.wait(t, changed, "success")
	s.wait(t, long, "success")

	t.Run("long log", func(t *testing.T) { // alone: it is timed
		var figures json.RawMessage
		b.run(t, "longlog", args{"id": long}, &figures)
		t.Logf("200,000 lines: %s", figures)
	})
	t.Run("hostile", func(t *testing.T) {
		t.Parallel()
		b.run(t, "hostile", args{
			"pages": []string{"/builds/" + first, "/builds/" + first + "/log?step=2", "/builds/" + second, "/builds/" + second + "/files", "/", "/trends", "/trends?trigger=push"},
			"texts": map[string]string{
				"log line": "<script>window.hostile=2</script>", "coloured line": "<img src=x onerror=window.hostile=3>", "file name": evil + ".txt",
				"branch": strings.TrimPrefix(ref, "refs/heads/"), "label": evil,
			},
		}, nil)
	})
	t.Run("changes", func(t *testing.T) {
		text := s.get(t, "/builds/"+changed)
		for _, want := range []string{"Against <a href=\"/builds/" + live.ID, "env FLAVOUR", "salted", "changed: the files it reads"} {
			if !strings.Contains(text, want) {
				t.Errorf("the page of the second build does not say %q", want)
			}
		}
	})
	t.Run("keyboard", func(t *testing.T) {
		t.Parallel()
		b.run(t, "keyboard", args{"id": changed}, nil)
	})
	t.Run("without JavaScript", func(t *testing.T) {
		t.Parallel()
		b.run(t, "reading", args{"id": live.ID, "long": long, "changed": changed}, nil)
	})
	t.Run("pictures", func(t *testing.T) {
		t.Parallel()
		pictures(t, b, changed)
	})
}

// maxPicture is the size of a screenshot in bytes.
const maxPicture = 200_000

// pictures takes screenshots, and keeps them with -update.
func pictures(t *testing.T, b *browser, id string) {
	t.Helper()
	dir := t.TempDir()
	if *update {
		dir = filepath.Join("..", "..", "docs", "screenshots")
		check(t, os.MkdirAll(dir, 0o755))
	}
	sizes := map[string]int{}
	abs, err := filepath.Abs(dir)
	check(t, err)
	pages := map[string]string{"build": "/builds/" + id}
	if *update {
		pages["list"], pages["trends"] = "/", "/trends?trigger=upload"
	}
	b.run(t, "pictures", args{"dir": abs, "pages": pages, "heights": map[string]int{"list": 640, "build": 1250, "trends": 640}}, &sizes)
	if len(sizes) != 2*len(pages) {
		t.Errorf("%d pictures of %d pages", len(sizes), len(pages))
	}
	for name, size := range sizes {
		if size < 10_000 || size > maxPicture {
			t.Errorf("%s has %d bytes", name, size)
		}
	}
}

// A stack that others can reach wants its token: in the form, as bearer, and at the
// doors; without one it does not start.
func TestToken(t *testing.T) {
	b := newBrowser(t)
	out, err := runKiln(t, "up", "--data", t.TempDir(), "--listen", "0.0.0.0:0", "--executor", programs.executor)
	if err == nil || !strings.Contains(out, "give --token-file or KILN_TOKEN") {
		t.Fatalf("a stack without a token listens to all: %v\n%s", err, out)
	}
	token := filepath.Join(t.TempDir(), "token")
	check(t, os.WriteFile(token, []byte("open-sesame\n"), 0o600))
	s := start(t, "--listen", "0.0.0.0:0", "--listen-s3", "127.0.0.1:0", "--token-file", token)
	b.url = s.URL
	for path, want := range map[string]int{"/": 401, "/api/builds": 401, "/events": 401, "/contexts/a": 401, "/metrics": 401, "/login": 200, "/healthz": 200} {
		if got := status(t, s.URL+path, ""); got != want {
			t.Errorf("GET %s without a token: %d, want %d", path, got, want)
		}
	}
	for path, want := range map[string]int{"/": 200, "/api/builds": 200, "/contexts/a": 404} {
		if got := status(t, s.URL+path, "Bearer open-sesame"); got != want {
			t.Errorf("GET %s with the token: %d, want %d", path, got, want)
		}
	}
	b.run(t, "login", args{"token": "open-sesame", "archive": archive(t, map[string]string{"Dockerfile": "FROM scratch\nCOPY Dockerfile /\n"})}, nil)
}

func status(t *testing.T, url, authorization string) int {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	check(t, err)
	if authorization != "" {
		req.Header.Set("Authorization", authorization)
	}
	resp, err := http.DefaultClient.Do(req)
	check(t, err)
	check(t, resp.Body.Close())
	return resp.StatusCode
}

type args map[string]any

func (a args) with(more args) string {
	all := args{}
	for _, m := range []args{a, more} {
		for k, v := range m {
			all[k] = v
		}
	}
	data, err := json.Marshal(all)
	if err != nil {
		return fmt.Sprint(err)
	}
	return string(data)
}
