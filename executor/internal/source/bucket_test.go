package source

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/kilnhook/kiln/e2e/port"

	"github.com/fsouza/fake-gcs-server/fakestorage"
	"github.com/johannesboyne/gofakes3"
	"github.com/johannesboyne/gofakes3/backend/s3mem"

	"github.com/kilnhook/kiln/e2e/need"
)

// bucketOptions are those of a user with the environment env and nothing else.
func bucketOptions(t *testing.T, env map[string]string) Options {
	t.Helper()
	return Options{Now: time.Now, TempDir: t.TempDir(), RetryWait: time.Millisecond, Retries: 3, Env: func(name string) string {
		if name == "HOME" {
			return "/nonexistent"
		}
		return env[name]
	}}
}

// wantContext fetches rawURL, which holds a Dockerfile and nothing else: no
// archive among it.
func wantContext(t *testing.T, rawURL string, opt Options) Revision {
	t.Helper()
	c, err := Fetch(t.Context(), rawURL, opt)
	if err != nil {
		t.Fatal(err)
	}
	if got := list(t, c.Dir); got != "-rw-r--r-- Dockerfile \"content of Dockerfile\"\n" {
		t.Errorf("%s: got %s", rawURL, got)
	}
	if err := c.Close(); err != nil {
		t.Error(err)
	}
	return c.Revision
}

// Objects come from a server for Google's storage, whatever their names are,
// and the generation that came is known and can be asked for.
func TestGCS(t *testing.T) {
	b := gzipped(t, tarOf(t, tar.Header{Name: "Dockerfile"}))
	object := func(name string) fakestorage.Object {
		return fakestorage.Object{ObjectAttrs: fakestorage.ObjectAttrs{BucketName: "bucket", Name: name}, Content: b}
	}
	srv, err := fakestorage.NewServerWithOptions(fakestorage.Options{
		Scheme: "http", Host: "127.0.0.1", Port: 0, StorageRoot: t.TempDir(),
		InitialObjects: []fakestorage.Object{object("context.tar.gz"), object("dir/a b.tgz"), object("x?y#z")},
	})
	if err != nil {
		t.Fatal(err)
	}
	defer srv.Stop()
	opt := bucketOptions(t, map[string]string{"STORAGE_EMULATOR_HOST": strings.TrimPrefix(srv.URL(), "http://")})
	for _, u := range []string{"gs://bucket", "gs://bucket/", "gs://bucket/dir/a b.tgz", "gs://bucket/x?y#z"} {
		r := wantContext(t, u, opt)
		generation, ok := strings.CutPrefix(r.Version, "generation:")
		if !ok || r.String() != r.Version || len(r.SHA256) != 64 {
			t.Errorf("%s: revision = %+v", u, r)
		}
		if u == "gs://bucket/" {
			wantContext(t, "gs://bucket/context.tar.gz#"+generation, opt)
			_, err := Fetch(t.Context(), "gs://bucket/context.tar.gz#12345", opt)
			if !errors.Is(err, ErrNotFound) {
				t.Errorf("another generation: %v", err)
			}
		}
	}
	_, err = Fetch(t.Context(), "gs://bucket/gone", opt)
	if !errors.Is(err, ErrNotFound) || !strings.Contains(err.Error(), "that gs://bucket/gone exists") {
		t.Errorf("error = %v", err)
	}
}

// Objects come from a server for S3, by path or by virtual host, and the
// version that came is known.
func TestS3(t *testing.T) {
	backend := s3mem.New()
	b := gzipped(t, tarOf(t, tar.Header{Name: "Dockerfile"}))
	if err := backend.CreateBucket("bucket"); err != nil {
		t.Fatal(err)
	}
	for _, key := range []string{"context.tar.gz", "dir/a b+c.tgz"} {
		if _, err := backend.PutObject("bucket", key, nil, bytes.NewReader(b), int64(len(b)), nil); err != nil {
			t.Fatal(err)
		}
	}
	fake := gofakes3.New(backend).Server()
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !strings.HasPrefix(r.Header.Get("Authorization"), "AWS4-HMAC-SHA256 Credential=AKIA/") || !strings.Contains(r.Header.Get("Authorization"), "/eu-west-1/s3/") {
			t.Errorf("authorization = %q", r.Header.Get("Authorization"))
		}
		if host, ok := strings.CutPrefix(r.Host, "bucket.localhost"); ok { // virtual host
			r.Host, r.URL.Path = "localhost"+host, "/bucket"+r.URL.Path
		}
		fake.ServeHTTP(w, r)
	}))
	defer srv.Close()
	env := map[string]string{"AWS_ACCESS_KEY_ID": "AKIA", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_REGION": "eu-west-1", "S3_ENDPOINT": srv.URL, "S3_FORCE_PATH_STYLE": "True"}
	for _, u := range []string{"s3://bucket", "s3://bucket/dir/a b+c.tgz"} {
		if r := wantContext(t, u, bucketOptions(t, env)); !strings.HasPrefix(r.Version, "etag:") && !strings.HasPrefix(r.Version, "version:") {
			t.Errorf("%s: revision = %+v", u, r)
		}
	}
	_, err := Fetch(t.Context(), "s3://bucket/gone", bucketOptions(t, env))
	if !errors.Is(err, ErrNotFound) || !strings.Contains(err.Error(), "NoSuchKey") || !strings.Contains(err.Error(), "access key AKIA of the environment") || strings.Contains(err.Error(), "secret") {
		t.Errorf("error = %v", err)
	}
}

