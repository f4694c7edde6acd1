package ledger_test

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/kilnhook/kiln/infra/ledger"
)

// killedAt says at which step this test binary, as a child, is killed: its name,
// and the how many-th.
const killedAt = "KILN_TEST_LEDGER_KILLED_AT"

// A process that is killed at any step of a write, or while it begins the journal
// anew, leaves a store in which everything it was told was written is there, and
// the rest is or is not; for a process that has the store open already, and for
// one that opens it then.
func TestKilledAtEveryStep(t *testing.T) {
	if os.Getenv(killedAt) != "" {
		dieWriting(t)
		return
	}
	for _, step := range []ledger.Step{
		ledger.StepWritten, ledger.StepSynced, ledger.StepApplied, ledger.StepNoted, ledger.StepRotated, ledger.StepFlushed, ledger.StepTidied,
	} {
		for _, nth := range []int{1, 2, 7} {
			t.Run(fmt.Sprint(step, nth), func(t *testing.T) {
				t.Parallel()
				dir := t.TempDir()
				beside := open(t, dir)
				told := runUntilKilled(t, dir, step, nth)
				check := func(who string, d *ledger.Dir) {
					t.Helper()
					for key, want := range told {
						data, _, err := d.Get(t.Context(), key)
						// The write after the last that was told may have been made.
						if n, _ := strconv.Atoi(string(data)); err != nil || string(data) != want && strconv.Itoa(n-10) != want {
							t.Errorf("%s: %s is %q, %v; told %s", who, key, data, err, want)
						}
					}
				}
				check("a process beside it", beside)
				if _, err := beside.Create(t.Context(), "beside", nil); err != nil {
					t.Errorf("a process beside it: %v", err)
				}
				check("a process beside it, later", beside)
				after := open(t, dir)
				check("a process after it", after)
				if _, err := after.Create(t.Context(), "after", nil); err != nil {
					t.Errorf("a process after it: %v", err)
				}
				if _, _, err := beside.Get(t.Context(), "after"); err != nil {
					t.Errorf("one does not see what the other wrote: %v", err)
				}
			})
		}
	}
}

// dieWriting writes without an end in ten goroutines, says what was written, and
// is killed.
func dieWriting(t *testing.T) {
	name, number, _ := strings.Cut(os.Getenv(killedAt), " ")
	nth, err := strconv.Atoi(number)
	if err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	d, err := ledger.OpenDirWith(os.Getenv(childDir), ledger.DirOptions{JournalBytes: 4 << 10, Step: func(s ledger.Step) {
		mu.Lock()
		defer mu.Unlock()
		if string(s) != name {
			return
		}
		if nth--; nth == 0 {
			_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
			select {}
		}
	}})
	if err != nil {
		t.Fatal(err)
	}
	for i := range 10 {
		go func() {
			version := ""
			for n := i; ; n += 10 {
				key := fmt.Sprintf("dir%d/k", i)
				if version, err = d.Swap(t.Context(), key, version, []byte(strconv.Itoa(n))); err != nil {
					fmt.Println("error", err)
					return
				}
				fmt.Println("told", key, n)
			}
		}()
	}
	select {}
}

// runUntilKilled returns the last value of each key that the child said it wrote.
func runUntilKilled(t *testing.T, dir string, step ledger.Step, nth int) map[string]string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestKilledAtEveryStep$")
	cmd.Env = append(os.Environ(), childDir+"="+dir, killedAt+"="+string(step)+" "+strconv.Itoa(nth))
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	told := map[string]string{}
	lines := bufio.NewScanner(out)
	for lines.Scan() {
		switch f := strings.Fields(lines.Text()); f[0] {
		case "told":
			told[f[1]] = f[2]
		default:
			t.Errorf("child: %s", lines.Text())
		}
	}
	err = cmd.Wait()
	if exit, ok := errors.AsType[*exec.ExitError](err); !ok || exit.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
		t.Fatalf("the child ended with %v", err)
	}
	return told
}

// life is what happened to a store: after each change, how long the journal was
// and what values there were.
type life struct {
	dir     string
	lengths []int64
	states  []map[string]string
}

// live makes changes one by one.
func live(t *testing.T, changes int) life {
	t.Helper()
	l := life{dir: t.TempDir()}
	d := open(t, l.dir)
	rng := rand.New(rand.NewPCG(1, 2))
	state := map[string]string{}
	note := func() {
		// The journal is zeros behind its last record, which ends in a byte that
		// is none.
		data := readJournal(t, l.dir)
		l.lengths = append(l.lengths, int64(len(bytes.TrimRight(data, "\x00"))))
		l.states = append(l.states, maps.Clone(state))
	}
	note()
	for n := range changes {
		key := fmt.Sprintf("d%d/k%d", rng.IntN(3), rng.IntN(3))
		if _, ok := state[key]; ok && rng.IntN(3) == 0 {
			if err := d.Delete(t.Context(), key); err != nil {
				t.Fatal(err)
			}
			delete(state, key)
		} else {
			_, version, _ := d.Get(t.Context(), key)
			state[key] = strings.Repeat("v", rng.IntN(50)) + strconv.Itoa(n)
			if _, err := d.Swap(t.Context(), key, version, []byte(state[key])); err != nil {
				t.Fatal(err)
			}
		}
		note()
	}
	return l
}

