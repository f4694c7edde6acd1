package load

import (
	"bufio"
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/kilnhook/kiln/e2e/internal/cache"
	"github.com/kilnhook/kiln/e2e/internal/tools"
	"github.com/kilnhook/kiln/events"
	"github.com/kilnhook/kiln/functions/record"
)

// Variables of the environment: what makes the test binary the server under
// load, and what makes the test as long as its promise.
const (
	serverVariable = "KILN_LOAD_SERVER" // directory of the server
	fullVariable   = "KILN_LOAD"        // "full": a minute at each rate
)

func TestMain(m *testing.M) {
	if dir := os.Getenv(serverVariable); dir != "" {
		if err := serve(dir); err != nil {
			fmt.Fprintln(os.Stderr, "server:", err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

const secret = "0123456789abcdef"

// hook is a signed webhook of a push that makes branch n.
func hook(n int) (body []byte, signature string) {
	body = fmt.Appendf(nil, `{"ref":"refs/heads/b%d","before":"%040d","after":"%040x","created":true,"repository":{"full_name":"acme/shop","clone_url":"https://github.com/acme/shop.git","pushed_at":1795400005}}`, n, 0, n+1)
	mac := hmac.New(sha256.New, []byte(secret))
	mac.Write(body)
	return body, "sha256=" + hex.EncodeToString(mac.Sum(nil))
}

// maxMemory is what the server may have when more comes than it can take.
const maxMemory = 256 << 20

// loadAverage is how many processes want this machine's processors.
func loadAverage() string {
	data, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return "unknown"
	}
	first, _, _ := strings.Cut(string(data), " ")
	return first
}

// figures are what a run came to.
type figures struct {
	Latencies struct {
		Mean, Max time.Duration
		P50       time.Duration `json:"50th"`
		P95       time.Duration `json:"95th"`
		P99       time.Duration `json:"99th"`
	}
	Requests    int
	Rate        float64
	Success     float64
	StatusCodes map[string]int `json:"status_codes"`
	Errors      []string
	codes       []int // the status of each request
}

// server is the process under load.
type server struct {
	url string
	pid int
	dir string
}

func start(t *testing.T) *server {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	s := &server{dir: t.TempDir()}
	cmd := exec.Command(exe)
	cmd.Env = append(os.Environ(), serverVariable+"="+s.dir)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		in.Close() // which ends it
		if err := cmd.Wait(); err != nil {
			t.Errorf("server: %v", err)
		}
	})
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	s.url, s.pid = strings.TrimSpace(line), cmd.Process.Pid
	return s
}

// memory is the resident memory of the server without files, in bytes.
func (s *server) memory(t *testing.T) int64 {
	t.Helper()
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", s.pid))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(data)) {
		if f := strings.Fields(line); len(f) == 3 && f[0] == "RssAnon:" {
			kb, err := strconv.ParseInt(f[1], 10, 64)
			if err != nil {
				t.Fatal(err)
			}
			return kb << 10
		}
	}
	t.Fatal("no RssAnon")
	return 0
}

// attack sends webhooks first…first+n-1, each twice, at a rate, and returns the
// figures and the memory half-way and at the end.
func (s *server) attack(t *testing.T, vegeta string, rate, first, n int) (f figures, half, end int64) {
	t.Helper()
	var targets bytes.Buffer
	enc := json.NewEncoder(&targets)
	for i := range 2 * n {
		// Repetitions come soon after the first, some at the same time.
		body, signature := hook(first + i/2)
		err := enc.Encode(map[string]any{"method": "POST", "url": s.url + "/hooks/github", "body": body, "header": map[string][]string{
			"Content-Type": {"application/json"}, "X-GitHub-Event": {"push"}, "X-Hub-Signature-256": {signature},
		}})
		if err != nil {
			t.Fatal(err)
		}
	}
	length := time.Duration(2*n) * time.Second / time.Duration(rate)
	ctx, cancel := context.WithTimeout(t.Context(), length+2*time.Minute)
	defer cancel()
	result := filepath.Join(t.TempDir(), "result.bin")
	attack := exec.CommandContext(ctx, vegeta, "attack", "-format=json", "-rate="+strconv.Itoa(rate), "-duration="+length.String(), "-lazy", "-output="+result, "-timeout=30s")
	attack.Stdin, attack.Stderr = &targets, os.Stderr
	if err := attack.Start(); err != nil {
		t.Fatal(err)
	}
	timer := time.AfterFunc(length/2, func() { half = s.memory(t) })
	defer timer.Stop()
	if err := attack.Wait(); err != nil {
		t.Fatalf("vegeta: %v", err)
	}
	end = s.memory(t)
	out, err := exec.CommandContext(ctx, vegeta, "report", "-type=json", result).Output()
	if err != nil {
		t.Fatalf("vegeta: %v", err)
	}
	if err := json.Unmarshal(out, &f); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	out, err = exec.CommandContext(ctx, vegeta, "encode", "-to=json", result).Output()
	if err != nil {
		t.Fatalf("vegeta: %v", err)
	}
	f.codes = make([]int, f.Requests)
	for line := range bytes.Lines(out) {
		var r struct{ Seq, Code int }
		if err := json.Unmarshal(line, &r); err != nil || r.Seq >= len(f.codes) {
			t.Fatalf("%v: %s", err, line)
		}
		f.codes[r.Seq] = r.Code
	}
	return f, half, end
}

