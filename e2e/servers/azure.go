package servers

import (
	"os"
	"os/exec"
	"testing"

	"github.com/kilnhook/kiln/e2e/port"

	"github.com/kilnhook/kiln/e2e/internal/process"
	"github.com/kilnhook/kiln/e2e/need"
)

// Account and key that every Azurite has.
const (
	AzureAccount = "devstoreaccount1"
	AzureKey     = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
)

// Azurite runs the stand-in for Azure's blob storage and returns its address:
// "127.0.0.1:PORT", plain HTTP. It takes the account from the host that it is
// asked by, or, if that is an address, from the path.
func Azurite(t testing.TB) (address string) {
	t.Helper()
	path := need.Command(t, "azurite-blob")
	address = port.Free(t)
	host, port := split(t, address)
	cmd := exec.Command(path, "--blobHost", host, "--blobPort", port, "--location", t.TempDir(), "--disableTelemetry", "--skipApiVersionCheck")
	cmd.Env = []string{"HOME=" + t.TempDir(), "PATH=" + os.Getenv("PATH"), "TMPDIR=" + t.TempDir()}
	server, err := process.Start("azurite", cmd, false, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	stopAtEnd(t, server)
	await(t, server, "http://"+address+"/")
	return address
}

// Distribution returns the path of distribution's registry, newer than Debian's,
// for package registryd.
func Distribution(t testing.TB) (path string) {
	t.Helper()
	return program(t, "distribution")
}
