package workspace

import (
	"bufio"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/kilnhook/kiln/executor/internal/rootfs"
)

// paths are what a build in place leaves alone: file systems mounted into the
// container, the executor's own files, and what the user named.
type paths struct {
	in    map[string]bool // left alone, with everything below
	above map[string]bool // directories that hold one of them
}

func newPaths(names []string) paths {
	p := paths{in: map[string]bool{}, above: map[string]bool{}}
	for _, n := range names {
		if n = rootfs.Clean(n); n == "." {
			continue
		}
		p.in[n] = true
		for n != "." {
			n = rootfs.Parent(n)
			p.above[n] = true
		}
	}
	return p
}

// names are those that are left alone, with everything below.
func (p paths) names() []string { return slices.Collect(maps.Keys(p.in)) }

// skip tells whether name is left alone.
func (p paths) skip(name string) bool {
	for ; name != "."; name = rootfs.Parent(name) {
		if p.in[name] {
			return true
		}
	}
	return false
}

// pinned tells whether name is a directory that holds something left alone.
func (p paths) pinned(name string) bool { return p.above[name] }

// mountPoints returns where file systems are mounted, but for the root's own.
func mountPoints() ([]string, error) {
	f, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return nil, fmt.Errorf("read mount points: %w", err)
	}
	defer f.Close()
	return parseMountinfo(f)
}

// parseMountinfo reads proc_pid_mountinfo(5): the fifth field is the mount
// point, with space, tab, newline and backslash as octal escapes.
func parseMountinfo(r io.Reader) ([]string, error) {
	var out []string
	sc := bufio.NewScanner(r)
	sc.Buffer(nil, 1<<20)
	for sc.Scan() {
		f := strings.Fields(sc.Text())
		if len(f) < 5 {
			return nil, fmt.Errorf("read mount points: malformed line %q", sc.Text())
		}
		if p := unescape(f[4]); p != "/" {
			out = append(out, p)
		}
	}
	if err := sc.Err(); err != nil {
		return nil, fmt.Errorf("read mount points: %w", err)
	}
	return out, nil
}

func unescape(s string) string {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+3 < len(s) {
			if n, err := strconv.ParseUint(s[i+1:i+4], 8, 8); err == nil {
				b.WriteByte(byte(n))
				i += 3
				continue
			}
		}
		b.WriteByte(s[i])
	}
	return b.String()
}
