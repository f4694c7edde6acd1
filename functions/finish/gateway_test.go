package finish

import (
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/kilnhook/kiln/events"
)

// TestGateway proves that an executor can say what became of its own build with
// the token of that build, that saying it again changes nothing, and that nobody
// can say anything of another.
func TestGateway(t *testing.T) {
	w := newWorld()
	req, other := w.request(t, 1), w.request(t, 2)
	g := Gateway{Finisher: w.finisher(t), Key: []byte("0123456789abcdef")}
	success, err := json.Marshal(w.success(1))
	if err != nil {
		t.Fatal(err)
	}
	failed := []byte(`{"outcome":"failed","class":"build"}`)
	unknown := events.BuildID("nobody asked for it")
	put := func(method, id, token string, body []byte) int {
		r := httptest.NewRequest(method, GatewayPath+id, strings.NewReader(string(body)))
		if token != "" {
			r.Header.Set("Authorization", "Bearer "+token)
		}
		answer := httptest.NewRecorder()
		g.ServeHTTP(answer, r)
		return answer.Code
	}
	for _, test := range []struct {
		name, method, id, token string
		body                    []byte
		want                    int
	}{
		{"no token", http.MethodPut, req.BuildID, "", success, http.StatusUnauthorized},
		{"the token of another build", http.MethodPut, req.BuildID, g.Token(other.BuildID), success, http.StatusUnauthorized},
		{"not an id", http.MethodPut, "../x", g.Token("../x"), success, http.StatusUnauthorized},
		{"not put", http.MethodPost, req.BuildID, g.Token(req.BuildID), success, http.StatusMethodNotAllowed},
		{"not a result", http.MethodPut, req.BuildID, g.Token(req.BuildID), []byte("no"), http.StatusBadRequest},
		{"too long", http.MethodPut, req.BuildID, g.Token(req.BuildID), []byte(`{"message":"` + strings.Repeat("x", maxResult) + `"}`), http.StatusBadRequest},
		{"unknown build", http.MethodPut, unknown, g.Token(unknown), success, http.StatusNotFound},
		{"success", http.MethodPut, req.BuildID, g.Token(req.BuildID), success, http.StatusNoContent},
		{"again", http.MethodPut, req.BuildID, g.Token(req.BuildID), success, http.StatusNoContent},
		{"changed its mind", http.MethodPut, req.BuildID, g.Token(req.BuildID), failed, http.StatusNoContent},
	} {
		if got := put(test.method, test.id, test.token, test.body); got != test.want {
			t.Errorf("%s: answered %d, want %d", test.name, got, test.want)
		}
	}
	if len(w.published) != 1 || w.published[0].ID() != events.FinishedID(req.BuildID) ||
		w.published[0].Extensions()[events.ExtOutcome] != "success" {
		t.Errorf("published %v", w.published)
	}
	w.Fault = func(string) error { return errors.New("the ledger is away") }
	if got := put(http.MethodPut, other.BuildID, g.Token(other.BuildID), failed); got != http.StatusServiceUnavailable {
		t.Errorf("without a ledger: answered %d", got)
	}
}

// TestGatewayBelievesNoDigest proves that a digest which is not in the registry
// is an error, whoever says it.
func TestGatewayBelievesNoDigest(t *testing.T) {
	w := newWorld()
	req := w.request(t, 1)
	g := Gateway{Finisher: w.finisher(t), Key: []byte("0123456789abcdef")}
	body := `{"outcome":"success","digest":"` + digest(9) + `"}`
	r := httptest.NewRequest(http.MethodPut, GatewayPath+req.BuildID, strings.NewReader(body))
	r.Header.Set("Authorization", "Bearer "+g.Token(req.BuildID))
	answer := httptest.NewRecorder()
	g.ServeHTTP(answer, r)
	if answer.Code != http.StatusNoContent || len(w.published) != 1 || w.published[0].Extensions()[events.ExtOutcome] != "error" {
		t.Errorf("answered %d and published %v", answer.Code, w.published)
	}
}