// settled waits until every build has its outcome, and reports what is not as
// it should be: each webhook one build with one outcome, told once.
func (s *server) settled(t *testing.T, accepted map[int]bool) {
	t.Helper()
	n := len(accepted)
	for deadline := time.Now().Add(2 * time.Minute); ; time.Sleep(200 * time.Millisecond) {
		open, err := filepath.Glob(filepath.Join(s.dir, "ledger", "open", "*", "*.json"))
		if err != nil {
			t.Fatal(err)
		}
		if len(open) == 0 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("%d builds have no outcome", len(open))
		}
	}
	for kind, pattern := range map[string]string{
		"requests": "builds/*/request.json", "outcomes": "builds/*/result.json", "told": "builds/*/emitted.json", "registers": "refs/*/*.json",
	} {
		files, err := filepath.Glob(filepath.Join(s.dir, "ledger", pattern))
		if err != nil {
			t.Fatal(err)
		}
		if len(files) != n {
			t.Errorf("%d %s of %d webhooks", len(files), kind, n)
		}
	}
	for i := range accepted {
		c := events.Change{Kind: events.KindGit, Location: "github.com/acme/shop", Name: fmt.Sprintf("refs/heads/b%d", i), After: fmt.Sprintf("%040x", i+1)}
		id := events.Request{Trigger: "app", Sequence: 1, Change: c}.DeriveBuildID()
		if _, err := os.Stat(filepath.Join(s.dir, "ledger", record.ResultKey(id))); err != nil {
			t.Errorf("webhook %d is lost: %v", i, err)
			break
		}
	}
	launched, err := os.ReadFile(filepath.Join(s.dir, "launched"))
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]bool{}
	for id := range strings.Lines(string(launched)) {
		if seen[id] {
			t.Errorf("build %s was launched twice", strings.TrimSpace(id))
		}
		seen[id] = true
	}
	if len(seen) != n {
		t.Errorf("%d launches of %d webhooks", len(seen), n)
	}
}

// Fifty webhooks a second and then ten times as many, half of them repetitions:
// each is one build, acknowledged within 100 ms but for one in a hundred, and
// memory stays what it is. At full length each takes a minute; otherwise a few
// seconds show that nothing is lost, and speed is only printed, since tests share
// their machine.
func TestLoad(t *testing.T) {
	root, err := tools.Root()
	if err != nil {
		t.Fatal(err)
	}
	dir, err := cache.Default()
	if err != nil {
		t.Fatal(err)
	}
	entry, err := tools.Compile(t.Context(), dir, "vegeta", filepath.Join(root, "e2e", "load", "tool"), os.Stderr, "github.com/tsenart/vegeta/v12")
	if err != nil {
		t.Fatal(err)
	}
	vegeta := filepath.Join(entry, "v12")
	if _, err := os.Stat(vegeta); err != nil {
		vegeta = filepath.Join(entry, "vegeta")
	}
	full := os.Getenv(fullVariable) == "full"
	length := 5
	if full {
		length = 60
	}
	for _, rate := range []int{50, 500} {
		t.Run(strconv.Itoa(rate), func(t *testing.T) {
			s := start(t)
			n := rate * length / 2
			f, half, end := s.attack(t, vegeta, rate, 0, n)
			t.Logf("%d/s for %d s: %d requests, %.1f/s; acknowledged in p50 %s, p95 %s, p99 %s, at most %s; memory %d MiB half-way, %d MiB at the end; load of the machine %s",
				rate, length, f.Requests, f.Rate, f.Latencies.P50, f.Latencies.P95, f.Latencies.P99, f.Latencies.Max, half>>20, end>>20, loadAverage())
			// Where the disk is slower than that, senders are told to come again;
			// what was acknowledged counts.
			accepted := map[int]bool{}
			for i, code := range f.codes {
				switch code {
				case http.StatusAccepted:
					accepted[i/2] = true
				case http.StatusTooManyRequests:
				default:
					t.Errorf("request %d was answered %d", i, code)
				}
			}
			if f.StatusCodes["429"] > 0 {
				t.Logf("answers %v: this machine is too slow for %d/s, with a load of %s", f.StatusCodes, rate, loadAverage())
			}
			if rate == 50 && len(accepted) < n {
				t.Errorf("%d of %d webhooks were accepted", len(accepted), n)
			}
			s.settled(t, accepted)
			if !full {
				return
			}
			if rate == 50 && f.Latencies.P99 > 100*time.Millisecond {
				t.Errorf("p99 is %s", f.Latencies.P99)
			}
			if rate == 50 && end > half+half/2+16<<20 {
				t.Errorf("memory grew from %d to %d MiB", half>>20, end>>20)
			}
			if end > maxMemory {
				t.Errorf("memory is %d MiB with as many requests at once as doors take", end>>20)
			}
		})
	}
}
