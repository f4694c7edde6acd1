package podlog

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"runtime/debug"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/kilnhook/kiln/events"
	"github.com/kilnhook/kiln/functions/record"
	"github.com/kilnhook/kiln/infra/ledger"
	"github.com/kilnhook/kiln/knative/launch"
)

// What each executor of BenchmarkMany does.
const (
	manyFor     = 10 * time.Second // that it runs
	manyRate    = 20               // lines a second
	manyLines   = manyRate * int(manyFor/time.Second)
	envManyPods = "KILN_TEST_MANY_PODS"
)

// BenchmarkMany measures what a Keeper needs for executors that run at once, each of
// which prints 20 lines of output a second for ten seconds, where 256 are followed: the
// CPU of this process, the most memory it has had, the requests to the API server, and
// the time from the last word to the last log in the ledger. The API server is another
// process, so that what it needs is not counted. It speaks HTTP/1.1 without TLS, and the
// ledger is in memory: what these cost is not counted either.
func BenchmarkMany(b *testing.B) {
	address := manyPods(b)
	for _, many := range []int{1, 256, 1024} {
		b.Run(strconv.Itoa(many), func(b *testing.B) {
			for b.Loop() {
				follow(b, address, many)
			}
		})
	}
}

func follow(b *testing.B, address string, many int) {
	client, err := kubernetes.NewForConfig(&rest.Config{Host: address, QPS: 200, Burst: 300})
	if err != nil {
		b.Fatal(err)
	}
	store := &ledger.Mem{}
	k, err := New(b.Context(), Config{Client: client, Namespace: namespace, Ledger: store, Dir: b.TempDir(), Now: time.Now})
	if err != nil {
		b.Fatal(err)
	}
	defer k.Close()
	var reqs []events.Request
	for i := range many {
		req := events.Request{BuildID: events.BuildID("many", strconv.Itoa(i)), Trigger: "t", Tenant: "t"}
		data, err := record.Encode(req)
		if err != nil {
			b.Fatal(err)
		}
		if _, err := store.Create(b.Context(), record.RequestKey(req.BuildID), data); err != nil {
			b.Fatal(err)
		}
		reqs = append(reqs, req)
	}
	asks(b, address+"/begin")
	forgetPeak(b)
	cpu, began := cpuTime(b), time.Now()
	for _, req := range reqs {
		k.Began(req)
	}
	for _, req := range reqs { // what the launcher does when a pod has ended
		asks(b, address+"/ended/"+req.BuildID)
		if err := k.Ended(b.Context(), req); err != nil {
			b.Fatal(err)
		}
	}
	over := time.Now()
	for _, req := range reqs {
		for {
			data, _, err := store.Get(b.Context(), record.LogKey(req.BuildID))
			if err == nil {
				whole(b, data)
				break
			}
			time.Sleep(time.Millisecond)
		}
	}
	kept := time.Now()
	cpu = cpuTime(b) - cpu
	var requests int
	if _, err := fmt.Sscan(asks(b, address+"/requests"), &requests); err != nil {
		b.Fatal(err)
	}
	b.ReportMetric(100*cpu.Seconds()/kept.Sub(began).Seconds(), "%core")
	b.ReportMetric(float64(cpu.Microseconds())/float64(many*manyLines), "µs/line")
	b.ReportMetric(float64(requests)/float64(many), "requests/log")
	b.ReportMetric(float64(peak(b))/(1<<20), "MiB")
	b.ReportMetric(kept.Sub(over).Seconds(), "s-to-kept")
}

// whole fails if a log that is kept is not.
func whole(b *testing.B, log []byte) {
	b.Helper()
	in, err := gzip.NewReader(bytes.NewReader(log))
	if err != nil {
		b.Fatal(err)
	}
	text, err := io.ReadAll(in)
	if err != nil || bytes.Count(text, []byte("\n")) != manyLines {
		b.Fatalf("%v, %d lines of %d", err, bytes.Count(text, []byte("\n")), manyLines)
	}
}

func asks(b *testing.B, url string) string {
	b.Helper()
	resp, err := http.Get(url)
	if err != nil {
		b.Fatal(err)
	}
	defer resp.Body.Close()
	line, _ := bufio.NewReader(resp.Body).ReadString('\n')
	return strings.TrimSpace(line)
}

