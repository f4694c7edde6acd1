package source

import (
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"

	"github.com/kilnhook/kiln/executor/internal/cloud"
)

// Requests carry the token that was found, and a refusal names it and what it
// lacks.
func TestStoreTokens(t *testing.T) {
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Metadata-Flavor", "Google")
		_, _ = w.Write([]byte(`{"access_token":"secret","expires_in":3600}`))
	}))
	defer srv.Close()
	opt := bucketOptions(t, map[string]string{"GCE_METADATA_HOST": strings.TrimPrefix(srv.URL, "http://"), "AZURE_POD_IDENTITY_AUTHORITY_HOST": srv.URL})
	opt.applyDefaults()
	for _, tc := range []struct {
		s    store
		want map[int]string
	}{
		{&gcs{name: "gs://b/o", tokens: cloud.NewGoogle(gcsScope, cloudOptions(&opt))}, map[int]string{
			401: "asked as the service account of this machine or pod (metadata server): its token was refused",
			403: "storage.objects.get (role Storage Object Viewer)",
			404: "Storage Object Viewer) on the bucket, and that gs://b/o exists",
		}},
		{&azure{account: "a", name: "/c/b", tokens: cloud.NewAzure("r", "", cloudOptions(&opt)), now: opt.Now}, map[int]string{
			403: "asked as the managed identity of this machine: check that it has the role Storage Blob Data Reader",
			404: "and that /c/b exists",
		}},
	} {
		req := httptest.NewRequest(http.MethodGet, "https://host/x", nil)
		if err := tc.s.sign(t.Context(), req); err != nil {
			t.Fatal(err)
		}
		if got := req.Header.Get("Authorization"); got != "Bearer secret" {
			t.Errorf("%T: authorization = %q", tc.s, got)
		}
		for status, want := range tc.want {
			if got := tc.s.explain(status); !strings.Contains(got, want) || strings.Contains(got, "secret") {
				t.Errorf("%T: %d: %q, want %q", tc.s, status, got, want)
			}
		}
		if tc.s.elsewhere(&http.Response{}, &url.URL{}) {
			t.Errorf("%T moves", tc.s)
		}
	}
	none := &gcs{name: "gs://b/o", tokens: cloud.NewGoogle(gcsScope, cloud.Options{})}
	if got := none.explain(403); !strings.Contains(got, "no Google credentials were found: set GOOGLE_APPLICATION_CREDENTIALS") {
		t.Error(got)
	}
}

// What a store answers is quoted in short, whatever form it has.
func TestStoreReason(t *testing.T) {
	for body, want := range map[string]string{
		`<Error><Code>NoSuchKey</Code><Message>gone</Message></Error>`: " (NoSuchKey: gone)",
		`{"error":{"code":403,"message":"no access\nmore"}}`:           " (no access)",
		`<html>`: "", "": "",
	} {
		w := httptest.NewRecorder()
		_, _ = w.WriteString(body)
		if got := storeReason(w.Result()); got != want {
			t.Errorf("%q: %q, want %q", body, got, want)
		}
	}
}
