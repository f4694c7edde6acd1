package step

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"
	"strings"
	"testing"

	"github.com/kilnhook/kiln/executor/internal/plan"
	"github.com/kilnhook/kiln/executor/internal/rootfs"
)

const users = `dir etc
file etc/passwd "# comment\n\nroot:x:0:0:root:/root:/bin/sh\nbad:x:zero:0::/\nshort:x\napp:x:100:101::/home/app:/bin/sh\n app2 :x:5:5\ndup:x:7:7::/first\ndup:x:8:8::/second\n1234:x:9:9::/named\nnohome:x:11:11:::/bin/sh\n"
file etc/group "root:x:0:root\nwheel:x:10:root,app\nweb:x:33:app,dup\napp:x:101:\nbad:x:-1:app\nbad:x:55:\n"
`

// USER by name or number: primary and supplementary groups and home come from
// the image's files, which a number need not be in.
func TestLookupUser(t *testing.T) {
	root := buildTree(t, users)
	for spec, want := range map[string]string{
		"":           "0:0 [0 10] /root",
		"root":       "0:0 [0 10] /root",
		"0":          "0:0 [0 10] /root",
		"app":        "100:101 [101 10 33] /home/app",
		"app:":       "100:101 [101 10 33] /home/app",
		"100":        "100:101 [101 10 33] /home/app",
		"app:web":    "100:33 [33] /home/app",
		"app:33":     "100:33 [33] /home/app",
		"app:4444":   "100:4444 [4444] /home/app",
		"4444":       "4444:0 [0] /",
		"4444:5555":  "4444:5555 [5555] /",
		"100:5555":   "100:5555 [5555] /home/app",
		":web":       "0:33 [33] /root",
		"dup":        "7:7 [7 33] /first",
		"8":          "8:8 [8 33] /second",
		"1234":       "9:9 [9] /named",
		"nohome":     "11:11 [11] /",
		"app:bad":    "100:55 [55] /home/app",
		"2147483647": "2147483647:0 [0] /",
	} {
		id, err := LookupUser(root, spec)
		if got := fmt.Sprintf("%d:%d %v %s", id.UID, id.GID, id.Groups, id.Home); err != nil || got != want {
			t.Errorf("%q is %s (%v), want %s", spec, got, err, want)
		}
	}
	for _, spec := range []string{"nobody", "app:nogroup", "bad", "short", "-1", "2147483648", "a:b:c"} {
		if id, err := LookupUser(root, spec); err == nil {
			t.Errorf("%q is %v", spec, id)
		}
	}
}

// Without the files only numbers and root are known.
func TestLookupWithoutFiles(t *testing.T) {
	for name, tree := range map[string]string{"no etc": "", "etc is a file": "file etc"} {
		root := buildTree(t, tree)
		for spec, want := range map[string]Identity{
			"": {Groups: []int{0}, Home: "/"}, "root": {Groups: []int{0}, Home: "/"}, "root:root": {Groups: []int{0}, Home: "/"},
			"5": {UID: 5, Groups: []int{0}, Home: "/"}, "5:6": {UID: 5, GID: 6, Groups: []int{6}, Home: "/"},
		} {
			id, err := LookupUser(root, spec)
			if err != nil || id.UID != want.UID || id.GID != want.GID || !slices.Equal(id.Groups, want.Groups) || id.Home != want.Home {
				t.Errorf("%s: %q is %+v (%v)", name, spec, id, err)
			}
		}
		for _, spec := range []string{"app", "5:web"} {
			if _, err := LookupUser(root, spec); !errors.Is(err, ErrUnknownUser) {
				t.Errorf("%s: %q: %v", name, spec, err)
			}
			if _, err := LookupOwner(root, spec); !errors.Is(err, ErrUnknownUser) {
				t.Errorf("%s: %q: %v", name, spec, err)
			}
		}
	}
}

// --chown: a number is taken as it is and stands for the group as well.
func TestLookupOwner(t *testing.T) {
	root := buildTree(t, users)
	for spec, want := range map[string]Owner{
		"": {0, 0}, "root": {0, 0}, "app": {100, 101}, "app:": {100, 101}, "app:web": {100, 33}, "100": {100, 100}, "100:": {100, 100},
		"100:0": {100, 0}, "100:root": {100, 0}, "app:0": {100, 0}, "1234": {1234, 1234}, ":web": {0, 33}, ":7": {0, 7},
	} {
		if o, err := LookupOwner(root, spec); err != nil || o != want {
			t.Errorf("%q is %v (%v), want %v", spec, o, err, want)
		}
	}
	for _, spec := range []string{"nobody", "app:nogroup", "-1", "1:-1", "1:2147483648"} {
		if o, err := LookupOwner(root, spec); err == nil {
			t.Errorf("%q is %v", spec, o)
		}
	}
}

