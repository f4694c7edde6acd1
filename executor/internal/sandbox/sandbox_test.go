package sandbox

import (
	"bytes"
	"context"
	"debug/elf"
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/kilnhook/kiln/executor/internal/nstest"
)

func TestMain(m *testing.M) {
	if status, acted := Child(os.Args, os.Environ(), os.Stdout, os.Stderr); acted {
		os.Exit(status)
	}
	nstest.Main(m)
}

// machine is an overlay over this machine's own root: it has a shell, and
// nothing that is done in it reaches the machine.
func machine(t *testing.T) (root, upper string) {
	t.Helper()
	nstest.Need(t)
	dir := t.TempDir()
	for _, n := range []string{"u", "w", "m"} {
		if err := os.Mkdir(filepath.Join(dir, n), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	root, upper = filepath.Join(dir, "m"), filepath.Join(dir, "u")
	m := OverlayMount{Lower: []string{"/"}, Upper: upper, Work: filepath.Join(dir, "w")}
	if err := m.Mount(root, Namespace{}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = Unmount(root) })
	return root, upper
}

// sh runs a script in a root and returns what it printed.
func sh(t *testing.T, root, script string, set func(*Process)) (string, error) {
	t.Helper()
	var out bytes.Buffer
	p := Process{Args: []string{"sh", "-c", script}, Env: []string{"PATH=/usr/bin:/bin", "A=b c"}, Dir: "/", Stdout: &out, Stderr: &out}
	if set != nil {
		set(&p)
	}
	err := Namespace{FreshProc: true}.RunIn(t.Context(), root, map[string]string{"/etc/hosts": "etc/hosts"}, p)
	return strings.TrimSpace(out.String()), err
}

func TestRunIn(t *testing.T) {
	root, _ := machine(t)
	for _, c := range []struct {
		name, script, want string
		set                func(*Process)
	}{
		{"it is the init of its pid namespace", `echo $$; set -- /proc/[0-9]*; echo $#`, "1\n1", nil},
		{"it sees only its environment", `env | sort`, "A=b c\nPATH=/usr/bin:/bin\nPWD=/", nil},
		{"root has a container's capabilities and no more", `grep -E 'Cap(Eff|Bnd)' /proc/self/status`, "CapEff:\t00000000a80425fb\nCapBnd:\t00000000a80425fb", nil},
		{"a user has none, and the groups it was given", `id -u; id -G; grep CapEff /proc/self/status`, "1234\n5 6 7\nCapEff:\t0000000000000000",
			func(p *Process) { p.UID, p.GID, p.Groups = 1234, 5, []int{6, 7} }},
		{"root has no groups but its own", `id -G`, "0", nil},
		{"the directory and the mask", `pwd; umask`, "/usr/bin\n0022", func(p *Process) { p.Dir = "/usr/bin" }},
		{"devices", `echo x > /dev/null && head -c2 /dev/zero | wc -c && ls /dev | tr '\n' ' '`, "2\ncore fd full mqueue null ptmx pts random shm stderr stdin stdout tty urandom zero", nil},
		{"the host's name is BuildKit's and can be looked up", `hostname; tail -n1 /etc/hosts`, "buildkitsandbox\n127.0.0.1\tbuildkitsandbox", nil},
		{"the host's name that was asked for", `hostname; tail -n1 /etc/hosts`, "other\n127.0.0.1\tother", func(p *Process) { p.Hostname = "other" }},
		{"sys is read-only", `touch /sys/x 2>/dev/null || echo no`, "no", nil},
		{"proc/sys is read-only", `echo 1 2>/dev/null > /proc/sys/kernel/panic || echo no`, "no", nil},
		{"bound files are read-only", `echo x 2>/dev/null >> /etc/hosts || echo no`, "no", nil},
		{"nothing of the old root is mounted", `grep -c overlay /proc/self/mountinfo; grep ' /m ' /proc/self/mountinfo | wc -l`, "1\n0", nil},
		{"nothing but standard streams is open", `ls /proc/self/fd | tr '\n' ' '`, "0 1 2 3", nil},
		{"standard input is empty", `cat; echo end`, "end", nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := sh(t, root, c.script, c.set)
			if err != nil {
				t.Fatalf("%v: %s", err, got)
			}
			if got != c.want {
				t.Errorf("it printed %q, want %q", got, c.want)
			}
		})
	}
}

