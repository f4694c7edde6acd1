package build

import (
	"fmt"
	"io/fs"
	"strings"
	"testing"

	"github.com/kilnhook/kiln/executor/internal/cache"
	"github.com/kilnhook/kiln/executor/internal/plan"
	"github.com/kilnhook/kiln/executor/internal/rootfs"
)

// BenchmarkKeys computes the keys of a thousand RUNs, each of which depends on
// the one before.
func BenchmarkKeys(b *testing.B) {
	on := &builder{Options: Options{Context: rootfs.NewMem()}}
	b.ReportAllocs()
	for b.Loop() {
		s := &stage{builder: on, key: cache.NewKey([]byte("start"))}
		for i := range 1000 {
			if err := s.advance(plan.Run{Args: []string{"/bin/sh", "-c", fmt.Sprint("echo ", i)}, Env: []string{"PATH=/bin", "A=b"}}); err != nil {
				b.Fatal(err)
			}
		}
	}
}

// BenchmarkCopyKey computes the key of a COPY of a thousand files of 8 KiB.
func BenchmarkCopyKey(b *testing.B) {
	files := rootfs.NewMem()
	body := strings.Repeat("12345678", 1<<10)
	if err := files.Put(rootfs.Entry{Name: "src", Mode: fs.ModeDir | 0o755}, nil); err != nil {
		b.Fatal(err)
	}
	for i := range 1000 {
		name := fmt.Sprintf("src/f%d", i)
		if err := files.Put(rootfs.Entry{Name: name, Mode: 0o644, Size: int64(len(body))}, strings.NewReader(body)); err != nil {
			b.Fatal(err)
		}
	}
	b.SetBytes(1000 * int64(len(body)))
	b.ReportAllocs()
	for b.Loop() {
		on := &builder{Options: Options{Context: files}}
		s := &stage{builder: on, key: cache.NewKey([]byte("start"))}
		if err := s.advance(plan.Copy{Placing: plan.Placing{Dest: "/src/"}, Paths: []string{"src"}}); err != nil {
			b.Fatal(err)
		}
	}
}
