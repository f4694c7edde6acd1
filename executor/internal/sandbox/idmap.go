package sandbox

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"strconv"
	"strings"
	"syscall"
)

// maxIDs is how many ids a nested namespace gets. Images use no more.
const maxIDs = 1 << 16

// ownIDs maps the ids that this process' namespace has to themselves, up to
// 65536 of them.
func ownIDs(path string) ([]syscall.SysProcIDMap, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("read id map: %w", err)
	}
	defer f.Close()
	var out []syscall.SysProcIDMap
	for sc := bufio.NewScanner(f); sc.Scan(); {
		var inside, outside, n int64
		if _, err := fmt.Sscan(sc.Text(), &inside, &outside, &n); err != nil {
			return nil, fmt.Errorf("read id map %s: %w", path, err)
		}
		if inside >= maxIDs {
			continue
		}
		n = min(n, maxIDs-inside)
		out = append(out, syscall.SysProcIDMap{ContainerID: int(inside), HostID: int(inside), Size: int(n)})
	}
	return out, nil
}

// startMapped starts cmd in a user namespace whose ids newuidmap and newgidmap
// map: the user becomes root and the range of /etc/subuid the others. Without
// these programs, or without a range, only root is mapped.
func startMapped(ctx context.Context, cmd *exec.Cmd) (*exec.Cmd, error) {
	r, w, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer r.Close()
	defer w.Close()
	cmd.ExtraFiles = append(cmd.ExtraFiles, r)
	cmd.Args = append([]string{roleEnter, strconv.Itoa(2 + len(cmd.ExtraFiles))}, cmd.Args...)
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	if err := mapIDs(ctx, cmd.Process.Pid); err != nil {
		_ = cmd.Process.Kill()
		return nil, errors.Join(err, cmd.Wait())
	}
	if _, err := w.Write([]byte{0}); err != nil {
		_ = cmd.Process.Kill()
		return nil, errors.Join(err, cmd.Wait())
	}
	return cmd, nil
}

func mapIDs(ctx context.Context, pid int) error {
	me, err := user.Current()
	if err != nil {
		return fmt.Errorf("map ids: %w", err)
	}
	for _, m := range []struct{ tool, ranges, own, file string }{
		{"newuidmap", "/etc/subuid", strconv.Itoa(os.Getuid()), "uid_map"},
		{"newgidmap", "/etc/subgid", strconv.Itoa(os.Getgid()), "gid_map"},
	} {
		first, n := subIDs(m.ranges, me.Username, me.Uid)
		tool, lerr := exec.LookPath(m.tool)
		if lerr != nil || n == 0 {
			return fmt.Errorf("a build needs more ids than one user's: install %s (package uidmap) and give %s a range in %s",
				m.tool, me.Username, m.ranges)
		}
		out, err := exec.CommandContext(ctx, tool, strconv.Itoa(pid), "0", m.own, "1",
			"1", strconv.Itoa(first), strconv.Itoa(min(n, maxIDs-1))).CombinedOutput()
		if err != nil {
			return fmt.Errorf("%s: %w: %s", m.tool, err, strings.TrimSpace(string(out)))
		}
	}
	return nil
}

// subIDs returns the first range that the file gives the user, by name or by
// number.
func subIDs(path, name, uid string) (first, n int) {
	f, err := os.Open(path)
	if err != nil {
		return 0, 0
	}
	defer f.Close()
	for sc := bufio.NewScanner(f); sc.Scan(); {
		parts := strings.Split(strings.TrimSpace(sc.Text()), ":")
		if len(parts) != 3 || (parts[0] != name && parts[0] != uid) {
			continue
		}
		a, aerr := strconv.Atoi(parts[1])
		b, berr := strconv.Atoi(parts[2])
		if aerr == nil && berr == nil {
			return a, b
		}
	}
	return 0, 0
}
