package dispatch

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"

	"github.com/kilnhook/kiln/events"
	"github.com/kilnhook/kiln/events/source"
	"github.com/kilnhook/kiln/events/source/pubsub"
)

// MaxBody is the largest request that is read, in bytes: what GitHub sends at
// most.
const MaxBody = 25 << 20

// retrySeconds is how long a sender is asked to wait when something is down.
const retrySeconds = 10

// Handler returns the doors through which changes come:
//
//	POST /hooks/github     webhooks of GitHub, signed
//	POST /hooks/gitlab     hooks of GitLab, signed or with a token
//	POST /hooks/gitea      webhooks of Gitea and Forgejo, signed
//	POST /hooks/bitbucket  webhooks of Bitbucket Cloud and Data Center, signed
//	POST /hooks/git        post-receive of a plain repository
//	POST /hooks/s3         notifications of S3 and MinIO, of SNS and EventBridge
//	POST /hooks/registry   notifications of registries: a tag was pushed
//	POST /events/in        CloudEvents: source.changed, objects of Cloud Storage and Azure,
//	                       pushes from Knative's sources, CDEvents; Pub/Sub push of the same
//	                       and of Artifact Registry
//	OPTIONS /events/in     the question of Azure Event Grid whether it may send
//	     /v1/              what people and programs ask: see API
//
// The answers are those that webhooks, Pub/Sub and Knative understand alike:
// 202 when every build is durably accepted, with their ids as JSON; 200 when
// there is nothing to build, with the reason; 400 for what no repetition can
// mend, except from Pub/Sub, which would repeat it and is told 200; 401 for a
// wrong signature or token; 413 for too much; 429 and 503, with Retry-After,
// when the same request should come again. Knative, which asks with "Prefer: reply",
// takes no success with a body that is no event, so its successes have none.
func (d *Dispatcher) Handler() http.Handler {
	mux := http.NewServeMux()
	guarded := map[string]bool{}
	for _, path := range guardedDoors() {
		guarded[path] = true
	}
	for path, parse := range d.doors() {
		if guarded[path] {
			mux.Handle("POST "+path, withoutReply(d.guarded(path, parse)))
			continue
		}
		mux.Handle("POST "+path, withoutReply(d.door(path, parse)))
	}
	mux.HandleFunc("OPTIONS "+DoorEvents, handshake)
	mux.Handle(APIPrefix, d.API())
	return mux
}

// guarded is a door for those who are known by a token or an identity, if anybody
// is. Who is not is answered before anything is read.
func (d *Dispatcher) guarded(name string, parse parser) http.Handler {
	door := d.door(name, parse)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch err := d.admit(r.Context(), r.Header); {
		case errors.Is(err, source.ErrUnauthorised):
			d.answerRefused(w, r, name, nil, err)
		case err != nil:
			d.answerFailed(w, name, err)
		default:
			door.ServeHTTP(w, r)
		}
	})
}

// admit decides by a request's header whether it is let in.
func (d *Dispatcher) admit(ctx context.Context, h http.Header) error {
	if len(d.cfg.Tokens) == 0 && d.cfg.Identity == nil {
		return nil
	}
	if err := source.VerifyBearer(d.cfg.Tokens, h); err == nil || d.cfg.Identity == nil {
		return err
	}
	return d.cfg.Identity(ctx, h)
}

// answer is the JSON that a sender gets.
type answer struct {
	Builds  []Decision `json:"builds,omitempty"`
	Ignored string     `json:"ignored,omitempty"`
	Error   string     `json:"error,omitempty"`
}

// door reads a request, handles the changes in it, and answers.
func (d *Dispatcher) door(name string, parse parser) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		select {
		case d.inFlight <- struct{}{}:
			defer func() { <-d.inFlight }()
		default:
			w.Header().Set("Retry-After", strconv.Itoa(retrySeconds))
			reply(w, http.StatusTooManyRequests, answer{Error: "too many requests at once; send this again later"})
			return
		}
		body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, MaxBody))
		if err != nil {
			d.answerUnread(w, err)
			return
		}
		changes, err := parse(r.Header, body)
		if err != nil {
			d.answerRefused(w, r, name, body, err)
			return
		}
		var decisions []Decision
		trace := traceOf(r.Header, body)
		for _, c := range changes {
			some, err := d.handle(r.Context(), c, delivery{traceParent: trace})
			if err != nil {
				d.answerFailed(w, name, err)
				return
			}
			decisions = append(decisions, some...)
		}
		answerDecisions(w, decisions)
	})
}

