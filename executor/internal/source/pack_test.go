package source

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/object"
)

// packOf writes all objects of a repository to a pack.
func packOf(t *testing.T, g *gitServer, repo string, args ...string) []byte {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "git", append([]string{"pack-objects", "--revs", "--all", "--stdout", "-q", "--window=50", "--depth=50"}, args...)...)
	cmd.Dir = filepath.Join(g.root, repo)
	cmd.Stdin = strings.NewReader("")
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	b, err := cmd.Output()
	if err != nil {
		t.Fatalf("%v: %s", err, stderr.String())
	}
	return b
}

func indexPack(t testing.TB, b []byte, limit int64) (*pack, error) {
	t.Helper()
	dir := t.TempDir()
	f, err := os.Create(filepath.Join(dir, "pack"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.Write(b); err != nil {
		t.Fatal(err)
	}
	p, err := openPack(t.Context(), f, dir, limit)
	if left, _ := os.ReadDir(dir); len(left) != 1 {
		t.Errorf("temporary files are left: %v", left)
	}
	t.Cleanup(p.close)
	return p, err
}

// history makes a repository whose pack has long chains of deltas, of small
// and of large files.
func history(t *testing.T, g *gitServer, large int) {
	t.Helper()
	g.repo("r.git", map[string]string{"f": "x"})
	noise := make([]byte, large)
	_, _ = rand.NewChaCha8([32]byte{7}).Read(noise)
	for i := range 12 {
		copy(noise[i*10:], fmt.Sprint("version ", i))
		g.commit("r.git", map[string]string{
			"large":               string(noise),
			fmt.Sprint("dir/", i): strings.Repeat(fmt.Sprint("a line of a file ", i%3, "\n"), 300+i),
		})
	}
	g.git("r.git", "tag", "-a", "-m", "t", "v1")
}

// Every object of a pack is found and has the bytes that Git says, whether
// its deltas name their base by offset or by id, and whatever its size.
func TestPack(t *testing.T) {
	g := newGitServer(t)
	history(t, g, 2*largeObject)
	for name, args := range map[string][]string{"by offset": {"--delta-base-offset"}, "by id": nil} {
		t.Run(name, func(t *testing.T) {
			p, err := indexPack(t, packOf(t, g, "r.git", args...), 0)
			if err != nil {
				t.Fatal(err)
			}
			deltas, large := 0, 0
			for _, line := range strings.Split(g.git("r.git", "cat-file", "--batch-all-objects", "--batch-check"), "\n") {
				var id, typ string
				var size int64
				if _, err := fmt.Sscan(line, &id, &typ, &size); err != nil {
					t.Fatal(err)
				}
				h := plumbing.NewHash(id)
				i, err := p.find(h)
				if err != nil {
					t.Fatal(err)
				}
				o := p.objects[i]
				if o.typ.String() != typ || o.size != size {
					t.Errorf("%s: %s of %d bytes, want %s of %d", id, o.typ, o.size, typ, size)
				}
				if o.base >= 0 {
					deltas++
				}
				if typ != "blob" {
					continue
				}
				rc, err := p.open(h)
				if err != nil {
					t.Fatal(err)
				}
				hasher := plumbing.NewHasher(plumbing.BlobObject, size)
				if _, err := io.Copy(hasher, rc); err != nil {
					t.Error(err)
				}
				_ = rc.Close()
				if hasher.Sum() != h {
					t.Errorf("%s has other bytes", id)
				}
				if size > largeObject && o.base >= 0 {
					large++
				}
			}
			if deltas < 10 || large < 5 {
				t.Errorf("the pack is too simple: %d deltas, %d of them large", deltas, large)
			}
			if p.bytes > packCache {
				t.Errorf("%d bytes are cached", p.bytes)
			}
			if _, err := p.open(plumbing.NewHash(g.git("r.git", "rev-parse", "HEAD"))); err == nil {
				t.Error("a commit was opened as a file")
			}
			if err := p.decode(plumbing.ZeroHash, &object.Commit{}); !errors.Is(err, plumbing.ErrObjectNotFound) {
				t.Errorf("error = %v", err)
			}
		})
	}
}

// A pack that was cut off, changed or is not complete is refused, as are
// objects that are too large.
func TestPackRefuses(t *testing.T) {
	g := newGitServer(t)
	history(t, g, 1000)
	whole := packOf(t, g, "r.git")
	thin := exec.CommandContext(t.Context(), "git", "pack-objects", "--revs", "--thin", "--stdout", "-q")
	thin.Dir = filepath.Join(g.root, "r.git")
	thin.Stdin = strings.NewReader("HEAD\n--not\nHEAD~1\n")
	incomplete, err := thin.Output()
	if err != nil {
		t.Fatal(err)
	}
	for at := 0; at < len(whole); at += 97 {
		changed := bytes.Clone(whole)
		changed[at] ^= 0x11
		if _, err := indexPack(t, changed, 0); err == nil {
			t.Errorf("a change at byte %d was not seen", at)
		}
		if _, err := indexPack(t, whole[:at], 0); err == nil {
			t.Errorf("a cut at byte %d was not seen", at)
		}
	}
	if _, err := indexPack(t, incomplete, 0); !errors.Is(err, errPack) || !strings.Contains(err.Error(), "that are not in it") {
		t.Errorf("thin pack: %v", err)
	}
	if _, err := indexPack(t, whole, 500); !errors.As(err, new(*LimitError)) {
		t.Errorf("large object: %v", err)
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(errors.New("superseded"))
	f, _ := os.Create(filepath.Join(t.TempDir(), "p"))
	_, _ = f.Write(whole)
	if _, err := openPack(ctx, f, t.TempDir(), 0); err == nil || err.Error() != "superseded" {
		t.Errorf("cancelled: %v", err)
	}
}

// Files with a long history are fetched also when all of it must be.
func TestFetchGitHistory(t *testing.T) {
	g := newGitServer(t)
	history(t, g, 2*largeObject)
	g.git("r.git", "repack", "-adfq", "--depth=50", "--window=50")
	hidden := g.git("r.git", "rev-parse", "HEAD~5")
	opt := g.options()
	c, err := Fetch(t.Context(), g.url+"/r.git#"+hidden, opt)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	for _, name := range []string{"large", "dir/6", "f"} {
		got, err := os.ReadFile(filepath.Join(c.Dir, name))
		if err != nil {
			t.Fatal(err)
		}
		hasher := plumbing.NewHasher(plumbing.BlobObject, int64(len(got)))
		_, _ = hasher.Write(got)
		if want := g.git("r.git", "rev-parse", hidden+":"+name); hasher.Sum().String() != want {
			t.Errorf("%s has other bytes", name)
		}
	}
	if _, err := os.Stat(filepath.Join(c.Dir, "dir/7")); err == nil {
		t.Error("a later file is there")
	}
}

// number writes a size as deltas have it.
func number(n int) []byte {
	var b []byte
	for ; n >= 0x80; n >>= 7 {
		b = append(b, byte(n)|0x80)
	}
	return append(b, byte(n))
}

// Deltas that are wrong in any way are errors.
func TestDelta(t *testing.T) {
	base := []byte("0123456789")
	long := bytes.Repeat([]byte("0123456789abcdef"), 0x1000) // 64 KiB
	sizes := func(b, n int) []byte { return append(number(b), number(n)...) }
	for name, tc := range map[string]struct {
		base, delta []byte
		want        string // "" if an error
	}{
		"copy and insert":  {base, append(sizes(10, 5), 0x91, 2, 3, 2, 'x', 'y'), "234xy"},
		"copy from start":  {base, append(sizes(10, 4), 0x90, 4), "0123"},
		"size 0 is 64 KiB": {long, append(sizes(len(long), 0x10000), 0x80), string(long)},
		"wide offset":      {long, append(sizes(len(long), 1), 0x93, 0x01, 0x80, 1), "1"},
		"other base":       {base, append(sizes(11, 1), 0x90, 1), ""},
		"nothing":          {base, nil, ""},
		"only sizes":       {base, sizes(10, 1), ""},
		"too short":        {base, append(sizes(10, 5), 0x90, 4), ""},
		"too long":         {base, append(sizes(10, 3), 0x90, 4), ""},
		"behind the end":   {base, append(sizes(10, 4), 0x91, 8, 4), ""},
		"cut insert":       {base, append(sizes(10, 4), 4, 'x'), ""},
		"cut copy":         {base, append(sizes(10, 4), 0x91), ""},
		"unknown":          {base, append(sizes(10, 1), 0), ""},
		"endless size":     {base, bytes.Repeat([]byte{0xff}, 20), ""},
	} {
		t.Run(name, func(t *testing.T) {
			d, err := newDelta(bufio.NewReader(bytes.NewReader(tc.delta)), int64(len(tc.base)))
			var out bytes.Buffer
			if err == nil {
				err = d.apply(bytes.NewReader(tc.base), &out)
			}
			if tc.want == "" && !errors.Is(err, errDelta) {
				t.Errorf("error = %v", err)
			}
			if tc.want != "" && (err != nil || out.String() != tc.want) {
				t.Errorf("%d bytes, %v", out.Len(), err)
			}
		})
	}
}

func FuzzPack(f *testing.F) {
	f.Add([]byte("PACK\x00\x00\x00\x02\x00\x00\x00\x00\x02\x9d\x08\x82\x3b\xd8\xa8\xea\xb5\x10\xad\x6a\xc7\x5c\x82\x3c\xfd\x3e\xd3\x1e"), []byte("\x0a\x05\x91\x02\x03\x02xy"))
	f.Fuzz(func(t *testing.T, packBytes, deltaBytes []byte) {
		p, err := indexPack(t, packBytes, 1<<20)
		if err == nil {
			for h := range p.byHash {
				if rc, err := p.open(h); err == nil {
					_, _ = io.Copy(io.Discard, rc)
					_ = rc.Close()
				}
			}
		}
		base := []byte("0123456789")
		d, err := newDelta(bufio.NewReader(bytes.NewReader(deltaBytes)), int64(len(base)))
		if err != nil || d.size > 1<<20 {
			return
		}
		var out bytes.Buffer
		if err := d.apply(bytes.NewReader(base), &out); err == nil && int64(out.Len()) != d.size {
			t.Errorf("made %d bytes, said %d", out.Len(), d.size)
		}
	})
}
