package cloud

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"net/http"
	"slices"
	"strings"
	"time"
)

// emptyPayload is the SHA-256 of no bytes, in hex.
const emptyPayload = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"

// SignAWS signs a request that has no body with AWS Signature Version 4. The
// path is signed as it is sent, which is what S3 wants. Headers that are set
// afterwards are not covered.
func SignAWS(req *http.Request, k AWSKey, service, region string, now time.Time) {
	signAWS(req, k, service, region, now, emptyPayload)
}

// signAWS signs a request whose body has the SHA-256 payload, in hex.
func signAWS(req *http.Request, k AWSKey, service, region string, now time.Time, payload string) {
	stamp := now.UTC().Format("20060102T150405Z")
	req.Header.Set("X-Amz-Date", stamp)
	req.Header.Set("X-Amz-Content-Sha256", payload)
	if k.Session != "" {
		req.Header.Set("X-Amz-Security-Token", k.Session)
	}
	names, headers := canonicalHeaders(req)
	canonical := strings.Join([]string{
		req.Method, orSlash(req.URL.EscapedPath()), canonicalQuery(req.URL.RawQuery), headers, names, payload,
	}, "\n")
	sum := sha256.Sum256([]byte(canonical))
	scope := stamp[:8] + "/" + region + "/" + service + "/aws4_request"
	key := []byte("AWS4" + k.Secret)
	for part := range strings.SplitSeq(scope, "/") {
		key = hmacSHA256(key, part)
	}
	signature := hmacSHA256(key, "AWS4-HMAC-SHA256\n"+stamp+"\n"+scope+"\n"+hex.EncodeToString(sum[:]))
	req.Header.Set("Authorization", "AWS4-HMAC-SHA256 Credential="+k.ID+"/"+scope+",SignedHeaders="+names+",Signature="+hex.EncodeToString(signature))
}

func orSlash(path string) string {
	if path == "" {
		return "/"
	}
	return path
}

func hmacSHA256(key []byte, text string) []byte {
	m := hmac.New(sha256.New, key)
	m.Write([]byte(text))
	return m.Sum(nil)
}

// canonicalHeaders returns the names and the lines of the signed headers: all
// but those that proxies and transports may change.
func canonicalHeaders(req *http.Request) (names, lines string) {
	host := req.Host
	if host == "" {
		host = req.URL.Host
	}
	values := map[string]string{"host": host}
	for name, v := range req.Header {
		switch name = strings.ToLower(name); name {
		case "authorization", "user-agent", "accept-encoding", "connection":
		default:
			values[name] = strings.Join(strings.Fields(strings.Join(v, ",")), " ")
		}
	}
	var sorted []string
	for name := range values {
		sorted = append(sorted, name)
	}
	slices.Sort(sorted)
	var b strings.Builder
	for _, name := range sorted {
		b.WriteString(name + ":" + values[name] + "\n")
	}
	return strings.Join(sorted, ";"), b.String()
}

// canonicalQuery sorts a query that is escaped as EscapeAWS does it.
func canonicalQuery(raw string) string {
	if raw == "" {
		return ""
	}
	pairs := strings.Split(raw, "&")
	for i, p := range pairs {
		if !strings.Contains(p, "=") {
			pairs[i] = p + "="
		}
	}
	slices.Sort(pairs)
	return strings.Join(pairs, "&")
}

// EscapeAWS escapes every byte but letters, digits and "-._~", and "/" unless
// it is to be escaped too.
func EscapeAWS(s string, slash bool) string {
	const hexDigits = "0123456789ABCDEF"
	var b strings.Builder
	for i := range len(s) {
		switch c := s[i]; {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9', strings.IndexByte("-._~", c) >= 0, c == '/' && !slash:
			b.WriteByte(c)
		default:
			b.Write([]byte{'%', hexDigits[c>>4], hexDigits[c&15]})
		}
	}
	return b.String()
}
