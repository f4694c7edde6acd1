package sandbox

import (
	"debug/elf"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path"
	"runtime"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// runChild becomes the process of a RUN. It says what went wrong before that
// on errorFD, which closes when the process starts.
func runChild() int {
	runtime.LockOSThread()
	said := os.NewFile(errorFD, "errors")
	unix.CloseOnExec(errorFD)
	s, err := readSpec()
	if err == nil {
		err = become(s)
	}
	kind := "1"
	var exit *ExitError
	if errors.As(err, &exit) {
		kind = fmt.Sprint(exit.Code)
		err = errors.New(strings.TrimSuffix(err.Error(), ": "+exit.Error()))
	}
	fmt.Fprintf(said, "%s\n%v", kind, err)
	return 1
}

func readSpec() (spec, error) {
	f := os.NewFile(specFD, "spec")
	defer f.Close()
	var s spec
	if err := json.NewDecoder(f).Decode(&s); err != nil {
		return s, fmt.Errorf("read what to run: %w", err)
	}
	return s, nil
}

// become sets up the namespace and turns this process into the one of s. It
// returns only with an error.
func become(s spec) error {
	if err := unix.Prctl(unix.PR_SET_PDEATHSIG, uintptr(unix.SIGKILL), 0, 0, 0); err != nil {
		return fmt.Errorf("set death signal: %w", err)
	}
	if s.NoNetwork {
		if err := loopback(); err != nil {
			return err
		}
	}
	if s.Root != "" {
		if err := enterRoot(s); err != nil {
			return err
		}
	}
	if err := os.Chdir(s.Dir); err != nil {
		return fmt.Errorf("enter working directory: %w", err)
	}
	syscall.Umask(0o022)
	exe, err := lookPath(s)
	if err != nil {
		return err
	}
	if err := dropPrivileges(s); err != nil {
		return err
	}
	if err := closeOnExec(); err != nil {
		return err
	}
	err = syscall.Exec(exe, s.Args, s.Env)
	code := 126
	if errors.Is(err, unix.ENOENT) {
		code = 127
		err = fmt.Errorf("%w (its interpreter or loader is missing)", err)
	}
	if errors.Is(err, unix.ENOEXEC) {
		if arch := foreignArch(exe); arch != "" {
			err = fmt.Errorf("%w: it is a program for %s and this machine is %s; build on a machine of that platform, or cross-compile in a stage FROM --platform=$BUILDPLATFORM", err, arch, runtime.GOARCH)
		}
	}
	return fmt.Errorf("exec %s: %w: %w", exe, err, &ExitError{Code: code})
}

// foreignArch is the processor that a program is for, as platforms name it, and ""
// if it is this machine's or not known.
func foreignArch(exe string) string {
	f, err := elf.Open(exe)
	if err != nil {
		return ""
	}
	defer f.Close()
	arch := map[elf.Machine]string{
		elf.EM_386: "386", elf.EM_X86_64: "amd64", elf.EM_ARM: "arm", elf.EM_AARCH64: "arm64", elf.EM_S390: "s390x",
		elf.EM_PPC64: "ppc64le", elf.EM_RISCV: "riscv64", elf.EM_LOONGARCH: "loong64", elf.EM_MIPS: "mips",
	}[f.Machine]
	if arch == runtime.GOARCH {
		return ""
	}
	return arch
}

// closeOnExec sees to it that the process inherits nothing but the standard
// streams, whatever this one inherited.
func closeOnExec() error {
	err := unix.CloseRange(3, ^uint(0), unix.CLOSE_RANGE_CLOEXEC)
	if err == nil {
		return nil
	}
	names, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return fmt.Errorf("close inherited files: %w", err)
	}
	for _, n := range names {
		if fd, err := strconv.Atoi(n.Name()); err == nil && fd > 2 {
			unix.CloseOnExec(fd)
		}
	}
	return nil
}

// dockerCapabilities are what a container has by default.
var dockerCapabilities = map[uintptr]bool{ //nolint:gochecknoglobals // a constant table
	unix.CAP_CHOWN: true, unix.CAP_DAC_OVERRIDE: true, unix.CAP_FSETID: true, unix.CAP_FOWNER: true,
	unix.CAP_MKNOD: true, unix.CAP_NET_RAW: true, unix.CAP_SETGID: true, unix.CAP_SETUID: true,
	unix.CAP_SETFCAP: true, unix.CAP_SETPCAP: true, unix.CAP_NET_BIND_SERVICE: true,
	unix.CAP_SYS_CHROOT: true, unix.CAP_KILL: true, unix.CAP_AUDIT_WRITE: true,
}

// dropPrivileges leaves the process with its ids and at most the capabilities
// that a container has by default.
func dropPrivileges(s spec) error {
	for c := uintptr(0); c <= unix.CAP_LAST_CAP; c++ {
		if dockerCapabilities[c] {
			continue
		}
		err := unix.Prctl(unix.PR_CAPBSET_DROP, c, 0, 0, 0)
		if err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.EPERM) {
			return fmt.Errorf("drop capability %d: %w", c, err)
		}
	}
	if err := setGroups(s.Groups); err != nil {
		return err
	}
	if err := syscall.Setresgid(s.GID, s.GID, s.GID); err != nil {
		return fmt.Errorf("set group id %d: %w", s.GID, err)
	}
	if err := syscall.Setresuid(s.UID, s.UID, s.UID); err != nil {
		return fmt.Errorf("set user id %d: %w", s.UID, err)
	}
	// Changing ids clears the death signal.
	return unix.Prctl(unix.PR_SET_PDEATHSIG, uintptr(unix.SIGKILL), 0, 0, 0)
}

func setGroups(groups []int) error {
	if groups == nil {
		groups = []int{}
	}
	err := syscall.Setgroups(groups)
	if errors.Is(err, unix.EPERM) && len(groups) == 0 {
		return nil
	}
	if err != nil {
		return fmt.Errorf("set supplementary groups: %w", err)
	}
	return nil
}

// lookPath finds the program as execvp would, with the PATH of the process.
func lookPath(s spec) (string, error) {
	name := s.Args[0]
	if strings.Contains(name, "/") {
		return name, nil
	}
	search := ""
	for _, kv := range s.Env {
		if v, ok := strings.CutPrefix(kv, "PATH="); ok {
			search = v
		}
	}
	denied := false
	for dir := range strings.SplitSeq(search, ":") {
		if dir == "" {
			dir = "."
		}
		full := path.Join(dir, name)
		if !strings.HasPrefix(full, "/") {
			full = "./" + full
		}
		fi, err := os.Stat(full)
		if err != nil || fi.IsDir() {
			continue
		}
		if fi.Mode()&0o111 == 0 {
			denied = true
			continue
		}
		return full, nil
	}
	if denied {
		return "", fmt.Errorf("exec %q: permission denied: %w", name, &ExitError{Code: 126})
	}
	return "", fmt.Errorf("exec %q: executable file not found in $PATH %q: %w", name, search, &ExitError{Code: 127})
}