// cpuTime is what this process has used of the processor.
func cpuTime(b *testing.B) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// peak is the most memory that this process has had since it was last forgotten, in
// bytes.
func peak(b *testing.B) int64 {
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		b.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(status), "VmHWM:")
	var kib int64
	if _, err := fmt.Sscan(rest, &kib); err != nil {
		b.Fatal(err)
	}
	return kib << 10
}

// forgetPeak has peak begin anew.
func forgetPeak(b *testing.B) {
	debug.FreeOSMemory()
	if err := os.WriteFile("/proc/self/clear_refs", []byte("5"), 0); err != nil {
		b.Fatal(err)
	}
}

// manyPods starts an API server in a process of its own and returns its address.
func manyPods(b *testing.B) string {
	b.Helper()
	cmd := exec.CommandContext(b.Context(), os.Args[0], "-test.run=^TestManyPods$")
	cmd.Env = append(os.Environ(), envManyPods+"=1")
	out, err := cmd.StdoutPipe()
	if err == nil {
		_, err = cmd.StdinPipe() // it ends when this is closed
	}
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait() // it was killed
	})
	address, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		b.Fatal(err)
	}
	return strings.TrimSpace(address)
}

// TestManyPods is the API server of BenchmarkMany, and nothing without it.
func TestManyPods(t *testing.T) {
	if os.Getenv(envManyPods) == "" {
		t.Skip("it is the server of a benchmark")
	}
	var requests atomic.Int64
	var started atomic.Pointer[time.Time]
	state := func() corev1.ContainerState {
		if time.Since(*started.Load()) < manyFor {
			return running()
		}
		return ended()
	}
	pod := func(name string) corev1.Pod {
		return corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: namespace, Labels: map[string]string{launch.LabelBuild: name}},
			Status:     corev1.PodStatus{ContainerStatuses: []corev1.ContainerStatus{{Name: launch.Container, State: state()}}},
		}
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /begin", func(http.ResponseWriter, *http.Request) {
		now := time.Now()
		started.Store(&now)
		requests.Store(0)
	})
	mux.HandleFunc("GET /ended/{name}", func(http.ResponseWriter, *http.Request) {
		time.Sleep(time.Until(started.Load().Add(manyFor)))
	})
	mux.HandleFunc("GET /requests", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, requests.Load()) })
	mux.HandleFunc("GET /api/v1/namespaces/builds/pods", func(w http.ResponseWriter, r *http.Request) {
		requests.Add(1)
		_, name, _ := strings.Cut(r.URL.Query().Get("labelSelector"), "=")
		answer(w, http.StatusOK, corev1.PodList{TypeMeta: metav1.TypeMeta{Kind: "PodList", APIVersion: "v1"}, Items: []corev1.Pod{pod(name)}})
	})
	mux.HandleFunc("GET /api/v1/namespaces/builds/pods/{name}", func(w http.ResponseWriter, r *http.Request) {
		requests.Add(1)
		answer(w, http.StatusOK, pod(r.PathValue("name")))
	})
	mux.HandleFunc("GET /api/v1/namespaces/builds/pods/{name}/log", func(w http.ResponseWriter, r *http.Request) {
		requests.Add(1)
		since, _ := time.Parse(time.RFC3339, r.URL.Query().Get("sinceTime"))
		flush := http.NewResponseController(w).Flush
		for i := range manyLines {
			at := started.Load().Add(time.Duration(i) * time.Second / manyRate)
			if at.Before(since) {
				continue
			}
			if wait := time.Until(at); wait > 0 {
				_ = flush()
				time.Sleep(wait)
			}
			fmt.Fprintf(w, "%s "+step+"\n", at.UTC().Format(time.RFC3339Nano), fmt.Sprintf("line %d of what a compiler says of %s: some hundred bytes of it, as most lines have", i, r.PathValue("name")))
		}
		_ = flush()
		time.Sleep(time.Until(started.Load().Add(manyFor)))
	})
	server := httptest.NewServer(mux)
	fmt.Println(server.URL)
	_, _ = os.Stdin.Read(make([]byte, 1)) // until the benchmark ends
}