func TestExit(t *testing.T) {
	root, _ := machine(t)
	// A program for another processor is one whose header says so.
	program, err := os.ReadFile("/bin/true")
	if err != nil {
		t.Fatal(err)
	}
	arch, machine := "arm64", byte(elf.EM_AARCH64)
	if runtime.GOARCH == arch {
		arch, machine = "amd64", byte(elf.EM_X86_64)
	}
	program[18] = machine
	if err := os.WriteFile(filepath.Join(root, "foreign"), program, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name string
		args []string
		code int
		want string
	}{
		{"status", []string{"sh", "-c", "exit 42"}, 42, "exit status 42"},
		{"signal", []string{"sh", "-c", "sh -c 'kill -SEGV $$'; exit $?"}, 139, "139"},
		{"no such program", []string{"nonesuch"}, 127, "executable file not found"},
		{"not executable", []string{"/etc/passwd"}, 126, "permission denied"},
		{"foreign program", []string{"/foreign"}, 126, "it is a program for " + arch + " and this machine is " + runtime.GOARCH},
		{"no such file", []string{"/none/such"}, 127, "no such file"},
	} {
		_, err := sh(t, root, "", func(p *Process) { p.Args = c.args })
		var exit *ExitError
		if !errors.As(err, &exit) || exit.Code != c.code || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v", c.name, err)
		}
	}
}

// What a RUN leaves behind would write to the next layer.
func TestNothingSurvivesARun(t *testing.T) {
	root, upper := machine(t)
	if _, err := sh(t, root, `setsid sh -c 'sleep 1; echo late > /late' >/dev/null 2>&1 & sleep 0.1`, nil); err != nil {
		t.Fatal(err)
	}
	time.Sleep(1500 * time.Millisecond)
	if _, err := os.Stat(filepath.Join(upper, "late")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a process outlived its RUN: %v", err)
	}
}

func TestCancel(t *testing.T) {
	root, _ := machine(t)
	cause := errors.New("deadline of the build")
	ctx, cancel := context.WithTimeoutCause(t.Context(), 200*time.Millisecond, cause)
	defer cancel()
	begun := time.Now()
	err := Namespace{FreshProc: true}.RunIn(ctx, root, nil, Process{
		Args: []string{"sh", "-c", "trap '' TERM; sleep 60"}, Env: []string{"PATH=/usr/bin:/bin"}, Dir: "/"})
	if !errors.Is(err, cause) || time.Since(begun) > 10*time.Second {
		t.Errorf("after %v: %v", time.Since(begun), err)
	}
}

func TestProbe(t *testing.T) {
	nstest.Need(t)
	ns, err := Probe(t.Context(), t.TempDir())
	if err != nil || ns.User || !ns.hasFreshProc() {
		t.Errorf("root on a machine gets %+v, %v", ns, err)
	}
	_, err = Probe(t.Context(), "/proc")
	if !errors.Is(err, ErrNoOverlay) {
		t.Errorf("a work directory that cannot be written to gives %v", err)
	}
}

func TestParseMode(t *testing.T) {
	for _, s := range []string{"auto", "overlay", "inplace"} {
		if m, err := ParseMode(s); err != nil || string(m) != s {
			t.Errorf("%s: %v, %v", s, m, err)
		}
	}
	if _, err := ParseMode("docker"); err == nil {
		t.Error("docker is a mode")
	}
}

// No thread that others may come to run on is left in the namespace that was tried.
func TestProbeLeavesNoThread(t *testing.T) {
	nstest.Need(t)
	own, err := os.Readlink("/proc/thread-self/ns/mnt")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	var probes, group sync.WaitGroup
	for range 8 {
		probes.Go(func() {
			if _, err := Probe(t.Context(), dir); err != nil && !errors.Is(err, ErrNoOverlay) {
				t.Error(err)
			}
		})
	}
	probes.Wait()
	together := make(chan struct{})
	for range 64 { // as many threads, old ones and new ones
		group.Go(func() {
			runtime.LockOSThread()
			defer runtime.UnlockOSThread()
			<-together
			if got, err := os.Readlink("/proc/thread-self/ns/mnt"); err != nil || got != own {
				t.Errorf("a thread is in %s, not in %s: %v", got, own, err)
			}
		})
	}
	time.Sleep(10 * time.Millisecond)
	close(together)
	group.Wait()
	left, err := os.ReadDir(dir)
	if err != nil || len(left) > 0 {
		t.Errorf("left %v, %v", left, err)
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil || strings.Contains(string(mounts), dir) {
		t.Errorf("something is mounted in %s: %v", dir, err)
	}
}
