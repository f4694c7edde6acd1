package step

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"github.com/kilnhook/kiln/executor/internal/plan"
	"github.com/kilnhook/kiln/executor/internal/rootfs"
)

// maxUserFile is how much of /etc/passwd and /etc/group is read, in bytes.
const maxUserFile = 10 << 20

// ErrUnknownUser is the kind of the errors about a user or group name that is
// not in the image's /etc/passwd or /etc/group.
var ErrUnknownUser = errors.New("unknown user or group")

// Identity is who a process runs as.
type Identity struct {
	UID, GID int
	Groups   []int  // all groups of the process, GID first
	Home     string // home directory of UID by /etc/passwd; "/" if it has none
}

// Owner is who owns a file.
type Owner struct{ UID, GID int }

// LookupUser finds who USER means, "user[:group]" by name or number, in the
// root's own /etc/passwd and /etc/group; "" is root. A number need not be in
// the files. Without a group it is the user's primary one, 0 for a number that
// is unknown, and the user's supplementary groups come with it; with a group
// there is only that one.
func LookupUser(root rootfs.FS, spec string) (Identity, error) {
	if err := plan.CheckOwner(spec); err != nil {
		return Identity{}, err
	}
	user, group, _ := strings.Cut(spec, ":")
	if user == "" {
		user = "0"
	}
	found, err := findUser(root, user)
	if err != nil {
		return Identity{}, err
	}
	id := Identity{UID: found.uid, GID: found.gid, Home: found.home}
	if group != "" {
		if id.GID, err = findGroup(root, group); err != nil {
			return Identity{}, err
		}
		id.Groups = []int{id.GID}
		return id, nil
	}
	id.Groups = []int{id.GID}
	if found.name == "" {
		return id, nil
	}
	extra, err := groupsOf(root, found.name)
	if err != nil {
		return Identity{}, err
	}
	for _, g := range extra {
		if !slices.Contains(id.Groups, g) {
			id.Groups = append(id.Groups, g)
		}
	}
	return id, nil
}

// LookupOwner finds who --chown=spec means. Unlike for LookupUser a number is
// never looked up, and stands for the group too if none is given; without a
// user it is 0.
func LookupOwner(root rootfs.FS, spec string) (Owner, error) {
	if err := plan.CheckOwner(spec); err != nil {
		return Owner{}, err
	}
	user, group, _ := strings.Cut(spec, ":")
	var o Owner
	switch n, ok := number(user); {
	case user == "", user == "root":
	case ok:
		o = Owner{n, n}
	default:
		found, err := findUser(root, user)
		if err != nil {
			return Owner{}, err
		}
		o = Owner{found.uid, found.gid}
	}
	if group == "" {
		return o, nil
	}
	if n, ok := number(group); ok {
		o.GID = n
		return o, nil
	}
	if group == "root" {
		o.GID = 0
		return o, nil
	}
	gid, err := findGroup(root, group)
	if err != nil {
		return Owner{}, err
	}
	o.GID = gid
	return o, nil
}

func number(s string) (int, bool) {
	n, err := strconv.ParseInt(s, 10, 32)
	return int(n), err == nil && n >= 0
}

// account is a line of /etc/passwd.
type account struct {
	name     string // "" if the user is a number that is not there
	uid, gid int
	home     string
}

// findUser finds a user by name or number. The first line that has either
// counts.
func findUser(root rootfs.FS, user string) (account, error) {
	wantUID, isNumber := number(user)
	var found *account
	err := eachLine(root, "etc/passwd", func(f []string) bool {
		if len(f) < 4 {
			return true
		}
		uid, uok := number(f[2])
		gid, gok := number(f[3])
		if !uok || !gok || f[0] != user && (!isNumber || uid != wantUID) {
			return true
		}
		found = &account{name: f[0], uid: uid, gid: gid}
		if len(f) > 5 {
			found.home = f[5]
		}
		return false
	})
	if err != nil {
		return account{}, err
	}
	switch {
	case found != nil:
	case isNumber:
		found = &account{uid: wantUID}
	case user == "root":
		found = &account{}
	default:
		return account{}, &plainError{fmt.Sprintf("user %q is not in /etc/passwd", user), ErrUnknownUser}
	}
	if found.home == "" {
		found.home = "/"
	}
	return *found, nil
}

// findGroup finds a group by name or number.
func findGroup(root rootfs.FS, group string) (int, error) {
	gid, known := number(group)
	err := eachLine(root, "etc/group", func(f []string) bool {
		if len(f) < 3 || f[0] != group {
			return true
		}
		n, ok := number(f[2])
		if ok {
			gid, known = n, true
		}
		return !ok
	})
	if err != nil {
		return 0, err
	}
	if !known && group == "root" {
		return 0, nil
	}
	if !known {
		return 0, &plainError{fmt.Sprintf("group %q is not in /etc/group", group), ErrUnknownUser}
	}
	return gid, nil
}

// groupsOf lists the groups that name a user as a member.
func groupsOf(root rootfs.FS, user string) ([]int, error) {
	var out []int
	err := eachLine(root, "etc/group", func(f []string) bool {
		if len(f) < 4 || !slices.Contains(strings.Split(f[3], ","), user) {
			return true
		}
		if n, ok := number(f[2]); ok {
			out = append(out, n)
		}
		return true
	})
	return out, err
}

// eachLine calls fn with the fields of every line of a file such as
// /etc/passwd until fn returns false. A file that is missing has no lines.
func eachLine(root rootfs.FS, file string, fn func(fields []string) bool) error {
	name, err := rootfs.Resolve(root, file)
	if err != nil {
		return fmt.Errorf("read the image's /%s: %w", file, err)
	}
	e, err := root.Lstat(name)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR) {
		return nil
	}
	if err == nil && !e.Mode.IsRegular() {
		err = errors.New("it is not a regular file")
	}
	if err == nil && e.Size > maxUserFile {
		err = fmt.Errorf("it has more than %d bytes", maxUserFile)
	}
	if err != nil {
		return fmt.Errorf("read the image's /%s: %w", file, err)
	}
	r, err := root.Open(name)
	if err != nil {
		return fmt.Errorf("read the image's /%s: %w", file, err)
	}
	defer r.Close() // read only
	lines := bufio.NewScanner(io.LimitReader(r, maxUserFile))
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		line := strings.TrimSpace(lines.Text())
		if line == "" || line[0] == '#' {
			continue
		}
		if !fn(strings.Split(line, ":")) {
			break
		}
	}
	if err := lines.Err(); err != nil {
		return fmt.Errorf("read the image's /%s: %w", file, err)
	}
	return nil
}
