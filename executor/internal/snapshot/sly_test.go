package snapshot

import (
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// sly are ways in which processes change a tree without much to be seen of it. Each gets
// a regular file that is not empty and has times, a directory, a name that may be free
// and an empty directory outside of the tree.
var sly = map[string]func(t testing.TB, r *rand.Rand, file, dir, fresh, outside string){
	"store by a link that goes": func(t testing.TB, r *rand.Rand, file, _, fresh, _ string) {
		if os.Link(file, fresh) == nil {
			storeMapped(t, fresh, digit(r))
			_ = os.Remove(fresh)
		}
	},
	"store by a link outside": func(t testing.TB, r *rand.Rand, file, _, _, outside string) {
		if name := filepath.Join(outside, "l"); os.Link(file, name) == nil {
			storeMapped(t, name, digit(r))
		}
	},
	"link a file without a name over it": func(t testing.TB, r *rand.Rand, file, dir, _, _ string) {
		fd, err := unix.Open(dir, unix.O_TMPFILE|unix.O_RDWR, 0o644)
		if err != nil {
			return // not every file system has it
		}
		defer unix.Close(fd)
		_, _ = unix.Write(fd, fmt.Appendf(nil, "%08d", r.IntN(1e8)))
		var was unix.Stat_t
		if unix.Lstat(file, &was) != nil || os.Remove(file) != nil {
			return
		}
		if unix.Linkat(unix.AT_FDCWD, fmt.Sprintf("/proc/self/fd/%d", fd), unix.AT_FDCWD, file, unix.AT_SYMLINK_FOLLOW) == nil {
			asBefore(file, &was)
		}
	},
	"rename a copy over it": func(t testing.TB, r *rand.Rand, file, dir, _, _ string) {
		var was unix.Stat_t
		raw, err := os.ReadFile(file)
		if err != nil || unix.Lstat(file, &was) != nil {
			return
		}
		raw[0] = digit(r)
		side := filepath.Join(dir, ".copy")
		_ = os.WriteFile(side, raw, 0o600)
		asBefore(side, &was)
		if os.Rename(side, file) != nil {
			_ = os.Remove(side)
		}
	},
	"chmod there and back": func(_ testing.TB, _ *rand.Rand, file, _, _, _ string) {
		if fi, err := os.Lstat(file); err == nil {
			_ = os.Chmod(file, fi.Mode()^0o111)
			_ = os.Chmod(file, fi.Mode())
		}
	},
	"store by a directory's descriptor": func(t testing.TB, r *rand.Rand, file, _, fresh, _ string) {
		fd, err := unix.Open(filepath.Dir(file), unix.O_PATH|unix.O_DIRECTORY, 0)
		if err != nil {
			return
		}
		defer unix.Close(fd)
		away := fresh + ".d"
		moved := os.Rename(filepath.Dir(file), away) == nil
		storeMapped(t, fmt.Sprintf("/proc/self/fd/%d/%s", fd, filepath.Base(file)), digit(r))
		if moved && r.IntN(2) == 0 {
			_ = os.Rename(away, filepath.Dir(file))
		}
	},
	"store by a descriptor without access": func(t testing.TB, r *rand.Rand, file, _, _, _ string) {
		fd, err := unix.Open(file, unix.O_PATH, 0)
		if err != nil {
			return
		}
		defer unix.Close(fd)
		storeMapped(t, fmt.Sprintf("/proc/self/fd/%d", fd), digit(r))
	},
	"store by another mount": func(t testing.TB, r *rand.Rand, file, _, _, outside string) {
		at := filepath.Join(outside, "m")
		if os.Mkdir(at, 0o755) != nil {
			return
		}
		if unix.Mount(filepath.Dir(file), at, "", unix.MS_BIND, "") == nil {
			storeMapped(t, filepath.Join(at, filepath.Base(file)), digit(r))
			_ = unix.Unmount(at, 0)
		}
		_ = os.Remove(at)
	},
	"store by a mount of the file": func(t testing.TB, r *rand.Rand, file, _, _, outside string) {
		at := filepath.Join(outside, "f")
		if os.WriteFile(at, nil, 0o644) != nil {
			return
		}
		if unix.Mount(file, at, "", unix.MS_BIND, "") == nil {
			storeMapped(t, at, digit(r))
			_ = unix.Unmount(at, 0)
		}
		_ = os.Remove(at)
	},
	"exchange two directories": func(_ testing.TB, _ *rand.Rand, file, dir, _, _ string) {
		if from := filepath.Dir(file); !strings.HasPrefix(from+"/", dir+"/") && !strings.HasPrefix(dir+"/", from+"/") {
			_ = unix.Renameat2(unix.AT_FDCWD, from, unix.AT_FDCWD, dir, unix.RENAME_EXCHANGE)
		}
	},
	"store to a mapping of what was moved": func(t testing.TB, r *rand.Rand, file, _, fresh, _ string) {
		f, err := os.OpenFile(file, os.O_RDWR, 0)
		if err != nil {
			return
		}
		m, err := unix.Mmap(int(f.Fd()), 0, 1, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
		_ = f.Close()
		if err != nil {
			t.Fatal(err)
		}
		read := m[0]
		moved := os.Rename(file, fresh) == nil
		m[0] = read ^ 1
		if moved && r.IntN(2) == 0 {
			_ = os.Rename(fresh, file)
		}
		_ = unix.Munmap(m)
	},
	"cut and fill": func(_ testing.TB, r *rand.Rand, file, _, _, _ string) {
		var was unix.Stat_t
		if unix.Lstat(file, &was) != nil {
			return
		}
		_ = os.Truncate(file, 0)
		_ = os.Truncate(file, was.Size)
		if r.IntN(2) == 0 {
			asBefore(file, &was)
		}
	},
	"an attribute there and back": func(_ testing.TB, _ *rand.Rand, file, dir, _, _ string) {
		for _, name := range []string{file, dir} {
			_ = unix.Lsetxattr(name, "user.back", []byte("x"), 0)
			_ = unix.Lremovexattr(name, "user.back")
		}
	},
	"an attribute of a directory": func(_ testing.TB, r *rand.Rand, _, dir, _, _ string) {
		_ = unix.Lsetxattr(dir, "user.d", fmt.Append(nil, r.IntN(3)), 0)
	},
	"no attribute any more": func(_ testing.TB, _ *rand.Rand, file, _, _, _ string) {
		_ = unix.Lremovexattr(file, "user.k")
	},
	"another owner and back": func(_ testing.TB, r *rand.Rand, file, dir, _, _ string) {
		_ = os.Lchown(file, 7, 7)
		_ = os.Lchown(file, 0, r.IntN(2))
		_ = os.Lchown(dir, 0, r.IntN(2))
	},
	"a symbolic link to somewhere else": func(_ testing.TB, r *rand.Rand, _, _, fresh, _ string) {
		var was unix.Stat_t
		if unix.Lstat(fresh, &was) != nil || was.Mode&unix.S_IFMT != unix.S_IFLNK {
			_ = os.Symlink(fmt.Sprint(r.IntN(9)), fresh)
			return
		}
		_ = os.Remove(fresh)
		_ = os.Symlink(fmt.Sprint(r.IntN(9)), fresh)
		asBefore(fresh, &was)
	},
	"a device": func(_ testing.TB, r *rand.Rand, _, _, fresh, _ string) {
		var was unix.Stat_t
		if unix.Lstat(fresh, &was) == nil {
			_ = os.Remove(fresh)
		}
		if unix.Mknod(fresh, unix.S_IFCHR|0o600, int(unix.Mkdev(1, uint32(3+2*r.IntN(2))))) == nil && was.Mode != 0 {
			asBefore(fresh, &was)
		}
	},
}

func digit(r *rand.Rand) byte { return byte('0' + r.IntN(10)) }

// asBefore gives a file the times that another one had.
func asBefore(name string, was *unix.Stat_t) {
	_ = unix.UtimesNanoAt(unix.AT_FDCWD, name, []unix.Timespec{was.Atim, was.Mtim}, unix.AT_SYMLINK_NOFOLLOW)
	if was.Mode&unix.S_IFMT != unix.S_IFLNK {
		_ = unix.Chmod(name, was.Mode&0o7777)
	}
}

// beSly does one of them.
func beSly(t testing.TB, r *rand.Rand, root, outside string) {
	t.Helper()
	var files []string
	dirs := []string{root}
	err := filepath.WalkDir(root, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if fi, err := d.Info(); err == nil && fi.Mode().IsRegular() && fi.Size() > 0 {
			files = append(files, p)
		} else if d.IsDir() {
			dirs = append(dirs, p)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(files) == 0 {
		return
	}
	var ways []string
	for w := range sly {
		ways = append(ways, w)
	}
	slices.Sort(ways)
	file, dir := files[r.IntN(len(files))], dirs[r.IntN(len(dirs))]
	sly[ways[r.IntN(len(ways))]](t, r, file, dir, filepath.Join(dir, fmt.Sprintf("n%d", r.IntN(40))), outside)
	_ = os.Remove(filepath.Join(outside, "l"))
}
