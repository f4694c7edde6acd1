package dispatch

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/kilnhook/kiln/infra/ledger"
)

// A success for Knative, which asks to be replied to, has no body; what failed says
// why, and others are told what was decided.
func TestReplies(t *testing.T) {
	for name, tc := range map[string]struct {
		prefer  string
		request request
		status  int
		empty   bool
	}{
		"a build":      {"reply", knativeEvent("com.github.push", pushBody(none, "a")), http.StatusAccepted, true},
		"nothing":      {"respond-async, Reply", knativeEvent("dev.knative.source.github.issues", "{}"), http.StatusOK, true},
		"garbage":      {"reply", knativeEvent("com.github.push", "{"), http.StatusBadRequest, false},
		"another door": {"reply", gitHub("push", pushBody(none, "a")), http.StatusAccepted, true},
		"no Knative":   {"", knativeEvent("com.github.push", pushBody(none, "a")), http.StatusAccepted, false},
		"another wish": {"return=minimal", knativeEvent("com.github.push", pushBody(none, "a")), http.StatusAccepted, false},
	} {
		t.Run(name, func(t *testing.T) {
			h := newWorld(new(ledger.Mem)).dispatcher(t).Handler()
			req := httptest.NewRequest(http.MethodPost, tc.request.path, strings.NewReader(tc.request.body))
			for name, value := range tc.request.header {
				req.Header.Set(name, value)
			}
			req.Header.Set("Prefer", tc.prefer)
			rec := httptest.NewRecorder()
			h.ServeHTTP(rec, req)
			if rec.Code != tc.status || rec.Body.Len() == 0 != tc.empty || (rec.Header().Get("Content-Type") == "") != tc.empty {
				t.Errorf("status %d, header %v, body %q", rec.Code, rec.Header(), rec.Body)
			}
		})
	}
}
