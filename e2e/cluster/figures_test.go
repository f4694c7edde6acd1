package main_test

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/kilnhook/kiln/events"
	"github.com/kilnhook/kiln/events/source/git"
	"github.com/kilnhook/kiln/functions/dispatch"
)

// patience is how long the load may take to be accepted on a busy machine.
const patience = 5 * time.Minute

// TestFigures measures how long a tiny build takes and where, and what the
// dispatcher needs to make fifty Jobs a second. It asserts that nothing is lost,
// not how fast it is: that depends on the machine, and docs/operating.md says what
// it was on one.
func TestFigures(t *testing.T) {
	if testing.Short() {
		t.Skip("-short")
	}
	i := newInstall(t)
	i.apply(t, "default")
	t.Run("a tiny build", func(t *testing.T) { i.tinyBuilds(t, 8) })
	i.applySetup(t, setup{config: "base", profile: "default", suspend: true})
	t.Run("fifty a second", func(t *testing.T) { i.load(t, 50, 30*time.Second) })
}

// notify posts a change as a forge would, and returns the build's id and the
// status of the answer.
func (i *install) notify(repository, ref, commit string) (id string, status int, err error) {
	body := strings.Repeat("0", 40) + " " + commit + " " + ref + "\n"
	req, err := http.NewRequest(http.MethodPost, i.URL()+"/hooks/git", strings.NewReader(body))
	if err != nil {
		return "", 0, err
	}
	req.Header.Set("Content-Type", "text/plain")
	req.Header.Set("Authorization", "Bearer "+token)
	req.Header.Set(git.HeaderRepository, repository)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return "", 0, err
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(resp.Body)
	if err != nil {
		return "", 0, err
	}
	var answer struct{ Builds []dispatch.Decision }
	if resp.StatusCode == http.StatusAccepted {
		if err := json.Unmarshal(raw, &answer); err != nil || len(answer.Builds) != 1 {
			return "", 0, fmt.Errorf("%w: %s", err, raw)
		}
		id = answer.Builds[0].BuildID
	}
	return id, resp.StatusCode, nil
}

// tinyBuilds measures builds of one COPY, one after another.
func (i *install) tinyBuilds(t *testing.T, n int) {
	spans := map[string][]time.Duration{}
	for k := range n {
		dir, name := t.TempDir(), "tiny"+strconv.Itoa(k)
		check(t, os.WriteFile(filepath.Join(dir, "Dockerfile"), []byte("FROM scratch\nCOPY file /\n"), 0o644))
		check(t, os.WriteFile(filepath.Join(dir, "file"), []byte(name), 0o644))
		commit := i.git.keep(t, name, dir)
		sent := time.Now()
		id, status, err := i.notify(i.git.url+"/"+name+".git", "refs/heads/main", commit)
		if err != nil || status != http.StatusAccepted {
			t.Fatal(status, err)
		}
		answered := time.Now()
		var data events.Finished
		eventually(t, buildLimit, "the end of build "+id, func() bool {
			for _, e := range i.sink.all(events.TypeBuildFinished) {
				if e.ID() == events.FinishedID(id) {
					check(t, e.DataAs(&data))
					return true
				}
			}
			return false
		})
		told := time.Now()
		if data.Outcome != events.OutcomeSuccess {
			t.Fatalf("%+v", data)
		}
		created, begun, stepped := i.moments(t, id)
		for what, d := range map[string]time.Duration{
			"event → Job": created.Sub(sent), "event → answer": answered.Sub(sent), "Job → container's first word": begun.Sub(created),
			"first word → first step": stepped.Sub(begun), "event → told": told.Sub(sent),
		} {
			spans[what] = append(spans[what], d)
		}
	}
	for what, all := range spans {
		slices.Sort(all)
		t.Logf("%s: median %s, least %s, most %s", what, all[len(all)/2].Round(time.Millisecond), all[0].Round(time.Millisecond), all[len(all)-1].Round(time.Millisecond))
	}
}

// moments are when the dispatcher had made a build's Job, and when its executor
// said its first word and began its first step.
func (i *install) moments(t *testing.T, id string) (created, begun, stepped time.Time) {
	t.Helper()
	for line := range strings.Lines(i.kubectl(t, "-n", "kiln", "logs", "deployment/kiln-dispatcher")) {
		var entry struct {
			Time       time.Time
			Msg, Build string
		}
		if json.Unmarshal([]byte(line), &entry) == nil && entry.Msg == "job created" && entry.Build == id {
			created = entry.Time
		}
	}
	for line := range strings.Lines(i.kubectl(t, "-n", "kiln-builds", "logs", "--timestamps", "job/kiln-"+id)) {
		stamp, text, _ := strings.Cut(line, " ")
		at, err := time.Parse(time.RFC3339Nano, stamp)
		check(t, err)
		if begun.IsZero() {
			begun = at
		}
		if stepped.IsZero() && strings.Contains(text, "COPY file /") {
			stepped = at
		}
	}
	if created.IsZero() || begun.IsZero() || stepped.IsZero() {
		t.Fatalf("Job %s, first word %s, first step %s", created, begun, stepped)
	}
	return created, begun, stepped
}

