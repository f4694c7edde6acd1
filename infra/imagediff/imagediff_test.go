package imagediff

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
)

// layerOf makes a layer of lines: "path content", "path/" a directory, "path -> to" a
// symlink, "path = to" a hard link, "path ! mode" a file with a mode.
func layerOf(t testing.TB, lines string) v1.Layer {
	t.Helper()
	var buf bytes.Buffer
	tw := tar.NewWriter(&buf)
	for line := range strings.Lines(lines) {
		if line = strings.TrimSpace(line); line == "" {
			continue
		}
		name, rest, _ := strings.Cut(line, " ")
		h := &tar.Header{Name: name, Mode: 0o644, Typeflag: tar.TypeReg}
		switch {
		case strings.HasSuffix(name, "/"):
			h.Typeflag, h.Mode = tar.TypeDir, 0o755
		case strings.HasPrefix(rest, "-> "):
			h.Typeflag, h.Linkname = tar.TypeSymlink, rest[3:]
		case strings.HasPrefix(rest, "= "):
			h.Typeflag, h.Linkname = tar.TypeLink, rest[2:]
		case strings.HasPrefix(rest, "! "):
			if _, err := fmt.Sscanf(rest, "! %o", &h.Mode); err != nil {
				t.Fatal(err)
			}
		default:
			h.Size = int64(len(rest))
		}
		if err := tw.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if h.Size > 0 {
			if _, err := io.WriteString(tw, rest); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := tw.Close(); err != nil {
		t.Fatal(err)
	}
	l, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(buf.Bytes())), nil })
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func imageOf(t testing.TB, layers ...string) v1.Image {
	t.Helper()
	img := empty.Image
	for i, lines := range layers {
		var err error
		img, err = mutate.Append(img, mutate.Addendum{Layer: layerOf(t, lines), History: v1.History{CreatedBy: fmt.Sprint("step ", i)}})
		if err != nil {
			t.Fatal(err)
		}
	}
	return img
}

func told(files []Change) string {
	var b strings.Builder
	for _, c := range files {
		fmt.Fprintf(&b, "%s %s %+d\n", c.Kind, c.Path, c.Grown())
	}
	return b.String()
}

// What differs is what a container would see, however it is spread over layers.
func TestFiles(t *testing.T) {
	const base = "etc/\netc/a one\netc/b two\nvar/\nvar/x/\nvar/x/f 123\nvar/x/g 12345"
	for name, tc := range map[string]struct {
		was, is []string
		want    string
	}{
		"same":                     {[]string{base}, []string{base}, ""},
		"same in other layers":     {[]string{"a 1\nb 2"}, []string{"a 1", "b 2"}, ""},
		"added, changed":           {[]string{base, "etc/a other"}, []string{base, "etc/a three\netc/c new"}, "changed etc/a +0\nadded etc/c +3\n"},
		"changed in one":           {[]string{base}, []string{base, "etc/a longer"}, "changed etc/a +3\n"},
		"put again as it was":      {[]string{base}, []string{base, "etc/\netc/a one"}, ""},
		"mode":                     {[]string{"a ! 644"}, []string{"a ! 4755"}, "changed a +0\n"},
		"link":                     {[]string{"l -> a"}, []string{"l -> b"}, "changed l +0\n"},
		"removed":                  {[]string{base}, []string{base, "etc/.wh.a"}, "removed etc/a -3\n"},
		"removed directory":        {[]string{base}, []string{base, "var/.wh.x"}, "removed var/x +0\nremoved var/x/f -3\nremoved var/x/g -5\n"},
		"removed in both":          {[]string{base, "var/.wh.x"}, []string{base, "x 1", "var/.wh.x"}, "added x +1\n"},
		"opaque":                   {[]string{base}, []string{base, "var/x/\nvar/x/.wh..wh..opq\nvar/x/f 1234"}, "changed var/x/f +1\nremoved var/x/g -5\n"},
		"made anew":                {[]string{base}, []string{base, "var/.wh.x", "var/x/\nvar/x/h 1"}, "removed var/x/f -3\nremoved var/x/g -5\nadded var/x/h +1\n"},
		"a file for a directory":   {[]string{base}, []string{base, "var/x 1"}, "changed var/x +1\nremoved var/x/f -3\nremoved var/x/g -5\n"},
		"added and removed":        {[]string{base}, []string{base, "t/\nt/f 1", ".wh.t"}, ""},
		"hard link":                {[]string{"a 1\nb 1"}, []string{"a 1\nb = a"}, ""},
		"directory, then its like": {[]string{"a-b 1\na/\na/c 1"}, []string{}, "removed a +0\nremoved a/c -1\nremoved a-b -1\n"},
	} {
		d, err := Images(t.Context(), imageOf(t, tc.was...), imageOf(t, tc.is...), Options{})
		if err != nil {
			t.Errorf("%s: %v", name, err)
		} else if got := told(d.Files); got != tc.want {
			t.Errorf("%s:\n%swant\n%s", name, got, tc.want)
		} else if d.Same() != (tc.want == "") {
			t.Errorf("%s: same: %v", name, d.Same())
		}
	}
}