// Where an object is depends on the region, the bucket and S3_ENDPOINT.
func TestS3URL(t *testing.T) {
	for _, tc := range []struct{ bucket, region, endpoint, style, want string }{
		{"b", "eu-west-1", "", "", "https://b.s3.eu-west-1.amazonaws.com/k%20%2B/x"},
		{"b", "cn-north-1", "", "true", "https://b.s3.cn-north-1.amazonaws.com.cn/k%20%2B/x"},
		{"a.b", "us-east-1", "", "", "https://s3.us-east-1.amazonaws.com/a.b/k%20%2B/x"},
		{"b", "us-east-1", "https://minio:9000/", "", "https://b.minio:9000/k%20%2B/x"},
		{"b", "us-east-1", "http://minio:9000", "TRUE", "http://minio:9000/b/k%20%2B/x"},
		{"b", "us-east-1", "http://127.0.0.1:9000", "false", "http://127.0.0.1:9000/b/k%20%2B/x"},
		{"b", "us-east-1", "minio/sub", "true", "https://minio/sub/b/k%20%2B/x"},
	} {
		s := &s3{bucket: tc.bucket, key: "k +/x", region: tc.region}
		opt := bucketOptions(t, map[string]string{"S3_ENDPOINT": tc.endpoint, "S3_FORCE_PATH_STYLE": tc.style})
		if err := s.place(&opt); err != nil {
			t.Fatal(err)
		}
		if got := s.url().String(); got != tc.want {
			t.Errorf("%+v: got %s", tc, got)
		}
	}
	for _, bad := range []string{"ftp://x", "http://", "://"} {
		opt := bucketOptions(t, map[string]string{"S3_ENDPOINT": bad})
		if err := (&s3{}).place(&opt); err == nil {
			t.Errorf("%q: no error", bad)
		}
	}
}

// A bucket in another region is found there.
func TestS3Elsewhere(t *testing.T) {
	s := &s3{bucket: "b", key: "k", region: "us-east-1"}
	u := s.url()
	u.RawQuery = "versionId=1"
	resp := &http.Response{Header: http.Header{"X-Amz-Bucket-Region": {"eu-west-2"}}}
	if !s.elsewhere(resp, u) || u.String() != "https://b.s3.eu-west-2.amazonaws.com/k?versionId=1" || s.elsewhere(resp, u) {
		t.Errorf("url = %s", u)
	}
}

// faultyStore is S3 that answers with a status, as often as asked, and then
// works.
func faultyStore(t *testing.T, status, times int, body string, content []byte) (opt Options, asked *atomic.Int32) {
	t.Helper()
	asked = &atomic.Int32{}
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if int(asked.Add(1)) <= times {
			w.WriteHeader(status)
			_, _ = w.Write([]byte(body))
			return
		}
		w.Header().Set("ETag", `"e"`)
		http.ServeContent(&cutWriter{ResponseWriter: w, left: 150_000}, r, "", time.Time{}, bytes.NewReader(content))
	}))
	t.Cleanup(srv.Close)
	return bucketOptions(t, map[string]string{"AWS_ACCESS_KEY_ID": "AKIA", "AWS_SECRET_ACCESS_KEY": "secret", "S3_ENDPOINT": srv.URL}), asked
}

