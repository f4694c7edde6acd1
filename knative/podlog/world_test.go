package podlog

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
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

const namespace = "builds"

// cluster is an API server that knows pods and their logs.
type cluster struct {
	url    string
	ledger *ledger.Mem

	mu      sync.Mutex
	pods    []*fakePod
	changed chan struct{}
	asked   []string // queries of requests for logs
	lists   int      // requests for lists of pods
	broken  int      // requests for logs that break off after one line
	refused int      // requests for logs that are refused
	vanish  bool     // a pod is deleted as soon as its log was read
}

// fakePod is one pod.
type fakePod struct {
	name, build string
	state       corev1.ContainerState
	lines       []string // with their times
}

func newCluster(t *testing.T) *cluster {
	t.Helper()
	c := &cluster{ledger: &ledger.Mem{}, changed: make(chan struct{})}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /api/v1/namespaces/builds/pods", c.list)
	mux.HandleFunc("GET /api/v1/namespaces/builds/pods/{name}", c.get)
	mux.HandleFunc("GET /api/v1/namespaces/builds/pods/{name}/log", c.log)
	server := httptest.NewServer(mux)
	t.Cleanup(server.Close)
	c.url = server.URL
	return c
}

// keeper starts a Keeper of one dispatcher.
func (c *cluster) keeper(t *testing.T, change func(*Config)) *Keeper {
	t.Helper()
	client, err := kubernetes.NewForConfig(&rest.Config{Host: c.url, QPS: 1000, Burst: 1000})
	if err != nil {
		t.Fatal(err)
	}
	cfg := Config{Client: client, Namespace: namespace, Ledger: c.ledger, Dir: t.TempDir(), Now: time.Now}
	if change != nil {
		change(&cfg)
	}
	k, err := New(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := k.Close(); err != nil {
			t.Error(err)
		}
	})
	return k
}

// change changes what there is.
func (c *cluster) change(f func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	f()
	close(c.changed)
	c.changed = make(chan struct{})
}

func running() corev1.ContainerState {
	return corev1.ContainerState{Running: &corev1.ContainerStateRunning{StartedAt: metav1.Unix(1, 0)}}
}

func ended() corev1.ContainerState {
	return corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{StartedAt: metav1.Unix(1, 0), FinishedAt: metav1.Unix(9, 0)}}
}

// start starts a pod of a build.
func (c *cluster) start(name, build string) *fakePod {
	p := &fakePod{name: name, build: build, state: running()}
	c.change(func() { c.pods = append(c.pods, p) })
	return p
}

// says has a pod say something: each word a line, two in the same instant.
func (c *cluster) says(p *fakePod, words ...string) {
	c.change(func() {
		for _, word := range words {
			at := time.Unix(1_700_000_000, 0).Add(time.Duration(len(p.lines)/2) * 400 * time.Millisecond)
			p.lines = append(p.lines, at.UTC().Format(time.RFC3339Nano)+" "+word)
		}
	})
}

func (c *cluster) ends(p *fakePod) { c.change(func() { p.state = ended() }) }

func (c *cluster) delete(p *fakePod) {
	c.change(func() { c.pods = slices.DeleteFunc(c.pods, func(o *fakePod) bool { return o == p }) })
}

func (c *cluster) object(p *fakePod, place int) corev1.Pod {
	return corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: p.name, Namespace: namespace, CreationTimestamp: metav1.Unix(int64(place), 0), Labels: map[string]string{launch.LabelBuild: p.build}},
		Status:     corev1.PodStatus{ContainerStatuses: []corev1.ContainerStatus{{Name: launch.Container, State: p.state}}},
	}
}

func (c *cluster) list(w http.ResponseWriter, r *http.Request) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.lists++
	list := corev1.PodList{TypeMeta: metav1.TypeMeta{Kind: "PodList", APIVersion: "v1"}}
	for i, p := range c.pods {
		if q := r.URL.Query().Get("labelSelector"); q == launch.LabelBuild+"="+p.build || q == "job="+p.build {
			list.Items = append([]corev1.Pod{c.object(p, i)}, list.Items...) // in no order
		}
	}
	answer(w, http.StatusOK, list)
}

func answer(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(v)
}

func notFound(w http.ResponseWriter) {
	answer(w, http.StatusNotFound, metav1.Status{TypeMeta: metav1.TypeMeta{Kind: "Status", APIVersion: "v1"}, Status: "Failure", Reason: metav1.StatusReasonNotFound, Code: 404})
}

// logsAsked are the queries of requests for logs until now.
func (c *cluster) logsAsked() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.asked)
}

