package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/kilnhook/kiln/e2e/internal/process"
)

// Where roots and stores of builders may be.
const (
	tmpfs = "tmpfs"
	// ext4 is a file system as machines have them, in a file in memory, without
	// the noise of a disk. What is on a tmpfs behaves otherwise: its pages cannot be
	// taken back, and a store through a mapping does not change its ctime.
	ext4 = "ext4"
	disk = "disk"
)

// ext4Size is how much may be on it at once, in bytes. The file has holes.
const ext4Size = 24 << 30

// stores are the directories that builders keep their files in.
type stores struct {
	dir  string
	made map[string]string
}

// in returns the directory of a store, which it makes on the first call. The mounts end
// with the namespace of this process.
func (s *stores) in(ctx context.Context, store string) (string, error) {
	if dir, ok := s.made[store]; ok {
		return dir, nil
	}
	dir := filepath.Join(s.dir, store)
	if err := os.Mkdir(dir, 0o755); err != nil {
		return "", err
	}
	switch store {
	case tmpfs:
		if err := mountMemory(dir); err != nil {
			return "", err
		}
	case ext4:
		if err := mountExt4(ctx, dir); err != nil {
			return "", err
		}
	}
	s.made[store] = dir
	return dir, nil
}

// mountMemory mounts a tmpfs.
func mountMemory(dir string) error {
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=75%,nr_inodes=8m,mode=755"); err != nil {
		return fmt.Errorf("mount a tmpfs: %w", err)
	}
	return nil
}

// mountExt4 mounts an ext4 that lies in a file on a tmpfs. What is removed from
// it is given back.
func mountExt4(ctx context.Context, dir string) error {
	behind := dir + "-file"
	if err := os.Mkdir(behind, 0o755); err != nil {
		return err
	}
	if err := mountMemory(behind); err != nil {
		return err
	}
	file := filepath.Join(behind, "ext4")
	f, err := os.Create(file)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := f.Truncate(ext4Size); err != nil {
		return err
	}
	for _, args := range [][]string{{"mkfs.ext4", "-q", "-F", file}, {"mount", "-o", "loop,discard", file, dir}} {
		cmd := exec.CommandContext(ctx, args[0], args[1:]...)
		cmd.Env = []string{"PATH=" + os.Getenv("PATH") + ":/usr/sbin:/sbin"}
		if path, err := exec.LookPath("/usr/sbin/" + args[0]); err == nil {
			cmd.Path, cmd.Err = path, nil
		}
		if _, err := process.Run(ctx, cmd, nil); err != nil {
			return fmt.Errorf("make an ext4 in memory: %w", err)
		}
	}
	return nil
}
