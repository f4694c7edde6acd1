package dispatch

import (
	"net/http"
	"strings"
)

// withoutReply serves a request of Knative, which it marks with "Prefer: reply", so that
// a success has no body: a Broker or a channel takes anything in it but an event for a
// failure, and sends the same event again.
func withoutReply(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if prefersReply(r.Header) {
			w = &replyWriter{ResponseWriter: w}
		}
		h.ServeHTTP(w, r)
	})
}

func prefersReply(h http.Header) bool {
	for _, value := range h.Values("Prefer") {
		for preference := range strings.SplitSeq(value, ",") {
			if strings.EqualFold(strings.TrimSpace(preference), "reply") {
				return true
			}
		}
	}
	return false
}

// replyWriter drops the body of a success.
type replyWriter struct {
	http.ResponseWriter
	empty bool
}

// WriteHeader implements http.ResponseWriter.
func (w *replyWriter) WriteHeader(status int) {
	if status/100 == 2 {
		w.empty = true
		w.Header().Del("Content-Type")
	}
	w.ResponseWriter.WriteHeader(status)
}

// Write implements http.ResponseWriter.
func (w *replyWriter) Write(p []byte) (int, error) {
	if w.empty {
		return len(p), nil
	}
	return w.ResponseWriter.Write(p)
}

// Unwrap is for http.ResponseController.
func (w *replyWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }
