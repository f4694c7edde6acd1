package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/kilnhook/kiln/e2e/internal/baseimage"
	"github.com/kilnhook/kiln/e2e/need"
)

// TestHarness measures a tiny workload in two rounds and proves that the
// figures are there, that nobody took another's, and that nothing is left behind.
func TestHarness(t *testing.T) {
	need.Root(t)
	for _, program := range []string{"runc", "buildah", "docker-registry", "busybox", "mkfs.ext4"} {
		t.Setenv("PATH", os.Getenv("PATH")+":/usr/sbin")
		need.Command(t, program)
	}
	dir := t.TempDir()
	need.Overlays(t, dir)
	program, result := filepath.Join(dir, "bench"), filepath.Join(dir, "result.json")
	if out, err := exec.CommandContext(t.Context(), "go", "build", "-o", program, ".").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	cmd := exec.CommandContext(t.Context(), program, "-size=small", "-pairs=2", "-run=^(copy-again|twig|start)$", "-json", result, "-dir", dir)
	cmd.Dir = "../.."
	out, err := cmd.CombinedOutput()
	if strings.Contains(string(out), "control groups for memory") {
		need.Missing(t, "control groups that may be made")
	}
	if err != nil {
		t.Fatalf("%v:\n%s", err, out)
	}
	t.Logf("%s", out)
	raw, err := os.ReadFile(result)
	if err != nil {
		t.Fatal(err)
	}
	var f figures
	if err := json.Unmarshal(raw, &f); err != nil {
		t.Fatal(err)
	}
	rounds := map[string]int{}
	for _, who := range []string{overlay, inPlace, buildKit, buildah} {
		samples := f.Samples["copy-again"][who]
		rounds[who] = len(samples)
		for _, s := range samples {
			if s.Failure != "" || s.Wall <= 0 || s.CPU <= time.Millisecond || s.RSS < 1<<20 || s.Memory < 1<<20 || s.Requests == 0 {
				t.Errorf("%s: %+v", who, s)
			} else if s.Layers != 7 {
				// Busybox and gen, four of the base, one of the COPY.
				t.Errorf("the image of %s has %d layers, want 7", who, s.Layers)
			}
		}
	}
	// One peer may be behind the other after the first round.
	if rounds[overlay] != 2 || rounds[inPlace] != 2 || max(rounds[buildKit], rounds[buildah]) != 2 || min(rounds[buildKit], rounds[buildah]) < 1 {
		t.Errorf("rounds: %v", rounds)
	}
	if s := f.Samples["twig"][inPlace]; len(s) != 2 || s[0].PerRun <= 0 {
		t.Errorf("RUNs are not told apart: %+v", s)
	}
	if f.Start == nil || f.Start.CPU <= 0 || f.Start.RSS < 1<<20 {
		t.Errorf("start: %+v", f.Start)
	}
	// The groups are named for the process that measured, a child of the one started.
	for _, pattern := range []string{filepath.Join(dir, "kiln-bench-*"), fmt.Sprintf("/sys/fs/cgroup/*/kiln-bench-%d-*", f.Machine.Process)} {
		if left, err := filepath.Glob(pattern); err != nil || len(left) > 0 {
			t.Errorf("left behind: %v, %v", left, err)
		}
	}
}

func TestParse(t *testing.T) {
	for line, want := range map[string]string{
		"-pairs 0": "at least one", "-store nfs": "want tmpfs, ext4 or disk", "-size big": "full or small", "copy": "no flag", "-run (": "missing closing )",
		"-write x -builder Kiln": "-write keeps", "-write x -size small": "-write keeps", "-write x -profiles p": "-write keeps",
	} {
		if _, err := parse(strings.Fields(line), io.Discard); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", line, err, want)
		}
	}
	o, err := parse([]string{"-run", "", "-builder", "Kiln", "-size", "small"}, io.Discard)
	if err != nil || o.workload != nil || !o.builder.MatchString(overlay) || o.pairs != 5 || o.sizes.name != "small" {
		t.Errorf("%+v, %v", o, err)
	}
}

// TestTargets proves how samples become verdicts: by the ratios of rounds, against the
// peer that was better, and never met where something failed.
func TestTargets(t *testing.T) {
	seconds := func(values ...float64) []sample {
		var samples []sample
		for _, v := range values {
			samples = append(samples, sample{CPU: time.Duration(v * float64(time.Second)), Wall: time.Duration(v * float64(time.Second))})
		}
		return samples
	}
	w := workload{name: "w", target: []target{ratio("CPU", 0.5, cpu, both), most("wall", 1.5, wall, inPlace, plain)}}
	r := results{"w": {
		overlay: seconds(1, 10, 2), inPlace: seconds(3, 3, 3), buildKit: seconds(4, 20, 4), buildah: seconds(9, 9, 9),
	}}
	got := r.judge(w)
	if len(got) != 3 {
		t.Fatalf("%+v", got)
	}
	for i, want := range []verdict{
		{"w", overlay, "CPU ≤ 0.5× the better peer's", "0.50× BuildKit", 0.5, true},
		{"w", inPlace, "CPU ≤ 0.5× the better peer's", "0.75× BuildKit", 0.75, false},
		{"w", inPlace, "wall ≤ 1.5", "3.0", 3, false},
	} {
		if got[i] != want {
			t.Errorf("got %+v, want %+v", got[i], want)
		}
	}
	r["w"][overlay][1].Failure = "no"
	if v := r.judge(w)[0]; v.Met || v.Measured != "not measured" {
		t.Errorf("a failed build: %+v", v)
	}
	delete(r["w"], buildKit)
	delete(r["w"], buildah)
	if v := r.judge(w)[1]; v.Met || !math.IsNaN(r.median("w", buildKit, cpu)) {
		t.Errorf("without a peer: %+v", v)
	}
}

// TestRelay proves that a new connection costs two round trips and an open one a
// single one, and that all bytes arrive.
func TestRelay(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	go func() {
		for {
			c, err := listener.Accept()
			if err != nil {
				return
			}
			go func() { defer c.Close(); _, _ = io.Copy(c, c) }()
		}
	}()
	const rtt = 100 * time.Millisecond
	r, err := newRelay(listener.Addr().String(), rtt)
	if err != nil {
		t.Fatal(err)
	}
	c, err := net.Dial("tcp", r.host)
	if err != nil {
		t.Fatal(err)
	}
	for i, want := range []time.Duration{2 * rtt, rtt} {
		began := time.Now()
		if _, err := c.Write([]byte("hello")); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(c, make([]byte, 5)); err != nil {
			t.Fatal(err)
		}
		// A busy machine takes longer, never shorter.
		if took := time.Since(began); took < want-5*time.Millisecond {
			t.Errorf("message %d came back after %v, want %v", i, took, want)
		}
	}
	if err := errors.Join(c.Close(), r.close()); err != nil {
		t.Error(err)
	}
}

// TestDepot proves that traffic is counted, and that what was pushed to a repository
// goes with it but for what was settled.
func TestDepot(t *testing.T) {
	need.Command(t, "docker-registry")
	d, err := newDepot(t.Context(), t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer d.close()
	push := func(to, content string) {
		t.Helper()
		img, err := mutate.AppendLayers(empty.Image, static.NewLayer([]byte(strings.Repeat(content, 100)), types.OCIUncompressedLayer))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := baseimage.Push(t.Context(), img, d.host+"/"+to); err != nil {
			t.Fatal(err)
		}
	}
	before := d.traffic()
	push("bases/a:latest", "base")
	if got := d.traffic().since(before); got.Requests < 4 || got.Sent < 100 {
		t.Errorf("traffic of a push: %+v", got)
	}
	if err := d.settle(); err != nil {
		t.Fatal(err)
	}
	if err := d.share("bases/a", "run/app"); err != nil {
		t.Fatal(err)
	}
	push("run/app:latest", "new")
	if n, err := countLayers(t.Context(), d.host+"/run/app:latest"); err != nil || n != 1 {
		t.Errorf("%d layers, %v", n, err)
	}
	blobs, err := d.blobs()
	if err != nil || len(blobs) != 6 {
		t.Errorf("%d blobs, %v, want layer, config and manifest of two images", len(blobs), err)
	}
	if err := d.clear("run"); err != nil {
		t.Fatal(err)
	}
	if blobs, err = d.blobs(); err != nil || len(blobs) != 3 {
		t.Errorf("%d blobs are left, %v, want those that were settled", len(blobs), err)
	}
	if _, err := countLayers(t.Context(), d.host+"/run/app:latest"); err == nil {
		t.Error("the image is still there")
	}
	if n, err := countLayers(t.Context(), d.host+"/bases/a:latest"); err != nil || n != 1 {
		t.Errorf("base: %d layers, %v", n, err)
	}
}
