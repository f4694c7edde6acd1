package gcs_test

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"cloud.google.com/go/storage"
	"google.golang.org/api/option"

	"github.com/kilnhook/kiln/e2e/servers"
	"github.com/kilnhook/kiln/infra/ledger/gcs"
	"github.com/kilnhook/kiln/infra/ledger/ledgertest"
	"github.com/kilnhook/kiln/infra/ledger/object"
)

// newBucket makes an empty bucket on a server and returns its name.
func newBucket(t *testing.T, address string) string {
	t.Helper()
	client, err := storage.NewClient(t.Context(), option.WithEndpoint("http://"+address+"/storage/v1/"), option.WithoutAuthentication())
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	name := "ledger-" + ledgertest.Name(t)
	if err := client.Bucket(name).Create(t.Context(), "p", nil); err != nil {
		t.Fatal(err)
	}
	return name
}

// open returns a ledger in a new bucket that asks through a transport.
func open(t *testing.T, address string, o gcs.Options, through http.RoundTripper) *gcs.Store {
	t.Helper()
	o.Bucket, o.Endpoint = newBucket(t, address), "http://"+address
	o.Client = &http.Client{Transport: through}
	o.MinBackoff, o.MaxBackoff = time.Millisecond, 20*time.Millisecond
	s, err := gcs.Open(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func TestStore(t *testing.T) {
	address := servers.CloudStorage(t, servers.CloudStorageOptions{})
	ledgertest.Run(t, func(t *testing.T) ledgertest.Store {
		return open(t, address, gcs.Options{}, http.DefaultTransport)
	})
}

// Lists that come in small pages, below a prefix, are put together.
func TestStoreOfSmallPages(t *testing.T) {
	address := servers.CloudStorage(t, servers.CloudStorageOptions{})
	ledgertest.Run(t, func(t *testing.T) ledgertest.Store {
		return open(t, address, gcs.Options{PageSize: 50, Options: object.Options{Prefix: "kiln/ledger"}}, http.DefaultTransport)
	})
}

func TestFaults(t *testing.T) {
	address := servers.CloudStorage(t, servers.CloudStorageOptions{})
	ledgertest.RunFaults(t, func(t *testing.T, through http.RoundTripper) ledgertest.Store {
		return open(t, address, gcs.Options{Options: object.Options{Attempts: 4}}, through)
	})
}

func TestNoBucket(t *testing.T) {
	address := servers.CloudStorage(t, servers.CloudStorageOptions{})
	s, err := gcs.Open(t.Context(), gcs.Options{Bucket: "nobody", Endpoint: "http://" + address})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if _, err := s.Create(t.Context(), "k", nil); err == nil || !strings.Contains(err.Error(), "k") {
		t.Errorf("create in no bucket: %v", err)
	}
	if _, err := gcs.Open(t.Context(), gcs.Options{Bucket: "b", Endpoint: "http://" + address, Options: object.Options{Prefix: "../x"}}); err == nil {
		t.Error("a prefix that leads out was accepted")
	}
}