// load sends changes at a rate, all of which become Jobs that wait.
func (i *install) load(t *testing.T, rate int, length time.Duration) {
	before, stop := i.process(t), make(chan struct{})
	var most float64
	var watch sync.WaitGroup
	watch.Go(func() {
		for {
			select {
			case <-stop:
				return
			case <-time.After(2 * time.Second):
				if rss, err := i.metric("process_resident_memory_bytes"); err == nil {
					most = max(most, rss)
				}
			}
		}
	})
	var mu sync.Mutex
	var wg sync.WaitGroup
	var took []time.Duration
	busy, broken, began, n := 0, 0, time.Now(), rate*int(length.Seconds())
	tick := time.NewTicker(time.Second / time.Duration(rate))
	defer tick.Stop()
	for k := range n {
		<-tick.C
		wg.Go(func() {
			for first := time.Now(); ; time.Sleep(time.Second) {
				id, status, err := i.notify("https://git.example.com/load.git", "refs/heads/b"+strconv.Itoa(k), fmt.Sprintf("%040x", k+1))
				mu.Lock()
				switch {
				case err == nil && status == http.StatusAccepted && id != "":
					took = append(took, time.Since(first))
				case time.Since(began) > patience || err == nil && status != http.StatusTooManyRequests && status != http.StatusServiceUnavailable:
					t.Errorf("change %d: %d, %v", k, status, err)
				case err != nil:
					broken++
					mu.Unlock()
					continue
				default:
					busy++
					mu.Unlock()
					continue
				}
				mu.Unlock()
				return
			}
		})
	}
	sent := time.Since(began)
	wg.Wait()
	done := time.Since(began)
	close(stop)
	watch.Wait()
	after := i.process(t)
	if ended := i.kubectl(t, "-n", "kiln", "get", "pods", "-o", "jsonpath={.items[*].status.containerStatuses[*].lastState}"); strings.Contains(ended, "terminated") {
		t.Errorf("the dispatcher ended under the load: %s", ended)
	}
	jobs := strings.Count(i.kubectl(t, "-n", "kiln-builds", "get", "jobs", "-o", `jsonpath={range .items[?(@.spec.suspend==true)]}{.metadata.name}{"\n"}{end}`), "\n")
	if jobs != n || len(took) != n {
		t.Errorf("%d of %d changes were accepted, and are %d Jobs", len(took), n, jobs)
	}
	if len(took) == 0 {
		return
	}
	slices.Sort(took)
	part := func(percent int) time.Duration { return took[(len(took)-1)*percent/100].Round(time.Millisecond) }
	t.Logf("%d changes in %s, all accepted after %s, %d were told to come again, %d had no answer; accepted in p50 %s, p95 %s, p99 %s",
		n, sent.Round(time.Second), done.Round(time.Second), busy, broken, part(50), part(95), part(99))
	t.Logf("dispatcher: %.1f ms of CPU a change, %.0f %% of a core, %.0f MiB at most",
		1000*(after-before)/float64(n), 100*(after-before)/done.Seconds(), most/(1<<20))
	i.kubectl(t, "-n", "kiln-builds", "delete", "jobs", "--all", "--wait=false")
}

// process is how many seconds of CPU the dispatcher has used.
func (i *install) process(t *testing.T) float64 {
	t.Helper()
	v, err := i.metric("process_cpu_seconds_total")
	check(t, err)
	return v
}

// metric reads one of the dispatcher's figures.
func (i *install) metric(name string) (float64, error) {
	req, err := http.NewRequest(http.MethodGet, i.URL()+"/metrics", nil)
	if err != nil {
		return 0, err
	}
	req.Header.Set("Authorization", "Bearer "+token)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	for lines := bufio.NewScanner(resp.Body); lines.Scan(); {
		if value, ok := strings.CutPrefix(lines.Text(), name+" "); ok {
			return strconv.ParseFloat(value, 64)
		}
	}
	return 0, fmt.Errorf("there is no metric %s: %s", name, resp.Status)
}
