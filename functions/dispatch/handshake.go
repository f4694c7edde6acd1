package dispatch

import (
	"net/http"
	"strings"
)

// maxOrigin is the length of the longest name of a host.
const maxOrigin = 253

// handshake answers a sender that asks whether its events are wanted, as the
// Web Hooks specification of CloudEvents says in section 4; Azure Event Grid
// does. Everybody is told yes: what a sender may do is decided by its token,
// with every event. The callback that a sender may offer is not called: the
// answer is given at once.
func handshake(w http.ResponseWriter, r *http.Request) {
	origin := r.Header.Get("WebHook-Request-Origin")
	if !isOrigin(origin) {
		reply(w, http.StatusBadRequest, answer{Error: "header WebHook-Request-Origin is missing or not the name of a host"})
		return
	}
	w.Header().Set("WebHook-Allowed-Origin", origin)
	if r.Header.Get("WebHook-Request-Rate") != "" {
		w.Header().Set("WebHook-Allowed-Rate", "*")
	}
	w.Header().Set("Allow", "OPTIONS, POST")
	w.WriteHeader(http.StatusOK)
}

// isOrigin reports whether s is the name of a host, so that nothing else is
// sent back.
func isOrigin(s string) bool {
	odd := func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && r != '.' && r != '-' && r != ':'
	}
	return s != "" && len(s) <= maxOrigin && !strings.ContainsFunc(s, odd)
}