// What a store refuses says who asked and what to check; what may pass is
// tried again; a cut connection is resumed.
func TestStoreFailures(t *testing.T) {
	denied := `<?xml version="1.0"?><Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>`
	content := tarOf(t, tar.Header{Name: "big", Size: 400_000})
	for _, tc := range []struct {
		status, times int
		want          string
		asked         int32
	}{
		{401, 9, "401 Unauthorized (AccessDenied: Access Denied): asked with access key AKIA of the environment: check", 1},
		{403, 9, "it has s3:GetObject (and s3:ListBucket, without which a missing object is forbidden) on s3://b/k in region us-east-1 at S3_ENDPOINT 127.0.0.1:", 1},
		{404, 9, "not found: the server answered 404 Not Found (AccessDenied: Access Denied): asked with access key AKIA of the environment: check that there is s3://b/k", 1},
		{301, 9, "check AWS_REGION", 1},
		{503, 9, "the server answered 503", 4},
		{429, 9, "the server answered 429", 4},
		{503, 1, "", 4}, // and two cuts
	} {
		opt, asked := faultyStore(t, tc.status, tc.times, denied, content)
		c, err := Fetch(t.Context(), "s3://b/k", opt)
		if tc.want == "" {
			if err != nil || c.Revision.Version != "etag:e" {
				t.Errorf("%d: %v", tc.status, err)
			} else {
				_ = c.Close()
			}
		} else if err == nil || !strings.Contains(err.Error(), tc.want) || strings.Contains(err.Error(), "secret") {
			t.Errorf("%d: error = %v, want %q", tc.status, err, tc.want)
		}
		if asked.Load() != tc.asked {
			t.Errorf("%d: asked %d times, want %d", tc.status, asked.Load(), tc.asked)
		}
	}
}

// A server is given the time that it asks for.
func TestRetryAfter(t *testing.T) {
	for header, want := range map[string]time.Duration{"": 0, "3": 3 * time.Second, "-1": 0, "100000": time.Minute, "Mon, 01": 0} {
		if got := retryAfter(&http.Response{Header: http.Header{"Retry-After": {header}}}); got != want {
			t.Errorf("%q: %v", header, got)
		}
	}
}

// Without credentials an object is asked for without, and the refusal says
// where credentials are looked for.
func TestStoreAnonymous(t *testing.T) {
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "" {
			t.Error("credentials out of nowhere")
		}
		w.WriteHeader(http.StatusForbidden)
	}))
	defer srv.Close()
	_, err := Fetch(t.Context(), "s3://b/k", bucketOptions(t, map[string]string{"S3_ENDPOINT": srv.URL, "AWS_EC2_METADATA_DISABLED": "true"}))
	if err == nil || !strings.Contains(err.Error(), "no AWS credentials were found") {
		t.Errorf("error = %v", err)
	}
	u, _ := url.Parse(srv.URL + "/acct/c/b")
	opt := bucketOptions(t, map[string]string{"AZURE_POD_IDENTITY_AUTHORITY_HOST": srv.URL + "/none"})
	opt.applyDefaults()
	if _, err := azureBlob(t.Context(), u, "acct", "", &opt); err == nil || !strings.Contains(err.Error(), "AZURE_STORAGE_ACCESS_KEY environment variable is not set and no Azure identity was found") {
		t.Errorf("error = %v", err)
	}
	for _, bad := range []string{"gs://", "gs:///x", "s3://a@b/c", "s3://b?x/k"} {
		if _, err := Fetch(t.Context(), bad, bucketOptions(t, nil)); err == nil || !strings.Contains(err.Error(), "not a bucket's URL") {
			t.Errorf("%s: %v", bad, err)
		}
	}
}

// Only Azure's own hosts are Azure.
func TestAzureAuthority(t *testing.T) {
	for raw, want := range map[string]bool{
		"https://acct.blob.core.windows.net/c/b": true, "https://ACCT.Blob.core.usgovcloudapi.net/c/b": true, "https://acct.blob.core.chinacloudapi.cn/c": true,
		"https://evil.example/acct.blob.core.windows.net": false, "https://acct.blob.core.windows.net.evil.example/": false,
	} {
		u, _ := url.Parse(raw)
		if got := azureAuthority(u) != ""; got != want {
			t.Errorf("%s: %v", raw, got)
		}
	}
}

// azuriteKey is the published key of the storage emulator's account.
const azuriteKey = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="