// Layers that both stand on are read only if they are needed.
func TestSharedLayersAreSpared(t *testing.T) {
	base := strings.Repeat("f"+strings.Repeat("x", 20)+" 1\n", 50)
	both, one := imageOf(t, base, "a 1"), imageOf(t, base, "a 2")
	d, err := Images(t.Context(), both, one, Options{})
	if err != nil || told(d.Files) != "changed a +0\n" {
		t.Fatalf("%+v, %v", d, err)
	}
	if len(d.Layers) != 3 || d.Layers[0].In != InBoth || d.Layers[1].In != OnlyWas || d.Layers[2].In != OnlyIs || d.Layers[2].CreatedBy != "step 1" {
		t.Errorf("layers %+v", d.Layers)
	}
	if want := d.Layers[1].Size + d.Layers[2].Size; d.Read != want {
		t.Errorf("%d bytes were read, want %d", d.Read, want)
	}
	var told int64
	all, err := Images(t.Context(), both, imageOf(t, base), Options{Told: func(n int64) { told = n }})
	if err != nil || all.Read != d.Layers[0].Size+d.Layers[1].Size || told != all.Read {
		t.Errorf("read %d, told %d, %v", all.Read, told, err)
	}
}

// What a container gets of the configuration is compared, and nothing else of it.
func TestConfig(t *testing.T) {
	with := func(c v1.Config, arch string) v1.Image {
		img, err := mutate.ConfigFile(imageOf(t), &v1.ConfigFile{Config: c, OS: "linux", Architecture: arch, Author: arch})
		if err != nil {
			t.Fatal(err)
		}
		return img
	}
	a := with(v1.Config{Env: []string{"PATH=/bin", "A=1"}, Labels: map[string]string{"v": "1"}, Cmd: []string{"a"}, User: "1"}, "amd64")
	b := with(v1.Config{Env: []string{"A=1", "PATH=/usr/bin"}, Labels: map[string]string{"v": "2"}, Entrypoint: []string{"e"}}, "arm64")
	d, err := Images(t.Context(), a, b, Options{})
	want := `[{Cmd ["a"] } {Entrypoint  ["e"]} {Env PATH /bin /usr/bin} {Label v 1 2} {User "1" } {platform linux/amd64 linux/arm64}]`
	if err != nil || fmt.Sprint(d.Config) != want {
		t.Errorf("%v, %v", d.Config, err)
	}
	if d, err = Images(t.Context(), a, a, Options{}); err != nil || !d.Same() {
		t.Errorf("%+v, %v", d, err)
	}
}

// Images that are larger than they may be are refused, and an end is an end.
func TestLimits(t *testing.T) {
	a, b := imageOf(t, "a 1\nb 2"), imageOf(t, "a 2\nb 2")
	var large *TooLargeError
	if _, err := Images(t.Context(), a, b, Options{MaxBytes: 10}); !errors.As(err, &large) {
		t.Errorf("bytes: %v", err)
	}
	if _, err := Images(t.Context(), a, b, Options{MaxFiles: 3}); !errors.As(err, &large) {
		t.Errorf("files: %v", err)
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	enough := errors.New("enough")
	cancel(enough)
	if _, err := Images(ctx, a, b, Options{}); !errors.Is(err, enough) {
		t.Errorf("cancelled: %v", err)
	}
}

// Whatever is in a layer, an image is no different from itself, and two images
// differ the same both ways.
func FuzzFiles(f *testing.F) {
	f.Add("a 1\n.wh.a\nd/\nd/.wh..wh..opq\nd/x -> y", "a = d\nd 1\n.wh.d\n../x 1\n/ 1")
	f.Fuzz(func(t *testing.T, one, two string) {
		for _, s := range []string{one, two} {
			for line := range strings.Lines(s) {
				name, rest, _ := strings.Cut(strings.TrimSpace(line), " ")
				if len(s) > 1000 || name == "" && rest != "" || strings.ContainsAny(s, "\x00!") {
					t.Skip("no layer")
				}
			}
		}
		base := "d/\nd/e/\nd/e/f 1\nd/g 22"
		a, b := imageOf(t, base, one), imageOf(t, base, two)
		if d, err := Images(t.Context(), a, a, Options{}); err != nil || len(d.Files) > 0 {
			t.Fatalf("with itself: %+v, %v", d, err)
		}
		there, err := Images(t.Context(), a, b, Options{})
		if err != nil {
			t.Fatal(err)
		}
		back, err := Images(t.Context(), b, a, Options{})
		if err != nil || len(there.Files) != len(back.Files) {
			t.Fatalf("%v\nand back %v, %v", there.Files, back.Files, err)
		}
	})
}
