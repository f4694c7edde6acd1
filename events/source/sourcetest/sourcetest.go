// Package sourcetest runs a parser of foreign events over requests written
// down in files, and checks what every parser promises.
package sourcetest

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/http"
	"net/textproto"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/kilnhook/kiln/events"
	"github.com/kilnhook/kiln/events/source"
)

// Parser is the function under test.
type Parser func(h http.Header, body []byte) ([]events.Change, error)

// Golden parses every testdata/*.http, a request line, headers, an empty line
// and a body, and compares the changes or the error with the file of the same
// name that ends in .golden. With the flag -update it writes them.
func Golden(t *testing.T, parse Parser) {
	t.Helper()
	files, err := filepath.Glob("testdata/*.http")
	if err != nil || len(files) == 0 {
		t.Fatalf("requests %v: %v", files, err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".http"), func(t *testing.T) {
			h, body := Request(t, file)
			changes, err := parse(h, body)
			Check(t, changes, err)
			got := render(t, changes, err)
			golden := strings.TrimSuffix(file, ".http") + ".golden"
			if update() {
				if err := os.WriteFile(golden, got, 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(got, want) {
				t.Errorf("got\n%s\nwant\n%s", got, want)
			}
		})
	}
}

// update reports whether the test binary was given -update.
func update() bool {
	f := flag.Lookup("update")
	return f != nil && f.Value.String() == "true"
}

// Request reads a request from a file.
func Request(t testing.TB, file string) (http.Header, []byte) {
	t.Helper()
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	r := bufio.NewReader(bytes.NewReader(data))
	if _, err := r.ReadString('\n'); err != nil { // the request line is for people
		t.Fatal(err)
	}
	h, err := textproto.NewReader(r).ReadMIMEHeader()
	if err != nil {
		t.Fatal(err)
	}
	body, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	return http.Header(h), body
}

// Check reports what no parser may return: changes along with an error, an
// invalid change, neither changes nor an error, or an error of no known kind.
func Check(t testing.TB, changes []events.Change, err error) {
	t.Helper()
	if err == nil {
		if len(changes) == 0 {
			t.Error("neither changes nor an error")
		}
		for _, c := range changes {
			if err := c.Validate(); err != nil {
				t.Errorf("invalid change: %v", err)
			}
			if c.Kind == events.KindObject && c.Deleted() {
				t.Error("an object is said to be a deleted ref")
			}
		}
		return
	}
	if changes != nil {
		t.Errorf("changes and an error: %v", err)
	}
	var malformed *source.MalformedError
	var ignored *source.IgnoredError
	switch {
	case errors.Is(err, source.ErrUnauthorised), errors.As(err, &malformed):
	case errors.As(err, &ignored):
		if ignored.Reason == "" {
			t.Error("ignored without a reason")
		}
	default:
		t.Errorf("error of no known kind: %v", err)
	}
}

// Fuzz seeds a fuzz target with every request of testdata, whole and with its
// body cut short, and checks the promises of a parser.
func Fuzz(f *testing.F, parse Parser) {
	f.Helper()
	files, err := filepath.Glob("testdata/*.http")
	if err != nil {
		f.Fatal(err)
	}
	for _, file := range files {
		h, body := Request(f, file)
		f.Add(formatHeader(h), body)
		f.Add(formatHeader(h), body[:len(body)/2])
	}
	f.Fuzz(func(t *testing.T, header string, body []byte) {
		h, err := textproto.NewReader(bufio.NewReader(strings.NewReader(header + "\r\n"))).ReadMIMEHeader()
		if err != nil {
			return
		}
		changes, err := parse(http.Header(h), body)
		Check(t, changes, err)
	})
}

func formatHeader(h http.Header) string {
	var b strings.Builder
	if err := h.Write(&b); err != nil {
		panic(err) // a strings.Builder does not fail
	}
	return b.String()
}

// render writes what a parser returned.
func render(t *testing.T, changes []events.Change, err error) []byte {
	t.Helper()
	if err != nil {
		return fmt.Appendf(nil, "error: %v\n", err)
	}
	out, err := json.MarshalIndent(changes, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	return append(out, '\n')
}
