package step

import (
	"archive/tar"
	"bytes"
	"fmt"
	"math/rand"
	"os"
	"os/exec"
	"path"
	"strings"
	"testing"
	"time"

	"github.com/kilnhook/kiln/executor/internal/rootfs"
)

func TestZZUntar(t *testing.T) {
	if os.Getenv("ORACLE") == "" {
		t.Skip()
	}
	agree, both, mism := 0, 0, 0
	start := time.Now()
	for seed := int64(0); mism < 6 && time.Since(start) < 150*time.Second; seed++ {
		r := rand.New(rand.NewSource(seed))
		pick := func(s ...string) string { return s[r.Intn(len(s))] }
		name := func() string {
			n := pick("a", "b", "c", "./a", "../b", "/c", "a/b", "a/b/c", "b/a", "c/a", ".", "a/", "b/c/")
			return n
		}
		gen := func(n int) []byte {
			var b bytes.Buffer
			w := tar.NewWriter(&b)
			seen := map[string]bool{}
			for range n {
				nm := name()
				if seen[rootfs.Clean(nm)] {
					continue
				}
				seen[rootfs.Clean(nm)] = true
				h := tar.Header{Name: nm, Uid: r.Intn(3), Gid: r.Intn(3), ModTime: time.Unix(int64(1000+r.Intn(1000)), 0), Mode: []int64{0o644, 0o755, 0o4711, 0o1777, 0o500}[r.Intn(5)]}
				content := ""
				switch r.Intn(10) {
				case 0, 1, 2:
					h.Typeflag = tar.TypeDir
				case 3, 4, 5:
					h.Typeflag = tar.TypeReg
					h.Name = strings.TrimSuffix(h.Name, "/")
					content = fmt.Sprint(r.Intn(100))
					h.Size = int64(len(content))
				case 6, 7:
					h.Typeflag = tar.TypeSymlink
					h.Name = strings.TrimSuffix(h.Name, "/")
					h.Linkname = pick("a", "b", "../a", "/a/b", "/c", "nowhere", "a/b", "..", ".", "/../b")
				case 80:
					h.Typeflag = tar.TypeLink
					h.Name = strings.TrimSuffix(h.Name, "/")
					h.Linkname = pick("a", "b", "../a", "/a/b", "a/b")
				default:
					h.Typeflag = tar.TypeFifo
					h.Name = strings.TrimSuffix(h.Name, "/")
				}
				w.WriteHeader(&h)
				w.Write([]byte(content))
			}
			w.Close()
			return b.Bytes()
		}
		base, top := gen(r.Intn(6)), gen(1+r.Intn(7))
		tmp := t.TempDir()
		mk := func(n string) string { p := path.Join(tmp, n); os.Mkdir(p, 0o755); return p }
		d1, d2 := mk("d1"), mk("d2")
		os.WriteFile(path.Join(tmp, "base"), base, 0o644)
		os.WriteFile(path.Join(tmp, "top"), top, 0o644)
		if exec.Command("/tmp/refs/untar/untar", path.Join(tmp, "base"), d1).Run() != nil {
			continue
		}
		exec.Command("/tmp/refs/untar/untar", path.Join(tmp, "base"), d2).Run()
		root, _ := rootfs.OpenDir(d1)
		u := &unpacker{root: root, dest: ".", in: Inputs{}}
		err1 := u.unpack(t.Context(), bytes.NewReader(top))
		root.Close()
		outp, err2 := exec.Command("/tmp/refs/untar/untar", path.Join(tmp, "top"), d2).CombinedOutput()
		print := func(dir string) string {
			d, _ := rootfs.OpenDir(dir)
			defer d.Close()
			var b strings.Builder
			inodes := map[rootfs.Inode]string{}
			rootfs.Walk(d, ".", func(e rootfs.Entry) error {
				if e.ModTime.Unix() > 100000 || e.Name == "." {
					e.ModTime = time.Time{}
				}
				e.ModTime = time.Time{}
				link := ""
				if f, ok := inodes[e.Inode]; ok && e.Nlink > 1 && !e.Mode.IsDir() {
					link = " = " + f
				}
				inodes[e.Inode] = e.Name
				var c []byte
				if e.Mode.IsRegular() {
					c, _ = os.ReadFile(path.Join(dir, e.Name))
				}
				fmt.Fprintf(&b, "%s %q%s\n", printEntry(e), c, link)
				return nil
			})
			return b.String()
		}
		list := func() string {
			var b strings.Builder
			tr := tar.NewReader(bytes.NewReader(top))
			for {
				h, err := tr.Next()
				if err != nil {
					return b.String()
				}
				fmt.Fprintf(&b, "  %c %s -> %s\n", h.Typeflag, h.Name, h.Linkname)
			}
		}
		switch {
		case err1 == nil && err2 == nil:
			agree++
			if a, b := print(d1), print(d2); a != b {
				mism++
				t.Errorf("seed %d:\n%sours\n%stheirs\n%s", seed, list(), a, b)
			}
		case err1 != nil && err2 != nil:
			both++
		case err1 == nil:
			continue
		default:
			mism++
			t.Errorf("seed %d\n%s: ours %v, theirs %v %s", seed, list(), err1, err2, outp)
		}
	}
	t.Logf("%d agree, %d both fail", agree, both)
}
