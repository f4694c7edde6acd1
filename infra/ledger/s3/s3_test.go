package s3_test

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	awss3 "github.com/aws/aws-sdk-go-v2/service/s3"

	"github.com/kilnhook/kiln/e2e/servers"
	"github.com/kilnhook/kiln/infra/ledger/ledgertest"
	"github.com/kilnhook/kiln/infra/ledger/object"
	"github.com/kilnhook/kiln/infra/ledger/s3"
)

// newBucket makes an empty bucket on a server and returns its name.
func newBucket(t *testing.T, server servers.S3) string {
	t.Helper()
	client := awss3.New(awss3.Options{
		BaseEndpoint: &server.URL, UsePathStyle: true, Region: server.Region,
		Credentials: credentials.NewStaticCredentialsProvider(server.AccessKey, server.SecretKey, ""),
	})
	name := "ledger-" + ledgertest.Name(t)
	if _, err := client.CreateBucket(t.Context(), &awss3.CreateBucketInput{Bucket: aws.String(name)}); err != nil {
		t.Fatal(err)
	}
	return name
}

// open returns a ledger in a new bucket that asks through a transport.
func open(t *testing.T, server servers.S3, o s3.Options, through http.RoundTripper) *object.Store {
	t.Helper()
	o.Bucket, o.Endpoint, o.Region, o.PathStyle = newBucket(t, server), server.URL, server.Region, true
	o.Credentials = credentials.NewStaticCredentialsProvider(server.AccessKey, server.SecretKey, "")
	o.Client = &http.Client{Transport: through}
	o.MinBackoff, o.MaxBackoff = time.Millisecond, 20*time.Millisecond
	s, err := s3.Open(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestStore(t *testing.T) {
	server := servers.Versity(t, servers.VersityOptions{})
	ledgertest.Run(t, func(t *testing.T) ledgertest.Store {
		return open(t, server, s3.Options{}, http.DefaultTransport)
	})
}

// Lists that come in small pages, below a prefix, are put together.
func TestStoreOfSmallPages(t *testing.T) {
	server := servers.Versity(t, servers.VersityOptions{})
	ledgertest.Run(t, func(t *testing.T) ledgertest.Store {
		return open(t, server, s3.Options{PageSize: 50, Options: object.Options{Prefix: "kiln/ledger"}}, http.DefaultTransport)
	})
}

func TestFaults(t *testing.T) {
	server := servers.Versity(t, servers.VersityOptions{})
	ledgertest.RunFaults(t, func(t *testing.T, through http.RoundTripper) ledgertest.Store {
		return open(t, server, s3.Options{Options: object.Options{Attempts: 4}}, through)
	})
}

func TestNoBucket(t *testing.T) {
	server := servers.Versity(t, servers.VersityOptions{})
	o := s3.Options{
		Bucket: "nobody", Region: server.Region, Endpoint: server.URL, PathStyle: true,
		Credentials: credentials.NewStaticCredentialsProvider(server.AccessKey, server.SecretKey, ""),
	}
	s, err := s3.Open(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Create(t.Context(), "k", nil); err == nil || !strings.Contains(err.Error(), "no such bucket") {
		t.Errorf("create in no bucket: %v", err)
	}
	o.Prefix = "../x"
	if _, err := s3.Open(t.Context(), o); err == nil {
		t.Error("a prefix that leads out was accepted")
	}
}
