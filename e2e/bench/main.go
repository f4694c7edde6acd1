// Command bench measures whole builds: the workloads of docs/performance.md with
// the executor in both of its modes, with BuildKit and with Debian's buildah, in
// turn, against a registry on this machine. It prints medians and ratios and says
// which targets are met. It needs root, and what ".ci/setup bench" installs. Run
// it in the module's root.
//
// Everything happens in a directory of its own, in memory unless -store says
// otherwise, and in a mount namespace of its own: no mount outlives it, however it
// ends, and nothing at all if it is not killed.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/kilnhook/kiln/e2e/internal/process"
	"github.com/kilnhook/kiln/e2e/internal/tools"
)

// options are the flags.
type options struct {
	workload, builder *regexp.Regexp // nil for all
	pairs             int
	store             string
	sizes             sizes
	executor          string
	profiles          string
	json, markdown    string
	write             string
	dir               string
}

// chosen tells whether a row is wanted. Those of the memory limit are called memory/WORKLOAD.
func (o options) chosen(row string) bool { return o.workload == nil || o.workload.MatchString(row) }

// wanted are the workloads to measure: those that are chosen, and those which these are
// compared with.
func (o options) wanted(all []workload) []workload {
	beside := map[string]bool{}
	for _, w := range all {
		if w.beside != "" && o.chosen(w.name) {
			beside[w.beside] = true
		}
	}
	return slices.DeleteFunc(slices.Clone(all), func(w workload) bool { return !o.chosen(w.name) && !beside[w.name] })
}

// insideVariable names the directory to work in, for the process that has
// mounts of its own.
const insideVariable = "KILN_BENCH_DIR"

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	o, err := parse(os.Args[1:], os.Stderr)
	if errors.Is(err, flag.ErrHelp) {
		return
	}
	if err == nil {
		if dir := os.Getenv(insideVariable); dir != "" {
			err = bench(ctx, o, dir, os.Stdout, os.Stderr)
		} else {
			err = outside(ctx, o)
		}
	}
	if err != nil {
		var exit *exec.ExitError
		if !errors.As(err, &exit) {
			fmt.Fprintln(os.Stderr, "bench:", err)
		}
		os.Exit(1)
	}
}

func parse(args []string, out io.Writer) (o options, err error) {
	f := flag.NewFlagSet("bench", flag.ContinueOnError)
	f.SetOutput(out)
	size := f.String("size", "full", "full, or small to try the harness")
	f.IntVar(&o.pairs, "pairs", 5, "rounds: how often everybody builds a workload, but for peers that are far behind after the first")
	f.StringVar(&o.store, "store", "tmpfs", "where roots and stores are: tmpfs, ext4 (in memory) or disk")
	f.StringVar(&o.executor, "executor", "", "`file` of an executor to measure instead of this clone's")
	f.StringVar(&o.profiles, "profiles", "", "`directory` for CPU profiles of the executor, which then takes more time")
	f.StringVar(&o.json, "json", "", "write all samples to `file`")
	f.StringVar(&o.markdown, "markdown", "", "write the tables to `file`")
	f.StringVar(&o.write, "write", "", "put the tables of what was measured into `document`, between its marks; others stay")
	f.StringVar(&o.dir, "dir", os.TempDir(), "`directory` below which everything is made; on a disk")
	pattern := func(name, text string, to **regexp.Regexp) {
		f.Func(name, text, func(s string) (err error) {
			if s != "" {
				*to, err = regexp.Compile(s)
			}
			return err
		})
	}
	pattern("run", "`pattern` of the workloads to build; all without", &o.workload)
	pattern("builder", "`pattern` of the builders; all without", &o.builder)
	if err := f.Parse(args); err != nil {
		return o, err
	}
	switch {
	case f.NArg() > 0:
		return o, fmt.Errorf("%q is no flag", f.Arg(0))
	case !slices.Contains([]string{tmpfs, ext4, disk}, o.store):
		return o, fmt.Errorf("-store %q: want %s, %s or %s", o.store, tmpfs, ext4, disk)
	case o.pairs < 1:
		return o, fmt.Errorf("-pairs %d: want at least one", o.pairs)
	case *size != "full" && *size != "small":
		return o, fmt.Errorf("-size %q: want full or small", *size)
	case o.write != "" && (o.builder != nil || o.profiles != "" || *size != "full"):
		return o, errors.New("-write keeps figures to be quoted: not with -builder, -profiles or -size=small")
	}
	o.sizes = full()
	if *size == "small" {
		o.sizes = small()
	}
	for _, path := range []*string{&o.executor, &o.profiles} {
		if *path != "" {
			if *path, err = filepath.Abs(*path); err != nil {
				return o, err
			}
		}
	}
	return o, nil
}