// find returns a pod. The caller holds mu.
func (c *cluster) find(name string) (*fakePod, int) {
	i := slices.IndexFunc(c.pods, func(p *fakePod) bool { return p.name == name })
	if i < 0 {
		return nil, i
	}
	return c.pods[i], i
}

func (c *cluster) get(w http.ResponseWriter, r *http.Request) {
	c.mu.Lock()
	defer c.mu.Unlock()
	p, i := c.find(r.PathValue("name"))
	if p == nil {
		notFound(w)
		return
	}
	answer(w, http.StatusOK, c.object(p, i))
}

// log serves a log as a kubelet does.
func (c *cluster) log(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	c.mu.Lock()
	c.asked = append(c.asked, r.PathValue("name")+"?"+r.URL.RawQuery)
	p, _ := c.find(r.PathValue("name"))
	refuse, cut := c.refused > 0, c.broken > 0
	c.refused, c.broken = max(c.refused-1, 0), max(c.broken-1, 0)
	c.mu.Unlock()
	if p == nil {
		notFound(w)
		return
	}
	if refuse || q.Get("container") != launch.Container || q.Get("timestamps") != "true" {
		http.Error(w, "the kubelet is away", http.StatusInternalServerError)
		return
	}
	since, _ := time.Parse(time.RFC3339, q.Get("sinceTime"))
	flush := http.NewResponseController(w).Flush
	for at := 0; ; {
		c.mu.Lock()
		lines, over, changed, vanish := p.lines, p.state.Terminated != nil, c.changed, c.vanish
		c.mu.Unlock()
		for ; at < len(lines); at++ {
			stamp, _, _ := strings.Cut(lines[at], " ")
			if when, _ := time.Parse(time.RFC3339Nano, stamp); when.Before(since) {
				continue
			}
			fmt.Fprintln(w, lines[at])
			if cut {
				_ = flush()
				panic(http.ErrAbortHandler)
			}
		}
		_ = flush()
		if over || q.Get("follow") != "true" {
			if vanish {
				c.delete(p)
			}
			return
		}
		select {
		case <-changed:
		case <-r.Context().Done():
			return
		}
	}
}

// request stores the request of a build.
func (c *cluster) request(t *testing.T, name string, platforms ...string) events.Request {
	t.Helper()
	req := events.Request{BuildID: events.BuildID("test", name), Trigger: "t", Tenant: "t", Platforms: platforms}
	put(t, c.ledger, record.RequestKey(req.BuildID), req)
	return req
}

// result stores the outcome of a build that ended some time ago.
func (c *cluster) result(t *testing.T, id string, ago time.Duration) {
	t.Helper()
	put(t, c.ledger, record.ResultKey(id), record.Claim{Result: events.Result{Outcome: events.OutcomeCancelled, FinishedAt: time.Now().Add(-ago)}})
}

func put(t *testing.T, l *ledger.Mem, key string, v any) {
	t.Helper()
	data, err := json.Marshal(v)
	if err == nil {
		_, err = l.Create(t.Context(), key, data)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// kept waits for what the ledger has of a log.
func (c *cluster) kept(t *testing.T, id string) string {
	t.Helper()
	for range 2000 {
		data, _, err := c.ledger.Get(t.Context(), record.LogKey(id))
		if err == nil {
			in, err := gzip.NewReader(bytes.NewReader(data))
			if err != nil {
				t.Fatal(err)
			}
			text, err := io.ReadAll(in)
			if err != nil {
				t.Fatal(err)
			}
			return string(text)
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Fatal("the log is not kept")
	return ""
}

// texts are what the lines of a log say.
func texts(t *testing.T, log string) []string {
	t.Helper()
	var all []string
	for line := range strings.Lines(log) {
		var p events.Progress
		if err := json.Unmarshal([]byte(line), &p); err != nil {
			t.Fatalf("%q: %v", line, err)
		}
		all = append(all, p.Text)
	}
	return all
}

// all reads a log to its end.
func all(t *testing.T, k *Keeper, id string, offset int64, follow bool) (string, error) {
	t.Helper()
	var out strings.Builder
	end, err := k.Log(t.Context(), id, offset, follow, func(p []byte) error {
		if !bytes.HasSuffix(p, []byte("\n")) {
			t.Errorf("%q is not whole lines", p)
		}
		out.Write(p)
		return nil
	})
	if err == nil && end != offset+int64(out.Len()) {
		t.Errorf("read from %d to %d, %d bytes", offset, end, out.Len())
	}
	return out.String(), err
}

var _ Ledger = (*ledger.Mem)(nil)
