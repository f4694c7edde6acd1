package cloud

import (
	"net/http"
	"testing"
	"time"
)

// The key is the published one of the storage emulator's account, and the
// emulator (Azurite 3.35) takes signatures made like this one.
func TestSignAzure(t *testing.T) {
	const key = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://127.0.0.1:10000/devstoreaccount1/ctx/a%20b.tgz?versionid=2026&Comp=x", http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("X-Ms-Version", "2021-12-02")
	req.Header.Set("Range", "bytes=5-")
	req.Header.Set("If-Match", `"0x8"`)
	if err := SignAzure(req, "devstoreaccount1", key, time.Date(2026, 7, 1, 0, 0, 0, 0, time.UTC)); err != nil {
		t.Fatal(err)
	}
	if got := req.Header.Get("Authorization"); got != "SharedKey devstoreaccount1:HuzYz2UrtxW5GCECTsRiTKCme6MJu3M9n5SUW+Wxosw=" {
		t.Errorf("got %s", got)
	}
	if err := SignAzure(req, "a", "not base64!", time.Now()); err == nil {
		t.Error("a key that is not base64 was taken")
	}
}