func readJournal(t *testing.T, dir string) []byte {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, ".journal", "*.wal"))
	if err != nil || len(files) != 1 {
		t.Fatalf("journal %q, %v", files, err)
	}
	data, err := os.ReadFile(files[0])
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// What a power cut leaves: the journal up to any byte, and of the values
// anything, files that are empty or lack or that were deleted among it. When the
// store is opened again every change is there that the journal has as a whole, in
// their order, and no other.
func TestPowerCut(t *testing.T) {
	l := live(t, 25)
	journal := readJournal(t, l.dir)
	rng := rand.New(rand.NewPCG(3, 4))
	for cut := int64(0); cut <= l.lengths[len(l.lengths)-1]; cut += 1 + rng.Int64N(7) {
		dir := t.TempDir()
		if err := os.MkdirAll(filepath.Join(dir, ".journal"), 0o700); err != nil {
			t.Fatal(err)
		}
		left := slices.Concat(journal[:cut], make([]byte, rng.IntN(100)))
		if rng.IntN(2) == 0 && cut > 28 {
			left = append(left, "what lay on the disk before"...)
		}
		if cut < 28 {
			left = nil // it is used only once its header is on disk
		}
		if err := os.WriteFile(filepath.Join(dir, ".journal", "0000000000000001.wal"), left, 0o600); err != nil {
			t.Fatal(err)
		}
		want := map[string]string{}
		for i, length := range l.lengths {
			if i > 0 && length <= cut {
				want = l.states[i]
			}
		}
		scramble(t, dir, want, l, cut, rng)
		d := open(t, dir)
		keys, err := d.List(t.Context(), "", "", 0)
		if err != nil {
			t.Fatal(err)
		}
		got := map[string]string{}
		for _, key := range keys {
			data, _, err := d.Get(t.Context(), key)
			if err != nil {
				t.Fatal(err)
			}
			got[key] = string(data)
		}
		if !maps.Equal(got, want) {
			t.Fatalf("cut at byte %d:\n%v\nwant\n%v", cut, got, want)
		}
		if _, err := d.Create(t.Context(), "more", nil); err != nil {
			t.Errorf("cut at byte %d: %v", cut, err)
		}
		d.Close()
	}
}

// scramble makes files of a tree as a filesystem may leave them: of every change
// that the journal has, the file may be as it was before any of it or after.
func scramble(t *testing.T, dir string, want map[string]string, l life, cut int64, rng *rand.Rand) {
	t.Helper()
	touched := map[string]bool{}
	for i, length := range l.lengths {
		if i > 0 && length <= cut {
			for key := range l.states[i] {
				touched[key] = true
			}
		}
	}
	for key := range touched {
		value := want[key]
		switch rng.IntN(4) {
		case 0:
			continue
		case 1:
			value = ""
		case 2:
			value = "older"
		}
		name := filepath.Join(dir, key)
		err := os.MkdirAll(filepath.Dir(name), 0o700)
		if err := errors.Join(err, os.WriteFile(name, []byte(value), 0o600)); err != nil {
			t.Fatal(err)
		}
	}
}

// A journal that is damaged where it was whole is not taken for one that a crash
// cut off; and a file of it that should have been removed is not repeated.
func TestDamagedJournal(t *testing.T) {
	dir, kept := t.TempDir(), t.TempDir()
	rotated := 0
	d, err := ledger.OpenDirWith(dir, ledger.DirOptions{JournalBytes: 1 << 10, Step: func(s ledger.Step) {
		if s != ledger.StepRotated {
			return
		}
		if rotated++; rotated == 1 { // both files are there
			if err := os.CopyFS(kept, os.DirFS(dir)); err != nil {
				t.Error(err)
			}
		}
	}})
	if err != nil {
		t.Fatal(err)
	}
	version := ""
	for n := 0; rotated < 2; n++ {
		if version, err = d.Swap(t.Context(), "k", version, []byte(strings.Repeat("x", 300)+strconv.Itoa(n))); err != nil {
			t.Fatal(err)
		}
	}
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	first := filepath.Join(".journal", "0000000000000001.wal")
	data, err := os.ReadFile(filepath.Join(kept, first))
	if err != nil {
		t.Fatal(err)
	}
	whole := t.TempDir()
	if err := os.CopyFS(whole, os.DirFS(kept)); err != nil {
		t.Fatal(err)
	}
	open(t, whole)
	// Its removal was lost; that of the second was not.
	want, _, err := open(t, dir).Get(t.Context(), "k")
	if err != nil {
		t.Fatal(err)
	}
	again := t.TempDir()
	if err := errors.Join(os.CopyFS(again, os.DirFS(dir)), os.WriteFile(filepath.Join(again, first), data, 0o600)); err != nil {
		t.Fatal(err)
	}
	if got, _, err := open(t, again).Get(t.Context(), "k"); err != nil || !bytes.Equal(got, want) {
		t.Errorf("a value that was replaced came back: %.10q, %v", got, err)
	}

	data[100] ^= 1
	if err := os.WriteFile(filepath.Join(kept, first), data, 0o600); err != nil {
		t.Fatal(err)
	}
	if d, err := ledger.OpenDir(kept); err == nil {
		d.Close()
		t.Error("a damaged journal was opened")
	} else if !strings.Contains(err.Error(), "0000000000000001.wal is damaged at byte") {
		t.Error(err)
	}
}
