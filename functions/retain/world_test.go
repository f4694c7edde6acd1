package retain_test

import (
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"net/http"
	"strconv"
	"sync"
	"testing"
	"time"

	"cloud.google.com/go/storage"
	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	awss3 "github.com/aws/aws-sdk-go-v2/service/s3"
	"google.golang.org/api/option"

	"github.com/kilnhook/kiln/e2e/servers"
	"github.com/kilnhook/kiln/events"
	"github.com/kilnhook/kiln/functions/record"
	"github.com/kilnhook/kiln/functions/retain"
	"github.com/kilnhook/kiln/infra/ledger"
	"github.com/kilnhook/kiln/infra/ledger/gcs"
	"github.com/kilnhook/kiln/infra/ledger/ledgertest"
	"github.com/kilnhook/kiln/infra/ledger/object"
	"github.com/kilnhook/kiln/infra/ledger/s3"
)

const day = 24 * time.Hour

// now is when the tests are.
var now = time.UnixMilli(1795400000123).UTC()

// ledgers are those that there are, each new and empty.
func ledgers() map[string]func(t *testing.T) ledgertest.Store {
	return map[string]func(t *testing.T) ledgertest.Store{
		"memory": func(*testing.T) ledgertest.Store { return &ledger.Mem{} },
		"directory": func(t *testing.T) ledgertest.Store {
			d, err := ledger.OpenDir(t.TempDir())
			check(t, err)
			t.Cleanup(func() { check(t, d.Close()) })
			return d
		},
		"gs": func(t *testing.T) ledgertest.Store {
			address := "http://" + servers.CloudStorage(t, servers.CloudStorageOptions{})
			client, err := storage.NewClient(t.Context(), option.WithEndpoint(address+"/storage/v1/"), option.WithoutAuthentication())
			check(t, err)
			defer client.Close()
			check(t, client.Bucket("ledger").Create(t.Context(), "p", nil))
			s, err := gcs.Open(t.Context(), gcs.Options{Bucket: "ledger", Endpoint: address, PageSize: 7, Options: object.Options{Prefix: "kiln"}})
			check(t, err)
			t.Cleanup(func() { s.Close() })
			return s
		},
		"s3": func(t *testing.T) ledgertest.Store {
			server := servers.Versity(t, servers.VersityOptions{})
			keys := credentials.NewStaticCredentialsProvider(server.AccessKey, server.SecretKey, "")
			client := awss3.New(awss3.Options{BaseEndpoint: &server.URL, UsePathStyle: true, Region: server.Region, Credentials: keys})
			_, err := client.CreateBucket(t.Context(), &awss3.CreateBucketInput{Bucket: aws.String("ledger")})
			check(t, err)
			s, err := s3.Open(t.Context(), s3.Options{
				Bucket: "ledger", Endpoint: server.URL, Region: server.Region, PathStyle: true, Credentials: keys, Client: http.DefaultClient,
				PageSize: 7, Options: object.Options{Prefix: "kiln"},
			})
			check(t, err)
			return s
		},
	}
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// world is a ledger with builds.
type world struct {
	t *testing.T
	l ledgertest.Store
	n int
}

// put stores a record, whatever was there.
func (w *world) put(key string, v any) {
	w.t.Helper()
	data, ok := v.([]byte)
	if !ok {
		var err error
		data, err = json.Marshal(v)
		check(w.t, err)
	}
	_, version, err := w.l.Get(w.t.Context(), key)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		w.t.Fatal(err)
	}
	_, err = w.l.Swap(w.t.Context(), key, version, data)
	check(w.t, err)
}

func (w *world) has(key string) bool {
	w.t.Helper()
	_, _, err := w.l.Get(w.t.Context(), key)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		w.t.Fatal(err)
	}
	return err == nil
}

// names reports whether a record is of a build.
func (w *world) names(key string, req events.Request) bool {
	w.t.Helper()
	var named record.Same
	if _, err := record.Load(w.t.Context(), w.l, key, &named); err != nil && !errors.Is(err, fs.ErrNotExist) {
		w.t.Fatal(err)
	}
	return named.BuildID == req.BuildID
}