// A blob is asked for with the account's key.
func TestAzureSigned(t *testing.T) {
	b := gzipped(t, tarOf(t, tar.Header{Name: "Dockerfile"}))
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("X-Ms-Date") != "Wed, 01 Jul 2026 00:00:00 GMT" || r.Header.Get("X-Ms-Version") == "" {
			t.Errorf("headers = %v", r.Header)
		}
		scheme, signature, _ := strings.Cut(r.Header.Get("Authorization"), ":")
		if raw, err := base64.StdEncoding.DecodeString(signature); scheme != "SharedKey devstoreaccount1" || err != nil || len(raw) != 32 {
			t.Errorf("authorization = %q", r.Header.Get("Authorization"))
		}
		w.Header().Set("ETag", `"0x8"`)
		w.Header().Set("X-Ms-Version-Id", "2026")
		_, _ = w.Write(b)
	}))
	defer srv.Close()
	opt := bucketOptions(t, map[string]string{"AZURE_STORAGE_ACCESS_KEY": azuriteKey})
	opt.Now = func() time.Time { return time.Date(2026, 7, 1, 0, 0, 0, 0, time.UTC) }
	opt.applyDefaults()
	u, _ := url.Parse(srv.URL + "/devstoreaccount1/c/a%20b")
	c, err := azureBlob(t.Context(), u, "devstoreaccount1", "", &opt)
	if err != nil {
		t.Fatal(err)
	}
	if c.Revision.Version != "version:2026" {
		t.Errorf("revision = %+v", c.Revision)
	}
	_ = c.Close()
}

// Azurite accepts what we sign.
func TestAzurite(t *testing.T) {
	program := need.Command(t, "azurite-blob")
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	host := port.Free(t)
	_, number, err := net.SplitHostPort(host)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(ctx, program, "--blobHost", "127.0.0.1", "--blobPort", number, "--location", t.TempDir(), "--disableTelemetry", "--skipApiVersionCheck")
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { cancel(); _ = cmd.Wait() }()
	base := "http://" + host + "/devstoreaccount1/ctx"
	put := func(rawURL, kind string, body []byte) int {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPut, rawURL, bytes.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("X-Ms-Version", "2021-12-02")
		req.Header.Set("X-Ms-Blob-Type", kind)
		signPut(t, req, len(body))
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			return 0
		}
		_ = resp.Body.Close()
		return resp.StatusCode
	}
	status := 0
	for i := 0; status == 0 && i < 300; i++ {
		if status = put(base+"?restype=container", "", nil); status == 0 {
			time.Sleep(100 * time.Millisecond)
		}
	}
	if status != http.StatusCreated {
		t.Fatalf("azurite makes no container: %d", status)
	}
	b := gzipped(t, tarOf(t, tar.Header{Name: "Dockerfile"}))
	if status = put(base+"/a%20b%2Bc.tgz", "BlockBlob", b); status != http.StatusCreated {
		t.Fatalf("put: %d", status)
	}
	for key, want := range map[string]string{azuriteKey: "", base64.StdEncoding.EncodeToString([]byte("wrong")): "asked with AZURE_STORAGE_ACCESS_KEY for account devstoreaccount1: check that the key"} {
		opt := bucketOptions(t, map[string]string{"AZURE_STORAGE_ACCESS_KEY": key})
		opt.applyDefaults()
		u, _ := url.Parse(base + "/a%20b%2Bc.tgz")
		c, err := azureBlob(t.Context(), u, "devstoreaccount1", "", &opt)
		if want != "" {
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("error = %v, want %q", err, want)
			}
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		if !strings.HasPrefix(c.Revision.Version, "etag:") {
			t.Errorf("revision = %+v", c.Revision)
		}
		_ = c.Close()
	}
}

// signPut signs an upload for Azurite, by the text of the protocol.
func signPut(t *testing.T, req *http.Request, length int) {
	t.Helper()
	req.Header.Set("X-Ms-Date", time.Now().UTC().Format(http.TimeFormat))
	size, resource := "", "/devstoreaccount1"+req.URL.EscapedPath()
	if length > 0 {
		size = strconv.Itoa(length)
	}
	if v := req.URL.Query().Get("restype"); v != "" {
		resource += "\nrestype:" + v
	}
	headers := ""
	if kind := req.Header.Get("X-Ms-Blob-Type"); kind != "" {
		headers = "x-ms-blob-type:" + kind + "\n"
	} else {
		req.Header.Del("X-Ms-Blob-Type")
	}
	headers += "x-ms-date:" + req.Header.Get("X-Ms-Date") + "\nx-ms-version:2021-12-02\n"
	text := "PUT\n\n\n" + size + "\n\n\n\n\n\n\n\n\n" + headers + resource
	key, _ := base64.StdEncoding.DecodeString(azuriteKey)
	m := hmac.New(sha256.New, key)
	m.Write([]byte(text))
	req.Header.Set("Authorization", "SharedKey devstoreaccount1:"+base64.StdEncoding.EncodeToString(m.Sum(nil)))
}
