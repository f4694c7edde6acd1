package dispatch

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/kilnhook/kiln/infra/ledger"
)

// Event Grid asks before it sends. Only a name of a host is sent back, and a
// door that nobody asks at refuses.
func TestHandshake(t *testing.T) {
	for name, tc := range map[string]struct {
		path, origin, rate string
		status             int
		allowed            string
	}{
		"event grid":  {"/events/in", "eventgrid.azure.net", "120", 200, "*"},
		"no rate":     {"/events/in", "eventgrid.azure.net", "", 200, ""},
		"no origin":   {"/events/in", "", "120", 400, ""},
		"markup":      {"/events/in", "<script>", "", 400, ""},
		"long origin": {"/events/in", strings.Repeat("a", maxOrigin+1), "", 400, ""},
		"a forge":     {"/hooks/github", "eventgrid.azure.net", "", 405, ""},
	} {
		w := newWorld(new(ledger.Mem))
		h := w.dispatcher(t, func(c *Config) { c.Tokens = []string{"t0ken"} }).Handler()
		req := httptest.NewRequest(http.MethodOptions, tc.path, nil)
		req.Header.Set("WebHook-Request-Origin", tc.origin)
		req.Header.Set("WebHook-Request-Rate", tc.rate)
		req.Header.Set("WebHook-Request-Callback", "https://rp-eastus.eventgrid.azure.net/validate?id=1")
		rec := httptest.NewRecorder()
		h.ServeHTTP(rec, req)
		want := ""
		if tc.status == 200 {
			want = tc.origin
		}
		got := rec.Header()
		if rec.Code != tc.status || got.Get("WebHook-Allowed-Origin") != want || got.Get("WebHook-Allowed-Rate") != tc.allowed {
			t.Errorf("%s: %d %v", name, rec.Code, got)
		}
		if keys := w.keys(t, ""); len(keys) != 0 {
			t.Errorf("%s: left %v", name, keys)
		}
	}
}
