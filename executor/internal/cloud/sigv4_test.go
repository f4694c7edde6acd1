package cloud

import (
	"net/http"
	"strings"
	"testing"
	"time"
)

// The signatures are those of the examples in Amazon's documentation of S3
// ("Authenticating Requests: Using the Authorization Header").
func TestSignAWS(t *testing.T) {
	key := AWSKey{ID: "AKIAIOSFODNN7EXAMPLE", Secret: "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"}
	now := time.Date(2013, 5, 24, 0, 0, 0, 0, time.UTC)
	for _, tc := range []struct{ url, ranged, names, signature string }{
		{"https://examplebucket.s3.amazonaws.com/test.txt", "bytes=0-9", "host;range;x-amz-content-sha256;x-amz-date", "f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41"},
		{"https://examplebucket.s3.amazonaws.com/?lifecycle", "", "host;x-amz-content-sha256;x-amz-date", "fea454ca298b7da1c68078a5d1bdbfbbe0d65c699e0f91ac7a200a0136783543"},
		{"https://examplebucket.s3.amazonaws.com?prefix=J&max-keys=2", "", "host;x-amz-content-sha256;x-amz-date", "34b48302e7b5fa45bde8084f4b7868a86f0a534bc59db6670ed5711ef69dc6f7"},
	} {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, tc.url, http.NoBody)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("User-Agent", "not signed")
		if tc.ranged != "" {
			req.Header.Set("Range", tc.ranged)
		}
		SignAWS(req, key, "s3", "us-east-1", now)
		want := "AWS4-HMAC-SHA256 Credential=AKIAIOSFODNN7EXAMPLE/20130524/us-east-1/s3/aws4_request,SignedHeaders=" + tc.names + ",Signature=" + tc.signature
		if got := req.Header.Get("Authorization"); got != want {
			t.Errorf("%s:\n got %s\nwant %s", tc.url, got, want)
		}
	}
}

// A temporary key's session token is sent and signed.
func TestSignAWSSession(t *testing.T) {
	req, _ := http.NewRequestWithContext(t.Context(), http.MethodGet, "https://b.s3.amazonaws.com/k", http.NoBody)
	SignAWS(req, AWSKey{ID: "a", Secret: "b", Session: "s"}, "s3", "eu-west-1", time.Unix(0, 0))
	if req.Header.Get("X-Amz-Security-Token") != "s" || !strings.Contains(req.Header.Get("Authorization"), "x-amz-security-token") {
		t.Errorf("headers = %v", req.Header)
	}
}

// Names of objects are escaped byte by byte.
func TestEscapeAWS(t *testing.T) {
	if got := EscapeAWS("a b+c/é~%#?", false); got != "a%20b%2Bc/%C3%A9~%25%23%3F" {
		t.Error(got)
	}
	if got := EscapeAWS("a/b", true); got != "a%2Fb" {
		t.Error(got)
	}
}

// FuzzIni finds panics of the parser of shared files.
func FuzzIni(f *testing.F) {
	f.Add([]byte("[default]\naws_access_key_id = x # y\n[profile p]\ns3 =\n  nested = 1\n"))
	f.Fuzz(func(_ *testing.T, raw []byte) { iniSections(raw) })
}