// outside runs this program again with mounts of its own in a new directory, and
// removes the directory when it has ended.
func outside(ctx context.Context, o options) (err error) {
	if os.Geteuid() != 0 {
		return errors.New("builders need root: run this as root")
	}
	dir, err := os.MkdirTemp(o.dir, "kiln-bench-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	self, err := os.Executable()
	if err != nil {
		return err
	}
	// Interrupts reach it too, or are passed on; it ends in order.
	cmd := exec.CommandContext(ctx, self, os.Args[1:]...)
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.Env = append(os.Environ(), insideVariable+"="+dir)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS, Setpgid: true, Pdeathsig: syscall.SIGTERM}
	runtime.LockOSThread() // the signal at this process's death is one at its thread's
	return cmd.Run()
}

// bench measures and reports.
func bench(ctx context.Context, o options, dir string, out, log io.Writer) (err error) {
	module, err := tools.Root()
	if err != nil {
		return err
	}
	l, err := openLab(ctx, o, module, dir, log)
	if err != nil {
		if l != nil {
			err = errors.Join(err, l.close())
		}
		return err
	}
	defer func() { err = errors.Join(err, l.close()) }()
	f := figures{Machine: l.describe(ctx), Samples: results{}}
	all := workloads(o.sizes)
	for _, w := range all {
		f.order = append(f.order, w.name)
	}
	p := &pace{left: o.wanted(all), rounds: o.pairs, now: time.Now}
	if slices.ContainsFunc(f.order, func(name string) bool { return o.chosen(limitedRow + "/" + name) }) {
		p.then = ", then builds under the memory limit"
	}
	l.say("%s", p.plan())
	for _, w := range p.left {
		if f.Samples[w.name], err = l.compare(ctx, w, p); err != nil {
			return err
		}
		f.list = append(f.list, w)
		// Whatever becomes of the rest.
		if err := l.keep(&f); err != nil {
			return err
		}
	}
	if o.chosen(startRow) {
		s, err := l.start(ctx)
		if err != nil {
			return err
		}
		f.Start = &s
	}
	if err := l.keep(&f); err != nil {
		return err
	}
	f.Limited = map[string]map[string]sample{}
	limited := l.limited(ctx, all, f.Limited)
	return errors.Join(limited, l.keep(&f), f.text(out))
}

// keep writes what was measured so far to where it was asked for.
func (l *lab) keep(f *figures) error {
	f.Machine.Took = time.Since(l.began)
	f.judge()
	return f.save(l.options)
}

// describe says what is measured on what.
func (l *lab) describe(ctx context.Context) machine {
	command := func(args ...string) string {
		cmd := exec.CommandContext(ctx, args[0], args[1:]...)
		cmd.Dir = l.module
		out, err := process.Run(ctx, cmd, nil)
		if err != nil {
			return "unknown"
		}
		return strings.TrimSpace(string(out))
	}
	field := func(file, key string) string {
		raw, err := os.ReadFile(file)
		if err != nil {
			return "unknown"
		}
		for line := range strings.Lines(string(raw)) {
			if name, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(name) == key {
				return strings.TrimSpace(value)
			}
		}
		return "unknown"
	}
	var kilobytes float64
	if _, err := fmt.Sscan(field("/proc/meminfo", "MemTotal"), &kilobytes); err != nil {
		kilobytes = 0
	}
	load := "unknown"
	if raw, err := os.ReadFile("/proc/loadavg"); err == nil {
		load, _, _ = strings.Cut(string(raw), " ")
	}
	version := command("go", "list", "-C", "e2e/oracle", "-m", "-f", "{{.Version}}", "github.com/moby/buildkit")
	peers := []string{"BuildKit " + version}
	if l.using.buildah != "" {
		version, _, _ := strings.Cut(command(l.using.buildah, "--version"), "(")
		peers = append(peers, strings.TrimSpace(version))
	}
	return machine{
		When: l.began, CPU: field("/proc/cpuinfo", "model name"), Cores: runtime.NumCPU(), MemoryGB: kilobytes / (1 << 20),
		Kernel: command("uname", "-r"), Go: runtime.Version(), Commit: command("git", "describe", "--tags", "--always", "--dirty"),
		Store: l.options.store, Peers: peers, Load: load, Process: os.Getpid(),
	}
}
