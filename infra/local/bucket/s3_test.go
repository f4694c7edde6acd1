package bucket

import (
	"bufio"
	"bytes"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"math/rand"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/kilnhook/kiln/e2e/need"
)

// aws runs the AWS command line against the S3 door.
func aws(t *testing.T, url string, args ...string) (string, error) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "aws", append(args, "--endpoint-url", url)...)
	cmd.Env = append(os.Environ(),
		"AWS_ACCESS_KEY_ID=any", "AWS_SECRET_ACCESS_KEY=any", "AWS_DEFAULT_REGION=us-east-1", "AWS_MAX_ATTEMPTS=2",
		"AWS_CONFIG_FILE=/dev/null", "AWS_EC2_METADATA_DISABLED=true", "NO_PROXY=127.0.0.1", "HOME="+t.TempDir())
	out, err := cmd.CombinedOutput()
	return string(out), err
}

func mustAWS(t *testing.T, url string, args ...string) string {
	t.Helper()
	out, err := aws(t, url, args...)
	if err != nil {
		t.Fatalf("aws %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return out
}

// The AWS command line can upload, small and in parts, list, download and
// delete, and each upload is announced once.
func TestAWSCommandLine(t *testing.T) {
	need.Command(t, "aws")
	dir, h := t.TempDir(), &hook{}
	s := open(t, dir, h, 0)
	url := serve(t, s.S3Handler())
	small, big := filepath.Join(t.TempDir(), "ctx.tar.gz"), filepath.Join(t.TempDir(), "big.tar")
	data := make([]byte, 20<<20)
	rand.New(rand.NewSource(7)).Read(data)
	if err := errors.Join(os.WriteFile(small, []byte("small"), 0o600), os.WriteFile(big, data, 0o600)); err != nil {
		t.Fatal(err)
	}
	mustAWS(t, url, "s3", "cp", small, "s3://contexts/app/ctx.tar.gz", "--metadata", "branch=main")
	mustAWS(t, url, "s3", "cp", big, "s3://contexts/app/big.tar")
	var got []string
	for _, c := range h.changes() {
		got = append(got, fmt.Sprintf("%s %s %d %s", c.Location, c.Name, c.Size, c.Metadata["branch"]))
	}
	want := []string{"kiln://contexts app/ctx.tar.gz 5 main", "kiln://contexts app/big.tar 20971520 "}
	if strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("announced %q, want %q", got, want)
	}
	if out := mustAWS(t, url, "s3", "ls", "s3://contexts/app/"); !strings.Contains(out, "ctx.tar.gz") || !strings.Contains(out, "20971520 big.tar") {
		t.Errorf("ls: %s", out)
	}
	if out := mustAWS(t, url, "s3", "ls", "s3://contexts/"); !strings.Contains(out, "PRE app/") {
		t.Errorf("ls: %s", out)
	}
	back := filepath.Join(t.TempDir(), "back")
	mustAWS(t, url, "s3", "cp", "s3://contexts/app/big.tar", back)
	if read, err := os.ReadFile(back); err != nil || !bytes.Equal(read, data) {
		t.Errorf("read back %d bytes, %v", len(read), err)
	}
	if left := files(t, filepath.Join(dir, "uploads")); len(left) != 0 {
		t.Errorf("parts left: %v", left)
	}
	mustAWS(t, url, "s3", "rm", "s3://contexts/app/ctx.tar.gz")
	out := mustAWS(t, url, "s3api", "list-object-versions", "--bucket", "contexts", "--prefix", "app/ctx")
	if !strings.Contains(out, "DeleteMarkers") || !strings.Contains(out, h.changes()[0].Generation) {
		t.Errorf("versions: %s", out)
	}
	mustAWS(t, url, "s3api", "get-object", "--bucket", "contexts", "--key", "app/ctx.tar.gz", "--version-id", h.changes()[0].Generation, back)
	if read, err := os.ReadFile(back); err != nil || string(read) != "small" {
		t.Errorf("old version %q, %v", read, err)
	}
	if out, err := aws(t, url, "s3", "cp", small, "s3://nowhere/x"); err == nil || !strings.Contains(out, "NoSuchBucket") {
		t.Errorf("unknown bucket: %v %s", err, out)
	}
	mustAWS(t, url, "s3", "mb", "s3://other-place")
	mustAWS(t, url, "s3", "cp", "s3://contexts/app/big.tar", "s3://other-place/copy.tar")
	if n := len(h.changes()); n != 3 || h.changes()[2].Location != "kiln://other-place" {
		t.Errorf("%d changes after a copy", n)
	}
}

// A client that repeats an upload after 503, in one piece or in parts, gets
// the generation it had stored.
func TestS3AnnouncementOwed(t *testing.T) {
	need.Command(t, "aws")
	dir, h := t.TempDir(), &hook{err: errors.New("ledger is down")}
	s := open(t, dir, h, 0)
	url := serve(t, s.S3Handler())
	big := filepath.Join(t.TempDir(), "big.tar")
	if err := os.WriteFile(big, bytes.Repeat([]byte("x"), 9<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := aws(t, url, "s3", "cp", big, "s3://contexts/big.tar")
	if err == nil || !strings.Contains(out, "ServiceUnavailable") || !strings.Contains(out, "ledger is down") {
		t.Errorf("%v %s", err, out)
	}
	all, err := s.versions(Contexts, "", false)
	if err != nil || len(all) != 1 {
		t.Errorf("generations: %v %v", all, err)
	}
	h.set(nil)
	if err := s.Sweep(t.Context()); err != nil || len(h.changes()) != 1 {
		t.Errorf("sweep: %v, %v", err, h.changes())
	}
}

// The S3 door answers plain requests with the statuses of S3 and ours.
func TestS3Refuses(t *testing.T) {
	dir, h := t.TempDir(), &hook{}
	s := open(t, dir, h, 10)
	url := serve(t, s.S3Handler())
	for _, tc := range []struct {
		name, path, body string
		header           []string
		status           int
		code             string
	}{
		{"empty", "/contexts/a", "", nil, 400, "InvalidArgument"},
		{"too large", "/contexts/a", "12345678901", nil, 413, "EntityTooLarge"},
		{"wrong md5", "/contexts/a", "x", []string{"Content-MD5", base64.StdEncoding.EncodeToString(make([]byte, 16))}, 400, "BadDigest"},
		{"wrong sha256", "/contexts/a", "x", []string{"X-Amz-Content-Sha256", strings.Repeat("00", 32)}, 400, "BadDigest"},
		{"wrong crc", "/contexts/a", "x", []string{"X-Amz-Checksum-Crc32", "AAAAAA=="}, 400, "BadDigest"},
		{"bad crc", "/contexts/a", "x", []string{"X-Amz-Checksum-Crc32", "A"}, 400, "not base64"},
		{"dots", "/contexts/a/%2e%2e/b", "x", nil, 400, "InvalidArgument"},
		{"no upload", "/contexts/a?partNumber=1&uploadId=../../../x", "x", nil, 404, "NoSuchUpload"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			status, _, body := do(t, "PUT", url+tc.path, strings.NewReader(tc.body), tc.header...)
			if status != tc.status || !strings.Contains(body, tc.code) {
				t.Errorf("%d %s", status, body)
			}
		})
	}
	if got := files(t, dir); len(got) != 0 || len(h.changes()) != 0 {
		t.Errorf("left behind %v, announced %v", got, h.changes())
	}
	// What S3 tools make for a folder is kept and starts nothing.
	if status, _, body := do(t, "PUT", url+"/contexts/folder/", http.NoBody, "Content-Length", "0"); status != 200 || len(h.changes()) != 0 {
		t.Errorf("folder: %d %s %v", status, body, h.changes())
	}
}

// Listing goes page by page through names and common prefixes, each once.
func TestS3Listing(t *testing.T) {
	s := open(t, t.TempDir(), &hook{}, 0)
	for _, name := range []string{"a", "b/1", "b/2", "c", "d/1", "d/2", "e"} {
		if _, err := s.Put(t.Context(), Contexts, name, strings.NewReader("x"), PutOptions{Unsized: true}); err != nil {
			t.Fatal(err)
		}
	}
	url := serve(t, s.S3Handler())
	for _, size := range []int{1, 2, 3, 100} {
		var got []string
		for marker, more := "", true; more; {
			_, _, body := do(t, "GET", fmt.Sprintf("%s/contexts?delimiter=/&max-keys=%d&marker=%s", url, size, marker), nil)
			page := append(between(body, "<Key>", "</Key>"), between(body, "<CommonPrefixes>\n    <Prefix>", "</Prefix>")...)
			got = append(got, page...)
			more = strings.Contains(body, "<IsTruncated>true")
			if next := between(body, "<NextMarker>", "</NextMarker>"); more && len(next) == 1 {
				marker = next[0]
			} else if more {
				t.Fatalf("no marker: %s", body)
			}
			if len(got) > 20 {
				t.Fatalf("pages do not end: %v", got)
			}
		}
		seen := map[string]int{}
		for _, name := range got {
			seen[name]++
		}
		if len(got) != 5 || len(seen) != 5 {
			t.Errorf("pages of %d: %v", size, got)
		}
	}
}

func between(s, from, to string) []string {
	var found []string
	for _, rest := range strings.Split(s, from)[1:] {
		text, _, _ := strings.Cut(rest, to)
		found = append(found, text)
	}
	return found
}

// The framing of aws-chunked uploads is removed, its trailer verified.
func TestChunkedUpload(t *testing.T) {
	crc := make([]byte, 4)
	binary.BigEndian.PutUint32(crc, crc32.ChecksumIEEE([]byte("hello world")))
	good := base64.StdEncoding.EncodeToString(crc)
	for _, tc := range []struct {
		name, kind, body string
		trailer          bool
		status           int
	}{
		{"signed", "STREAMING-AWS4-HMAC-SHA256-PAYLOAD", "5;chunk-signature=aa\r\nhello\r\n6;chunk-signature=bb\r\n world\r\n0;chunk-signature=cc\r\n\r\n", false, 200},
		{"trailer", "STREAMING-UNSIGNED-PAYLOAD-TRAILER", "b\r\nhello world\r\n0\r\nx-amz-checksum-crc32:" + good + "\r\n\r\n", true, 200},
		{"no empty line", "STREAMING-UNSIGNED-PAYLOAD-TRAILER", "b\r\nhello world\r\n0\r\nx-amz-checksum-crc32:" + good + "\r\n", true, 200},
		{"wrong sum", "STREAMING-UNSIGNED-PAYLOAD-TRAILER", "b\r\nhello world\r\n0\r\nx-amz-checksum-crc32:AAAAAA==\r\n\r\n", true, 400},
		{"promised sum missing", "STREAMING-UNSIGNED-PAYLOAD-TRAILER", "b\r\nhello world\r\n0\r\n\r\n", true, 400},
		{"short chunk", "STREAMING-UNSIGNED-PAYLOAD-TRAILER", "b\r\nhello", false, 400},
		{"fewer than announced", "STREAMING-UNSIGNED-PAYLOAD-TRAILER", "5\r\nhello\r\n0\r\n\r\n", false, 400},
		{"not a size", "STREAMING-UNSIGNED-PAYLOAD-TRAILER", "zz\r\nhello world\r\n0\r\n\r\n", false, 400},
	} {
		t.Run(tc.name, func(t *testing.T) {
			h := &hook{}
			s := open(t, t.TempDir(), h, 0)
			url := serve(t, s.S3Handler())
			header := []string{"X-Amz-Content-Sha256", tc.kind, "X-Amz-Decoded-Content-Length", "11", "Content-Encoding", "aws-chunked"}
			if tc.trailer {
				header = append(header, "X-Amz-Trailer", "x-amz-checksum-crc32")
			}
			status, _, body := do(t, "PUT", url+"/contexts/a", strings.NewReader(tc.body), header...)
			if status != tc.status || (status == 200) != (len(h.changes()) == 1) {
				t.Fatalf("%d %s %v", status, body, h.changes())
			}
			if status == 200 {
				if _, _, got := do(t, "GET", url+"/contexts/a", nil); got != "hello world" {
					t.Errorf("stored %q", got)
				}
			}
		})
	}
}

// No framing makes the reader panic, run on or give more than it was sent.
func FuzzChunkReader(f *testing.F) {
	f.Add([]byte("5;chunk-signature=aa\r\nhello\r\n0\r\nx: y\r\n\r\n"))
	f.Add([]byte("ffffffffffffffff\r\n"))
	f.Add([]byte("-1\r\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		c := &chunkReader{in: bufio.NewReader(bytes.NewReader(data)), trailer: func(string, string) error { return nil }}
		n, _ := io.Copy(io.Discard, c)
		if n > int64(len(data)) {
			t.Errorf("%d bytes out of %d", n, len(data))
		}
	})
}
