package finish

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"net/http"
	"strings"

	"github.com/kilnhook/kiln/events"
)

// GatewayPath is where executors put results: PUT GatewayPath + build id.
const GatewayPath = "/v1/results/"

// maxResult is the size of a result in bytes; a cleaned one is far smaller.
const maxResult = 1 << 20

// Gateway takes results from executors that nobody watches, such as those that a
// JobSink starts. Each proves by a token that it is the one of its build; the
// result is verified and claimed like any other.
type Gateway struct {
	Finisher *Finisher
	Key      []byte // from which the tokens are made; at least 16 bytes
}

// Token is what the executor of a build shows. It lets it say what became of that
// build, once, and nothing else.
func (g Gateway) Token(buildID string) string {
	mac := hmac.New(sha256.New, g.Key)
	_, _ = io.WriteString(mac, "result/v1\n"+buildID) // a hash never fails
	return base64.RawURLEncoding.EncodeToString(mac.Sum(nil))
}

// ServeHTTP answers 204 when the build has an outcome, 401 for a wrong token, 400
// for what is no result, 404 for a build that nobody requested, and 503 when the
// result should be put again.
func (g Gateway) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	id, ok := strings.CutPrefix(r.URL.Path, GatewayPath)
	if r.Method != http.MethodPut {
		w.Header().Set("Allow", http.MethodPut)
		http.Error(w, "a result is put", http.StatusMethodNotAllowed)
		return
	}
	token, bearer := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	if !ok || !bearer || !events.IsBuildID(id) || !hmac.Equal([]byte(token), []byte(g.Token(id))) {
		w.Header().Set("WWW-Authenticate", "Bearer")
		http.Error(w, "this is not the token of the build", http.StatusUnauthorized)
		return
	}
	var res events.Result
	if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxResult)).Decode(&res); err != nil {
		http.Error(w, "the body is no result: "+err.Error(), http.StatusBadRequest)
		return
	}
	switch _, err := g.Finisher.Finish(r.Context(), id, res); {
	case errors.Is(err, fs.ErrNotExist):
		http.Error(w, "no such build was requested", http.StatusNotFound)
	case err != nil:
		g.Finisher.cfg.Log.Warn("finish build", "build", id, "err", err)
		w.Header().Set("Retry-After", "5")
		http.Error(w, "the result could not be taken now; put it again", http.StatusServiceUnavailable)
	default:
		w.WriteHeader(http.StatusNoContent)
	}
}
