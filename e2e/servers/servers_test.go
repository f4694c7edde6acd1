package servers

import (
	"io"
	"net/http"
	"strings"
	"testing"
)

// Each server answers as what it stands for.
func TestServers(t *testing.T) {
	get := func(url string) (int, string) {
		t.Helper()
		resp, err := http.Get(url)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		body, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		return resp.StatusCode, string(body)
	}
	t.Run("CloudStorage", func(t *testing.T) {
		status, body := get("http://" + CloudStorage(t, CloudStorageOptions{}) + "/storage/v1/b?project=p")
		if status != http.StatusOK || !strings.Contains(body, "storage#buckets") {
			t.Errorf("%d: %s", status, body)
		}
	})
	t.Run("Versity", func(t *testing.T) {
		status, body := get(Versity(t, VersityOptions{}).URL + "/")
		if status != http.StatusForbidden || !strings.Contains(body, "AccessDenied") {
			t.Errorf("%d: %s", status, body)
		}
	})
	t.Run("PubSub", func(t *testing.T) {
		status, body := get("http://" + PubSub(t) + "/v1/projects/p/topics")
		if status != http.StatusOK || strings.Join(strings.Fields(body), "") != "{}" {
			t.Errorf("%d: %s", status, body)
		}
	})
}
