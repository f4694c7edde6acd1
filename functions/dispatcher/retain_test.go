package main

import (
	"errors"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/kilnhook/kiln/events"
	"github.com/kilnhook/kiln/functions/record"
	"github.com/kilnhook/kiln/infra/ledger"
)

// What is old when a dispatcher begins to lead goes as its flags say, on the disk too,
// where executors are child processes.
func TestKeep(t *testing.T) {
	executor, _ := fakeExecutor(t, "sha256:"+"0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef")
	data, now := t.TempDir(), time.Unix(1795400000, 0)
	l, err := ledger.OpenDir(filepath.Join(data, "ledger"))
	if err != nil {
		t.Fatal(err)
	}
	put := func(key string, v any) {
		t.Helper()
		raw, err := record.Encode(v)
		if err == nil {
			_, err = l.Create(t.Context(), key, raw)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	ids := map[time.Duration]string{}
	for _, days := range []time.Duration{2, 20, 50} {
		req := events.Request{
			BuildID: events.BuildID("keep", days.String()), Tenant: "t", Trigger: "app", RequestedAt: now.Add(-24 * time.Hour * days),
			Change: events.Change{Kind: events.KindObject, Location: "s3://b", Name: "o", Generation: "1"},
		}
		ids[days] = req.BuildID
		put(record.RequestKey(req.BuildID), req)
		put(record.IndexKey(req), req.BuildID)
		put(record.ResultKey(req.BuildID), record.Claim{})
		put(record.EmittedKey(req.BuildID), record.Emitted{At: req.RequestedAt, EventID: "x"})
		if err := os.MkdirAll(filepath.Join(data, "builds", req.BuildID), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	triggers := write(t, "name: app\non: {git: {repo: h/r}}\npush: {image: r.io/app}\n")
	url, stop := start(t, append(os.Environ(), "KILN_KEEP=960h"), "--data", data, "--triggers", triggers, "--executor", executor, "--keep-logs=240h")
	there := func(days time.Duration) bool {
		_, err := os.Stat(filepath.Join(data, "builds", ids[days]))
		return err == nil
	}
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		resp, err := http.Get(url + "/v1/builds/" + ids[50])
		if err != nil {
			t.Fatal(err)
		}
		if resp.Body.Close(); resp.StatusCode == http.StatusNotFound {
			break // it is what goes last
		}
	}
	stop()
	if !there(2) || there(20) || there(50) {
		t.Errorf("logs on the disk: %v after 2 days, %v after 20, %v after 50", there(2), there(20), there(50))
	}
	if l, err = ledger.OpenDir(filepath.Join(data, "ledger")); err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	for days, want := range map[time.Duration]bool{2: true, 20: true, 50: false} {
		_, _, err := l.Get(t.Context(), record.RequestKey(ids[days]))
		if err != nil && !errors.Is(err, fs.ErrNotExist) || (err == nil) != want {
			t.Errorf("a build after %d days: %v", days, err)
		}
	}
}
