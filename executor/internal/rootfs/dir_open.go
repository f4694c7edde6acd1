package rootfs

import (
	"errors"
	"strings"

	"golang.org/x/sys/unix"
)

// probeOpenat2 tells whether openat2(2) may be used: it came with Linux 5.6,
// and an old seccomp profile refuses it.
func probeOpenat2(root int) bool {
	fd, err := openInRoot(root, ".")
	if err != nil {
		return false
	}
	_ = unix.Close(fd)
	return true
}

func openInRoot(root int, name string) (int, error) {
	how := unix.OpenHow{
		Flags:   unix.O_PATH | unix.O_DIRECTORY | unix.O_CLOEXEC,
		Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS,
	}
	for {
		fd, err := unix.Openat2(root, name, &how)
		// EAGAIN: a rename raced with the look-up of "..".
		if !errors.Is(err, unix.EINTR) && !errors.Is(err, unix.EAGAIN) {
			return fd, err
		}
	}
}

// openDir opens the directory that name leads to, its links followed inside
// the root.
func (d *Dir) openDir(name string) (int, error) {
	if d.openat2 {
		return openInRoot(d.root, name)
	}
	return openStepwise(d.root, name)
}

// openStepwise is openInRoot for kernels without openat2: one component at a
// time, never following a link but reading it. The stack holds the
// descriptors of the directories from the root down, so ".." never asks the
// kernel.
func openStepwise(root int, name string) (int, error) {
	var stack []int
	closeAll := func() {
		for _, fd := range stack {
			_ = unix.Close(fd)
		}
	}
	top := func() int {
		if len(stack) == 0 {
			return root
		}
		return stack[len(stack)-1]
	}
	links := 0
	rest := name
	for rest != "" {
		var part string
		part, rest, _ = strings.Cut(strings.TrimLeft(rest, "/"), "/")
		switch part {
		case "", ".":
			continue
		case "..":
			if len(stack) > 0 {
				_ = unix.Close(top())
				stack = stack[:len(stack)-1]
			}
			continue
		}
		fd, err := unix.Openat(top(), part, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
		if err != nil {
			closeAll()
			return -1, err
		}
		var st unix.Stat_t
		if err := unix.Fstat(fd, &st); err != nil {
			_ = unix.Close(fd)
			closeAll()
			return -1, err
		}
		if st.Mode&unix.S_IFMT != unix.S_IFLNK {
			stack = append(stack, fd)
			continue
		}
		link, err := readlinkAt(fd, "", st.Size)
		_ = unix.Close(fd)
		if links++; err == nil && links > maxLinks {
			err = unix.ELOOP
		}
		if err != nil {
			closeAll()
			return -1, err
		}
		if strings.HasPrefix(link, "/") {
			closeAll()
			stack = nil
		}
		rest = link + "/" + rest
	}
	fd, err := unix.Openat(top(), ".", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	closeAll()
	return fd, err
}
