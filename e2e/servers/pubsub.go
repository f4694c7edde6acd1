package servers

import (
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/kilnhook/kiln/e2e/port"

	"github.com/kilnhook/kiln/e2e/internal/process"
	"github.com/kilnhook/kiln/e2e/need"
)

// emulatorVariable names the emulator's program where it is in none of the
// places that Google's packages put it.
const emulatorVariable = "KILN_PUBSUB_EMULATOR"

// emulatorPlaces are where Google's package google-cloud-cli-pubsub-emulator and
// its installer put the emulator, below the directory of the tools.
func emulatorPlaces() []string {
	home, _ := os.UserHomeDir()
	return []string{
		"/usr/lib/google-cloud-sdk", "/usr/share/google-cloud-sdk", "/opt/google-cloud-sdk",
		filepath.Join(home, "google-cloud-sdk"),
	}
}

// PubSub runs Google's emulator of Pub/Sub, which needs Java, and returns its
// address: "127.0.0.1:PORT", gRPC and REST without TLS.
func PubSub(t testing.TB) (address string) {
	t.Helper()
	need.Command(t, "java")
	path := os.Getenv(emulatorVariable)
	for _, dir := range emulatorPlaces() {
		candidate := filepath.Join(dir, "platform", "pubsub-emulator", "bin", "cloud-pubsub-emulator")
		if _, err := os.Stat(candidate); path == "" && err == nil {
			path = candidate
		}
	}
	if path == "" {
		need.Missing(t, "Google's Pub/Sub emulator (package google-cloud-cli-pubsub-emulator of Google's apt source; or name the program in "+emulatorVariable+")")
	}
	address = port.Free(t)
	host, port := split(t, address)
	cmd := exec.Command(path, "--host="+host, "--port="+port)
	cmd.Env = []string{"HOME=" + t.TempDir(), "PATH=" + os.Getenv("PATH"), "TMPDIR=" + t.TempDir(), "JAVA_OPTS=-Xmx256m"}
	server, err := process.Start("Pub/Sub emulator", cmd, false, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	stopAtEnd(t, server)
	await(t, server, "http://"+address+"/")
	return address
}

func split(t testing.TB, address string) (host, port string) {
	t.Helper()
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		t.Fatal(err)
	}
	return host, port
}
