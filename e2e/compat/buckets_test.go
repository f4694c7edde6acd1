package compat

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"io"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"strconv"
	"testing"
	"time"

	"github.com/kilnhook/kiln/e2e/internal/process"
	"github.com/kilnhook/kiln/e2e/need"
	"github.com/kilnhook/kiln/e2e/servers"
)

// archive is a tar of files: a name and its content in turn.
func archive(t *testing.T, files ...string) []byte {
	t.Helper()
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	for i := 0; i+1 < len(files); i += 2 {
		check(t, w.WriteHeader(&tar.Header{Name: files[i], Typeflag: tar.TypeReg, Mode: 0o644, Size: int64(len(files[i+1]))}))
		_, err := io.WriteString(w, files[i+1])
		check(t, err)
	}
	check(t, w.Close())
	return buf.Bytes()
}

func gzipped(t *testing.T, raw []byte) []byte {
	t.Helper()
	var buf bytes.Buffer
	w := gzip.NewWriter(&buf)
	_, err := w.Write(raw)
	check(t, err)
	check(t, w.Close())
	return buf.Bytes()
}

// contextArchive is a context with the file f, compressed by gzip.
func contextArchive(t *testing.T, f string) []byte {
	t.Helper()
	return gzipped(t, archive(t, "Dockerfile", "FROM scratch\nCOPY . /\n", "f", f, "sub/Dockerfile", "FROM scratch\nCOPY Dockerfile /sub\n"))
}

// putGCS stores an object in Google's bucket and returns its generation.
func putGCS(t *testing.T, host, name string, content []byte) {
	t.Helper()
	send(t, http.MethodPost, "http://"+host+"/upload/storage/v1/b/contexts/o?uploadType=media&name="+url.QueryEscape(name), content, nil)
}

// putS3 stores an object in Amazon's bucket with Amazon's own client.
func putS3(t *testing.T, b servers.S3, name string, content []byte) {
	t.Helper()
	file := t.TempDir() + "/object"
	check(t, os.WriteFile(file, content, 0o644))
	awsCommand(t, b, "s3api", "put-object", "--bucket=contexts", "--key="+name, "--body="+file)
}

func awsCommand(t *testing.T, b servers.S3, args ...string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), need.Command(t, "aws"), append([]string{"--endpoint-url=" + b.URL, "--region=" + b.Region}, args...)...)
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + t.TempDir(), "AWS_ACCESS_KEY_ID=" + b.AccessKey, "AWS_SECRET_ACCESS_KEY=" + b.SecretKey}
	out, err := process.Run(t.Context(), cmd, nil)
	check(t, err)
	return string(out)
}

// putAzure stores a blob in Azure's container.
func putAzure(t *testing.T, host, name string, content []byte) {
	t.Helper()
	base := "http://" + host + "/" + servers.AzureAccount + "/contexts"
	sendSigned(t, base+"?restype=container", "", nil, http.StatusCreated, http.StatusConflict)
	sendSigned(t, base+"/"+url.PathEscape(name), "BlockBlob", content, http.StatusCreated)
}

// sendSigned signs an upload with the account's key, after the text of Azure's
// protocol.
func sendSigned(t *testing.T, rawURL, kind string, content []byte, want ...int) {
	t.Helper()
	u, err := url.Parse(rawURL)
	check(t, err)
	header := http.Header{"X-Ms-Date": {time.Now().UTC().Format(http.TimeFormat)}, "X-Ms-Version": {"2021-12-02"}}
	size, headers, resource := "", "", "/"+servers.AzureAccount+u.EscapedPath()
	if len(content) > 0 {
		size = strconv.Itoa(len(content))
	}
	if kind != "" {
		header.Set("X-Ms-Blob-Type", kind)
		headers = "x-ms-blob-type:" + kind + "\n"
	}
	if v := u.Query().Get("restype"); v != "" {
		resource += "\nrestype:" + v
	}
	headers += "x-ms-date:" + header.Get("X-Ms-Date") + "\nx-ms-version:2021-12-02\n"
	key, err := base64.StdEncoding.DecodeString(servers.AzureKey)
	check(t, err)
	m := hmac.New(sha256.New, key)
	m.Write([]byte("PUT\n\n\n" + size + "\n\n\n\n\n\n\n\n\n" + headers + resource))
	header.Set("Authorization", "SharedKey "+servers.AzureAccount+":"+base64.StdEncoding.EncodeToString(m.Sum(nil)))
	send(t, http.MethodPut, rawURL, content, header, want...)
}

// send makes a request whose answer must be one of the wanted, or 200.
func send(t *testing.T, method, rawURL string, content []byte, header http.Header, want ...int) string {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, rawURL, bytes.NewReader(content))
	check(t, err)
	for k, v := range header {
		req.Header[k] = v
	}
	resp, err := http.DefaultClient.Do(req)
	check(t, err)
	defer resp.Body.Close()
	raw, err := io.ReadAll(resp.Body)
	check(t, err)
	for _, w := range append(want, http.StatusOK) {
		if resp.StatusCode == w {
			return string(raw)
		}
	}
	t.Fatalf("%s %s: %s: %s", method, rawURL, resp.Status, raw)
	return ""
}