// The files are read through links inside the root, and only if regular and of
// a sane size.
func TestUserFiles(t *testing.T) {
	linked := buildTree(t, "dir usr\nfile usr/passwd \"app:x:3:4::/h\"\ndir etc\nlink etc/passwd -> ../../../usr/passwd\n")
	if id, err := LookupUser(linked, "app"); err != nil || id.UID != 3 {
		t.Errorf("%v, %v", id, err)
	}
	odd := buildTree(t, "dir etc\nfifo etc/passwd\n")
	if _, err := LookupUser(odd, "app"); err == nil || err.Error() != "read the image's /etc/passwd: it is not a regular file" {
		t.Errorf("got %v", err)
	}
	huge := hugePasswd{buildTree(t, users)}
	if _, err := LookupUser(huge, "app"); err == nil || err.Error() != "read the image's /etc/passwd: it has more than 10485760 bytes" {
		t.Errorf("got %v", err)
	}
	long := buildTree(t, "dir etc\n")
	if err := long.Put(rootfs.Entry{Name: "etc/passwd", Mode: 0o644}, io.LimitReader(zeros{}, 2<<20)); err != nil {
		t.Fatal(err)
	}
	if _, err := LookupUser(long, "app"); err == nil || !strings.Contains(err.Error(), "token too long") {
		t.Errorf("got %v", err)
	}
}

type hugePasswd struct{ rootfs.FS }

func (h hugePasswd) Lstat(name string) (rootfs.Entry, error) {
	e, err := h.FS.Lstat(name)
	if name == "etc/passwd" {
		e.Size = 11 << 20
	}
	return e, err
}

// RUN is handed to the sandbox with the user it runs as, in a directory that
// exists.
func TestRun(t *testing.T) {
	root := buildTree(t, users)
	op := plan.Run{Args: []string{"x"}, User: "app", Dir: "/srv/dir"}
	failure := errors.New("exit status 3")
	var who Identity
	err := Do(t.Context(), root, op, Inputs{Run: func(_ context.Context, got plan.Run, id Identity) error {
		who = id
		if got.Args[0] != "x" {
			t.Errorf("ran %v", got)
		}
		return failure
	}})
	if err != failure || who.UID != 100 || who.Home != "/home/app" { //nolint:errorlint // as it is
		t.Errorf("%v as %v", err, who)
	}
	if e, err := root.Lstat("srv/dir"); err != nil || e.Mode != fs.ModeDir|0o755 || e.UID != 0 {
		t.Errorf("directory is %v, %v", e, err)
	}
	for _, bad := range []plan.Run{{User: "nobody", Dir: "/"}, {Dir: "/etc/passwd/x"}} {
		err := Do(t.Context(), root, bad, Inputs{Run: func(context.Context, plan.Run, Identity) error {
			t.Error("ran")
			return nil
		}})
		if err == nil {
			t.Errorf("%v is run", bad)
		}
	}
	if err := Do(t.Context(), root, op, Inputs{}); err == nil {
		t.Error("ran without a sandbox")
	}
}

// What an operation lacks is an error, not a panic.
func TestMissingInputs(t *testing.T) {
	n := 0
	for _, op := range []plan.Op{
		nil, plan.Copy{Placing: plan.Placing{Dest: "/"}, Paths: []string{"a"}}, plan.Copy{Placing: plan.Placing{Dest: "/"}, From: plan.Source{Stage: &n}, Paths: []string{"a"}},
		plan.Add{Placing: plan.Placing{Dest: "/"}, Paths: []string{"a"}}, plan.Add{Placing: plan.Placing{Dest: "/"}, URLs: []string{"http://x/y"}},
		plan.Copy{Placing: plan.Placing{Dest: "/", Chmod: "9"}, Paths: []string{"a"}},
	} {
		if err := Do(t.Context(), rootfs.NewMem(), op, Inputs{}); err == nil {
			t.Errorf("%v is carried out", op)
		}
	}
}

func FuzzLookupOwner(f *testing.F) {
	f.Add("app:web", "app:x:1:2::/:\n", "web:x:3:app\n")
	f.Add("1:2", "", "")
	f.Add(":", "::::\n", ":::,\n")
	f.Fuzz(func(t *testing.T, spec, passwd, group string) {
		root := buildTree(t, "dir etc\n")
		for name, text := range map[string]string{"etc/passwd": passwd, "etc/group": group} {
			if err := root.Put(rootfs.Entry{Name: name, Mode: 0o644}, strings.NewReader(text)); err != nil {
				t.Fatal(err)
			}
		}
		if o, err := LookupOwner(root, spec); err == nil && (o.UID < 0 || o.GID < 0) {
			t.Fatalf("%q owns as %v", spec, o)
		}
		id, err := LookupUser(root, spec)
		if err == nil && (id.UID < 0 || id.GID < 0 || len(id.Groups) == 0 || id.Groups[0] != id.GID || id.Home == "") {
			t.Fatalf("%q runs as %+v", spec, id)
		}
	})
}