// answerUnread answers a request whose body could not be read.
func (d *Dispatcher) answerUnread(w http.ResponseWriter, err error) {
	var tooLarge *http.MaxBytesError
	if errors.As(err, &tooLarge) {
		reply(w, http.StatusRequestEntityTooLarge, answer{Error: fmt.Sprintf("request is larger than %d bytes", tooLarge.Limit)})
		return
	}
	reply(w, http.StatusBadRequest, answer{Error: "request could not be read to its end"})
}

// answerRefused answers a request without a change to handle.
func (d *Dispatcher) answerRefused(w http.ResponseWriter, r *http.Request, door string, body []byte, err error) {
	var ignored *source.IgnoredError
	switch {
	case errors.Is(err, source.ErrUnauthorised):
		d.cfg.Log.Warn("request refused", "door", door, "remote", r.RemoteAddr, "err", err)
		w.Header().Set("WWW-Authenticate", "Bearer")
		reply(w, http.StatusUnauthorized, answer{Error: err.Error()})
	case errors.As(err, &ignored):
		if ignored.Notice != "" {
			d.cfg.Log.Warn("request needs an operator", "door", door, "reason", ignored.Reason, "notice", ignored.Notice)
		}
		reply(w, http.StatusOK, answer{Ignored: ignored.Reason})
	default:
		d.answerPoison(w, r, door, body, err)
	}
}

// answerPoison answers a request that cannot be understood, after keeping it
// for people to look at. Pub/Sub repeats whatever is not accepted, so it is
// told that all is well, once that is done.
func (d *Dispatcher) answerPoison(w http.ResponseWriter, r *http.Request, door string, body []byte, err error) {
	reason := events.CleanText(err.Error(), events.MaxMessage)
	keepErr := d.keepPoison(r.Context(), door, r.Header, body, reason)
	if pubsub.IsPush(r.Header, body) {
		if keepErr != nil {
			d.answerFailed(w, door, keepErr)
			return
		}
		reply(w, http.StatusOK, answer{Ignored: reason})
		return
	}
	if keepErr != nil {
		d.cfg.Log.Error("keep unreadable request", "door", door, "err", keepErr)
	}
	reply(w, http.StatusBadRequest, answer{Error: reason})
}

// answerFailed answers a request that should come again. What failed is for
// the log, not for the sender.
func (d *Dispatcher) answerFailed(w http.ResponseWriter, door string, err error) {
	var malformed *source.MalformedError
	if errors.As(err, &malformed) {
		reply(w, http.StatusBadRequest, answer{Error: events.CleanText(err.Error(), events.MaxMessage)})
		return
	}
	d.cfg.Log.Error("handle change", "door", door, "err", err)
	w.Header().Set("Retry-After", strconv.Itoa(retrySeconds))
	if errors.Is(err, ErrQuota) {
		reply(w, http.StatusTooManyRequests, answer{Error: "too many builds now; send this again later"})
		return
	}
	reply(w, http.StatusServiceUnavailable, answer{Error: "the change could not be accepted now; send it again later"})
}

// answerDecisions answers a request that was handled.
func answerDecisions(w http.ResponseWriter, decisions []Decision) {
	a := answer{Builds: decisions}
	if len(decisions) == 0 {
		a.Ignored = "no trigger matches"
	}
	for _, decision := range decisions {
		if decision.Status == StatusNew || decision.Status == StatusDuplicate {
			reply(w, http.StatusAccepted, answer{Builds: decisions})
			return
		}
		a.Ignored = decision.Reason
	}
	reply(w, http.StatusOK, a)
}

func reply(w http.ResponseWriter, status int, a answer) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(a) // the sender has gone; it will come again
}

// traceOf is the W3C trace context of a request or of the message of Pub/Sub in it.
func traceOf(h http.Header, body []byte) string {
	if trace := traceParent(h); trace != "" || !pubsub.IsPush(h, body) {
		return trace
	}
	return traceParent(http.Header{"Traceparent": {pubsub.TraceParent(body)}})
}

// traceParent is the W3C trace context of a request's header, or empty if it has none
// that is well formed.
func traceParent(h http.Header) string {
	for _, name := range []string{"Ce-Traceparent", "Traceparent"} {
		v := h.Get(name)
		parts := strings.Split(v, "-")
		if len(v) == 55 && len(parts) == 4 && len(parts[0]) == 2 && len(parts[1]) == 32 && len(parts[2]) == 16 &&
			strings.Trim(strings.Join(parts, ""), "0123456789abcdef") == "" {
			return v
		}
	}
	return ""
}
