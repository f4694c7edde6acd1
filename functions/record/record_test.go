package record_test

import (
	"encoding/json"
	"errors"
	"io/fs"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/kilnhook/kiln/events"
	"github.com/kilnhook/kiln/functions/record"
	"github.com/kilnhook/kiln/infra/ledger"
)

func request(tenant, group, id string, at time.Time) events.Request {
	return events.Request{BuildID: id, Tenant: tenant, Group: group, RequestedAt: at}
}

// Every key is one a ledger takes, whatever refs and groups are called.
func TestKeysAreValid(t *testing.T) {
	id := events.BuildID("x")
	odd := events.Change{Kind: events.KindGit, Location: "h/../r", Name: "refs/heads/ü #\n"}
	req := request("acme", "app/../ü", id, time.UnixMilli(1795400000123))
	for _, key := range []string{
		record.RequestKey(id), record.ResultKey(id), record.EmittedKey(id), record.OpenKey(req), record.IndexKey(req),
		record.RegisterKey("acme", "app", odd), record.TagKey("r.io:5000/a", "x"),
		record.IndexKey(request("t", "g", id, time.Time{})),
		record.PoisonKey(record.Poison{Door: "/x", Body: []byte("\xff"), At: time.Unix(0, 0)}),
	} {
		if err := ledger.CheckKey(key); err != nil {
			t.Error(err)
		}
	}
	if got := record.OpenBuildID(record.OpenKey(req)); got != id {
		t.Errorf("build of open key: %s", got)
	}
	if got := record.IndexBuildID(record.IndexKey(req)); got != id {
		t.Errorf("build of index key: %s", got)
	}
	if got := record.IndexTime(record.IndexKey(req)); !got.Equal(req.RequestedAt) {
		t.Errorf("time of index key: %s, want %s", got, req.RequestedAt)
	}
	for _, key := range []string{"index/x", "index/", "", "index/-1-a", "index/99999999999999999999-a"} {
		if got := record.IndexTime(key); !got.IsZero() {
			t.Errorf("time of %q: %s", key, got)
		}
	}
	if !strings.HasPrefix(record.OpenKey(req), record.GroupPrefix("acme", "app/../ü")) {
		t.Error("an open build is not below its group")
	}
}

// Different things have different keys, also when their parts run together.
func TestKeysDiffer(t *testing.T) {
	git := func(location, name string) events.Change {
		return events.Change{Kind: events.KindGit, Location: location, Name: name}
	}
	keys := []string{
		record.RegisterKey("t", "a", git("h/r", "refs/x")), record.RegisterKey("u", "a", git("h/r", "refs/x")),
		record.RegisterKey("t", "b", git("h/r", "refs/x")), record.RegisterKey("t", "a", git("h/rr", "efs/x")),
		record.RegisterKey("t", "a", events.Change{Kind: events.KindObject, Location: "h/r", Name: "refs/x"}),
		record.GroupPrefix("t", "a"), record.GroupPrefix("ta", ""), record.TagKey("r", "ab"), record.TagKey("ra", "b"),
	}
	slices.Sort(keys)
	if n := len(slices.Compact(slices.Clone(keys))); n != len(keys) {
		t.Errorf("%d of %d keys are different: %q", n, len(keys), keys)
	}
}

// Ascending index keys are descending times.
func TestIndexIsNewestFirst(t *testing.T) {
	id := events.BuildID("x")
	var keys []string
	for _, ms := range []int64{1795400000123, 1795400000122, 999, 0} {
		keys = append(keys, record.IndexKey(request("t", "g", id, time.UnixMilli(ms))))
	}
	if !slices.IsSorted(keys) {
		t.Errorf("%q", keys)
	}
}

// A claim reads as a result, and a result as a claim that nobody verified.
func TestClaimIsAResult(t *testing.T) {
	data, err := record.Encode(record.Claim{Result: events.Result{Outcome: events.OutcomeSuccess, Digest: "d"}, Verified: true})
	if err != nil {
		t.Fatal(err)
	}
	var res events.Result
	if err := json.Unmarshal(data, &res); err != nil || res.Digest != "d" {
		t.Errorf("%s: %+v, %v", data, res, err)
	}
	var claim record.Claim
	if err := json.Unmarshal([]byte(`{"outcome":"success"}`), &claim); err != nil || claim.Verified {
		t.Errorf("%+v, %v", claim, err)
	}
}

func TestLoad(t *testing.T) {
	var mem ledger.Mem
	var reg record.Register
	if _, err := record.Load(t.Context(), &mem, "k", &reg); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("missing: %v", err)
	}
	want, err := mem.Create(t.Context(), "k", []byte(`{"sequence":7}`))
	if err != nil {
		t.Fatal(err)
	}
	if version, err := record.Load(t.Context(), &mem, "k", &reg); err != nil || version != want || reg.Sequence != 7 {
		t.Errorf("%+v, version %s, %v", reg, version, err)
	}
	if _, err := mem.Create(t.Context(), "bad", []byte(`{`)); err != nil {
		t.Fatal(err)
	}
	if _, err := record.Load(t.Context(), &mem, "bad", &reg); err == nil || !strings.Contains(err.Error(), "bad") {
		t.Errorf("not JSON: %v", err)
	}
}
