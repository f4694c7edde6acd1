package main

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"

	"github.com/kilnhook/kiln/executor/internal/access"
	"github.com/kilnhook/kiln/executor/internal/build"
	"github.com/kilnhook/kiln/executor/internal/sandbox"
	"github.com/kilnhook/kiln/executor/internal/workspace"
	"github.com/kilnhook/kiln/executor/view"
)

// isolation is how this process builds.
type isolation struct {
	mode sandbox.Mode
	ns   sandbox.Namespace
	why  string // overlay could not be had
}

// enteredError says that another process did the work and what its exit status is.
type enteredError struct{ status int }

func (e enteredError) Error() string { return fmt.Sprintf("ended with status %d", e.status) }

// isolate decides how to build. For Overlay mode it starts the program again
// inside a namespace; in the process outside, it returns enteredError in the end.
func isolate(ctx context.Context, c *config, p process, workDir string) (isolation, error) {
	mode, err := sandbox.ParseMode(c.isolation)
	if err != nil {
		return isolation{}, err
	}
	if ns, inside := sandbox.Inside(p.lookup); inside {
		return isolation{mode: sandbox.Overlay, ns: ns}, sandbox.Undumpable()
	}
	why := ""
	if mode != sandbox.InPlace {
		ns, err := sandbox.Probe(ctx, workDir)
		if err == nil {
			args := append(append([]string{}, p.args...), "--work-dir="+workDir)
			status, err := sandbox.Enter(ctx, ns, args, p.env, [3]*os.File{p.stdin, p.stdout, p.stderr})
			if err != nil {
				return isolation{}, err
			}
			if columns, _ := c.viewOptions(p).Size(); status > 128 && columns > 0 {
				fmt.Fprint(p.stderr, view.ShowCursor) // a killed process does not
			}
			return isolation{}, enteredError{status}
		}
		if mode == sandbox.Overlay || !errors.Is(err, sandbox.ErrNoOverlay) {
			return isolation{}, err
		}
		why = err.Error()
	}
	if c.preserveContext {
		return isolation{}, errors.New("--preserve-context: building in place would replace the container's files" + because(why))
	}
	if !c.force && !inContainer(p.lookup) {
		return isolation{}, inPlaceRefused(why)
	}
	// The files of the certificate authorities may be gone when the first
	// registry is asked: Go reads them once, and that is now.
	if _, err := x509.SystemCertPool(); err != nil {
		return isolation{}, fmt.Errorf("read certificate authorities: %w", err)
	}
	return isolation{mode: sandbox.InPlace, why: why}, sandbox.Undumpable()
}

func because(why string) string {
	if why == "" {
		return ""
	}
	return " (" + why + ")"
}

func inPlaceRefused(why string) error {
	err := errors.New("building in place should only be done inside of a container: it replaces the files of its root; " +
		"run with the --force flag if you are sure you want to continue")
	return fmt.Errorf("%w%s", err, because(why))
}

// inContainer tells whether this looks like a container, by the marks that
// container runtimes leave.
func inContainer(lookup func(string) (string, bool)) bool {
	for _, name := range []string{"/.dockerenv", "/run/.containerenv", "/var/run/secrets/kubernetes.io/serviceaccount", "/__runsc_containers__"} {
		if _, err := os.Stat(name); err == nil {
			return true
		}
	}
	if v, ok := lookup("container"); ok && v != "" {
		return true
	}
	if v, ok := lookup("KUBERNETES_SERVICE_HOST"); ok && v != "" {
		return true
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return false
	}
	for line := range strings.SplitSeq(string(mounts), "\n") {
		f := strings.Fields(line)
		if i := strings.Index(line, " - "); len(f) > 4 && f[4] == "/" && i > 0 {
			return strings.HasPrefix(line[i+3:], "overlay ")
		}
	}
	return false
}

// newWorkDir makes the directory that holds everything a build keeps on disk:
// below --work-dir, or /kaniko where there is one, or the first place that is
// likely to be a disk.
func newWorkDir(c *config, lookup func(string) (string, bool)) (string, error) {
	if c.workDir != "" {
		if err := os.MkdirAll(c.workDir, 0o755); err != nil {
			return "", fmt.Errorf("make work directory: %w", err)
		}
		abs, err := filepath.Abs(c.workDir)
		if err != nil {
			return "", fmt.Errorf("make work directory: %w", err)
		}
		return os.MkdirTemp(abs, "build-*")
	}
	if c.registry.KanikoDir != access.DefaultKanikoDir {
		if err := os.MkdirAll(c.registry.KanikoDir, 0o755); err != nil {
			return "", fmt.Errorf("make the directory of --kaniko-dir: %w", err)
		}
	}
	places := []string{c.registry.KanikoDir, "/var/tmp", os.TempDir()}
	if dir, ok := lookup("TMPDIR"); ok && dir != "" {
		places = append([]string{c.registry.KanikoDir, dir}, places[1:]...)
	}
	var errs []error
	for i, place := range places {
		if i == 0 {
			if _, err := os.Stat(place); err != nil {
				continue
			}
		}
		dir, err := os.MkdirTemp(place, "kiln-build-*")
		if err == nil {
			return dir, nil
		}
		errs = append(errs, err)
	}
	return "", fmt.Errorf("make work directory (choose one with --work-dir): %w", errors.Join(errs...))
}

// maxStages is how many stages are built at once at most.
const maxStages = 4

// stageMemory is the memory for each stage that is built at the same time as
// others: that of a process of a RUN, for most of it.
const stageMemory = 512 << 20

// parallelStages is how many stages may be built at once with this much memory,
// if there is a limit: in place there is one root only.
func parallelStages(iso isolation, memory int64) int {
	if iso.mode != sandbox.Overlay {
		return 1
	}
	n := min(max(runtime.NumCPU(), 2), maxStages) // a stage often waits for others
	if memory > 0 {
		n = min(n, max(int(memory/stageMemory), 1))
	}
	return n
}

// workspaceFor is a workspace and how it is given up.
type workspaceFor struct {
	build.Workspace
	close func() error
	// cleanup empties the container once the image is where it should be;
	// nil if there is nothing to do.
	cleanup func() error
}

// newWorkspace makes the workspace of an isolation mode. What is at the paths in
// own is not the build's.
func newWorkspace(c *config, iso isolation, dir string, own []string, r workspace.Report) (ws workspaceFor, err error) {
	if iso.mode == sandbox.Overlay {
		if c.materialize {
			return ws, errors.New("--materialize needs --isolation=inplace: with overlay the container's root is not touched")
		}
		o, err := workspace.NewOverlay(dir, iso.ns, r)
		if err != nil {
			return ws, err
		}
		return workspaceFor{Workspace: o, close: o.Close}, nil
	}
	leave := slices.Concat([]string{c.registry.KanikoDir}, own, c.ignored())
	for _, out := range []string{c.tarPath, c.layoutPath} {
		if abs, err := filepath.Abs(out); err == nil && out != "" {
			leave = append(leave, abs)
		}
	}
	if exe, err := os.Executable(); err == nil {
		leave = append(leave, exe)
		if filepath.Dir(exe) == access.DefaultKanikoDir { // whatever --kaniko-dir says
			leave = append(leave, access.DefaultKanikoDir)
		}
	}
	w, err := workspace.NewInPlace("/", dir, leave, r)
	if err != nil {
		return ws, err
	}
	ws = workspaceFor{Workspace: w, close: func() error { return nil }}
	if c.cleanup {
		ws.cleanup = w.Clear
	}
	if c.preCleanup {
		if err := w.Clear(); err != nil {
			return ws, err
		}
	}
	return ws, nil
}
