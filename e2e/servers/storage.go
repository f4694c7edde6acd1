package servers

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/kilnhook/kiln/e2e/port"

	"github.com/kilnhook/kiln/e2e/internal/process"
)

// CloudStorageOptions says how Cloud Storage's stand-in runs.
type CloudStorageOptions struct {
	PubSub string // host:port of the Pub/Sub that notifications go to; empty for none
	Host   string // name that it stands behind, with TLS; its address if empty
}

// CloudStorage runs fake-gcs-server, which has no credentials, on a directory of
// its own, and returns its address: "127.0.0.1:PORT", plain HTTP.
func CloudStorage(t testing.TB, o CloudStorageOptions) (address string) {
	t.Helper()
	path := program(t, "fakegcs")
	address = port.Free(t)
	host, port := split(t, address)
	public, external := address, "http://"+address
	if o.Host != "" {
		public, external = o.Host, "https://"+o.Host
	}
	cmd := exec.Command(path, "-scheme", "http", "-host", host, "-port", port,
		"-backend", "filesystem", "-filesystem-root", t.TempDir(),
		"-public-host", public, "-external-url", external)
	cmd.Env = []string{"HOME=" + t.TempDir(), "TMPDIR=" + t.TempDir()}
	if o.PubSub != "" {
		cmd.Env = append(cmd.Env, "PUBSUB_EMULATOR_HOST="+o.PubSub)
	}
	server, err := process.Start("fake-gcs-server", cmd, false, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	stopAtEnd(t, server)
	await(t, server, "http://"+address+"/storage/v1/b?project=p")
	return address
}

// S3 is where a server for S3 is and who may use it.
type S3 struct {
	URL       string // "http://127.0.0.1:PORT", for paths that begin with the bucket
	AccessKey string
	SecretKey string
	Region    string
}

// VersityOptions says how the gateway runs.
type VersityOptions struct {
	Webhook string // URL that every event of every bucket is posted to; empty for none
}

// Versity runs the Versity S3 gateway on a directory of its own.
func Versity(t testing.TB, o VersityOptions) S3 {
	t.Helper()
	path := program(t, "versitygw")
	address := port.Free(t)
	dir := t.TempDir()
	args := []string{"--access", "vgw", "--secret", "vgwsecret", "--region", "us-east-1", "--port", address}
	if o.Webhook != "" {
		args = append(args, "--event-webhook-url", o.Webhook)
	}
	data, versions := filepath.Join(dir, "data"), filepath.Join(dir, "versions")
	for _, d := range []string{data, versions} {
		if err := os.Mkdir(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	cmd := exec.Command(path, append(args, "posix", "--versioning-dir", versions, data)...)
	cmd.Env = []string{"HOME=" + dir, "TMPDIR=" + dir}
	server, err := process.Start("versitygw", cmd, false, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	stopAtEnd(t, server)
	await(t, server, "http://"+address+"/")
	return S3{URL: "http://" + address, AccessKey: "vgw", SecretKey: "vgwsecret", Region: "us-east-1"}
}