// build records a build of an object that was requested and has ended some time ago, with
// its log; one whose end is negative has none. It is the newest of its object.
func (w *world) build(object string, requested, ended time.Duration, platforms ...string) events.Request {
	w.t.Helper()
	w.n++
	req := events.Request{
		Install: "i", Tenant: "acme", Trigger: "app", Sequence: uint64(w.n), Group: "app/" + object, Attempt: 1, Context: "s3://b/" + object, Image: "r.io/app",
		Change:      events.Change{Kind: events.KindObject, Location: "s3://b", Name: object, Generation: strconv.Itoa(w.n)},
		RequestedAt: now.Add(-requested), Platforms: platforms,
	}
	req.BuildID = req.DeriveBuildID()
	w.put(record.RequestKey(req.BuildID), req)
	w.put(record.IndexKey(req), []byte(req.BuildID))
	w.put(record.RegisterKey(req.Tenant, req.Trigger, req.Change), record.Register{BuildID: req.BuildID, Head: req.Change.Generation, Sequence: req.Sequence})
	for _, part := range req.Parts() {
		w.put(record.RequestKey(part.BuildID), part)
		w.put(record.ResultKey(part.BuildID), record.Claim{})
		w.put(record.LogKey(part.BuildID), []byte("log"))
	}
	if len(platforms) == 0 {
		w.put(record.LogKey(req.BuildID), []byte("log"))
	}
	if ended < 0 {
		w.put(record.OpenKey(req), record.Open{Request: req})
		return req
	}
	w.put(record.ResultKey(req.BuildID), record.Claim{Result: events.Result{FinishedAt: now.Add(-ended)}})
	w.put(record.EmittedKey(req.BuildID), record.Emitted{EventID: events.FinishedID(req.BuildID), At: now.Add(-ended)})
	w.put(record.NotifiedKey(req.BuildID, "chat"), []byte("{}"))
	w.put(record.SameKey(req), record.Same{BuildID: req.BuildID})
	w.put(record.StatusKey(req), record.Status{BuildID: req.BuildID})
	return req
}

// is fails unless a build has just as much as is said: all, nothing, or what is left when
// its log is gone.
func (w *world) is(name string, req events.Request, want string) {
	w.t.Helper()
	keys, err := w.l.List(w.t.Context(), record.BuildsPrefix+req.BuildID+"/", "", 0)
	check(w.t, err)
	logs, parts := 0, 0
	for _, r := range append(req.Parts(), req) {
		if w.has(record.LogKey(r.BuildID)) {
			logs++
		}
		if r.PartOf != "" && w.has(record.RequestKey(r.BuildID)) && w.has(record.ResultKey(r.BuildID)) {
			parts++
		}
	}
	listed, whole := w.has(record.IndexKey(req)), w.has(record.RequestKey(req.BuildID)) && parts == len(req.Parts())
	got := "a part of it"
	switch {
	case listed && whole && logs == max(1, len(req.Parts())):
		got = "all"
	case listed && whole && logs == 0:
		got = "no log"
	case !listed && len(keys) == 0 && parts == 0 && logs == 0 && !w.names(record.SameKey(req), req) && !w.names(record.StatusKey(req), req):
		got = "nothing"
	}
	if got != want {
		w.t.Errorf("of the build %q there is %s, want %s: %q", name, got, want, keys)
	}
}

// retain applies rules, as a dispatcher that begins to lead.
func (w *world) retain(rules retain.Rules, at time.Time) {
	w.t.Helper()
	k, err := retain.New(retain.Config{Ledger: w.l, Rules: rules, Now: func() time.Time { return at }})
	check(w.t, err)
	check(w.t, k.Retain(w.t.Context()))
}

// watched counts what a ledger is asked, and fails if it is told to.
type watched struct {
	ledgertest.Store
	mu            sync.Mutex
	gets, deletes int
	fail          func(op, key string) error
}

func (l *watched) note(count *int, op, key string) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if count != nil {
		*count++
	}
	if l.fail == nil {
		return nil
	}
	return l.fail(op, key)
}

func (l *watched) Get(ctx context.Context, key string) ([]byte, string, error) {
	if err := l.note(&l.gets, "get", key); err != nil {
		return nil, "", err
	}
	return l.Store.Get(ctx, key)
}

func (l *watched) Delete(ctx context.Context, key string) error {
	if err := l.note(&l.deletes, "delete", key); err != nil {
		return err
	}
	return l.Store.Delete(ctx, key)
}

func (l *watched) List(ctx context.Context, prefix, after string, limit int) ([]string, error) {
	if err := l.note(nil, "list", after); err != nil {
		return nil, err
	}
	return l.Store.List(ctx, prefix, after, limit)
}
