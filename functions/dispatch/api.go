package dispatch

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"strings"

	"github.com/kilnhook/kiln/events"
	"github.com/kilnhook/kiln/events/source"
)

// APIPrefix begins the paths of API.
const APIPrefix = "/v1/"

// maxAPIBody is the largest request of the API, in bytes.
const maxAPIBody = 64 << 10

// API returns what people and programs ask of the dispatcher, for those who
// have a token, if there are tokens:
//
//	POST   /v1/builds                  builds a ref or an object: {"repo","ref","commit"} or {"bucket","object","generation"};
//	                                   "trigger" limits it to one. Asking twice is asking once.
//	GET    /v1/builds                  lists builds, newest first: ?limit= from ?after= on, those only whose ?state=,
//	                                   ?outcome=, ?trigger=, ?tenant=, ?image=, ?name= (a ref or an object) and
//	                                   ?revision= are the ones given
//	GET    /v1/builds/{id}             one build; the beginning of its id is enough
//	GET    /v1/builds/{id}/log         its log: see Config.ServeLog
//	POST   /v1/builds/{id}/rebuild     builds once more; the header Idempotency-Key makes repetitions one
//	POST   /v1/builds/{id}/cancel      cancels: {"reason"}
//	GET    /v1/deadletters             lists what could not be understood: ?after= ?limit=
//	POST   /v1/deadletters/{key}       reads one again
//	DELETE /v1/deadletters/{key}       removes one
//
// Answers are JSON: builds as the doors give them, or {"error"}.
func (d *Dispatcher) API() http.Handler {
	mux := http.NewServeMux()
	for pattern, h := range map[string]func(*http.Request, []byte) (any, error){
		"POST /v1/builds":                     d.apiBuild,
		"GET /v1/builds":                      d.apiList,
		"GET /v1/builds/{id}":                 d.apiDescribe,
		"POST /v1/builds/{id}/rebuild":        d.apiRebuild,
		"POST /v1/builds/{id}/cancel":         d.apiCancel,
		"GET /v1/deadletters":                 d.apiDeadLetters,
		"POST /v1/deadletters/{day}/{name}":   d.apiReplay,
		"DELETE /v1/deadletters/{day}/{name}": d.apiForget,
	} {
		mux.Handle(pattern, d.endpoint(h))
	}
	mux.HandleFunc(LogPattern, d.apiLog)
	return mux
}

// LogPattern is where API serves logs. Such a request lasts as long as its build.
const LogPattern = "GET /v1/builds/{id}/log"

// admitted answers a request that is not let in.
func (d *Dispatcher) admitted(w http.ResponseWriter, r *http.Request) bool {
	err := d.admit(r.Context(), r.Header)
	switch {
	case err == nil:
		return true
	case errors.Is(err, source.ErrUnauthorised):
		w.Header().Set("WWW-Authenticate", "Bearer")
		reply(w, http.StatusUnauthorized, answer{Error: err.Error()})
	default:
		d.answerFailed(w, r.URL.Path, err)
	}
	return false
}

// apiLog passes a request for a log on to who keeps it.
func (d *Dispatcher) apiLog(w http.ResponseWriter, r *http.Request) {
	if !d.admitted(w, r) {
		return
	}
	b, err := d.Describe(r.Context(), r.PathValue("id"))
	if err == nil && d.cfg.ServeLog == nil {
		err = fmt.Errorf("no logs are kept here: %w", fs.ErrNotExist)
	}
	if err != nil {
		d.answerAPIError(w, r.URL.Path, err)
		return
	}
	d.cfg.ServeLog(w, r, b.ID)
}

// endpoint checks the token and reads the body of a request, and answers it.
func (d *Dispatcher) endpoint(do func(*http.Request, []byte) (any, error)) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !d.admitted(w, r) {
			return
		}
		body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxAPIBody))
		if err != nil {
			d.answerUnread(w, err)
			return
		}
		v, err := do(r, body)
		if err != nil {
			d.answerAPIError(w, r.URL.Path, err)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		w.Header().Set("Cache-Control", "no-store")
		_ = json.NewEncoder(w).Encode(v) // the client has gone
	})
}

func (d *Dispatcher) answerAPIError(w http.ResponseWriter, path string, err error) {
	// Whoever asked knows that it was a request, and that something is not there.
	said := strings.TrimSuffix(err.Error(), ": "+fs.ErrNotExist.Error())
	malformed, ok := errors.AsType[*source.MalformedError](err)
	if ok && malformed.What == "request" {
		said = malformed.Err.Error()
	}
	text := answer{Error: events.CleanText(said, events.MaxMessage)}
	_, unasked := errors.AsType[*unaskedError](err)
	switch {
	case ok:
		reply(w, http.StatusBadRequest, text)
	case unasked:
		d.cfg.Log.Warn("ask where a ref is", "err", err)
		reply(w, http.StatusBadGateway, text)
	case errors.Is(err, fs.ErrNotExist):
		reply(w, http.StatusNotFound, text)
	case errors.Is(err, ErrFinished), errors.Is(err, ErrOutdated):
		reply(w, http.StatusConflict, text)
	default:
		d.answerFailed(w, path, err)
	}
}

// buildRequest is what is asked to be built.
type buildRequest struct {
	Trigger    string `json:"trigger"`
	Repo       string `json:"repo"`
	Ref        string `json:"ref"`
	Commit     string `json:"commit"`
	Bucket     string `json:"bucket"`
	Object     string `json:"object"`
	Generation string `json:"generation"`
}

// decode reads JSON in which only known fields may be.
func decode(body []byte, v any) error {
	if len(body) == 0 {
		return nil
	}
	dec := json.NewDecoder(strings.NewReader(string(body)))
	dec.DisallowUnknownFields()
	if err := dec.Decode(v); err != nil {
		return source.Malformed("request", "%w", err)
	}
	return nil
}

func (d *Dispatcher) apiBuild(r *http.Request, body []byte) (any, error) {
	var req buildRequest
	if err := decode(body, &req); err != nil {
		return nil, err
	}
	c, err := d.asked(r.Context(), req)
	if err != nil {
		return nil, err
	}
	decisions, err := d.handle(r.Context(), c, delivery{
		traceParent: traceParent(r.Header), trigger: req.Trigger, priority: events.PriorityInteractive,
	})
	if err != nil {
		return nil, err
	}
	a := answer{Builds: decisions}
	if len(decisions) == 0 {
		a.Ignored = "no trigger matches"
	}
	return a, nil
}

// unaskedError is why a repository could not be asked where a ref is. Whoever may ask
// for builds is told, unlike a forge.
type unaskedError struct{ error }

func (e *unaskedError) Unwrap() error { return e.error }

// asked makes a change of what is asked to be built.
func (d *Dispatcher) asked(ctx context.Context, req buildRequest) (events.Change, error) {
	malformed := func(format string, args ...any) (events.Change, error) {
		return events.Change{}, source.Malformed("request", format, args...)
	}
	if req.Object != "" && req.Repo == "" {
		c := events.Change{
			Kind: events.KindObject, Location: strings.TrimSuffix(req.Bucket, "/"), Name: req.Object, Generation: req.Generation,
			Delivery: "api", Time: d.cfg.Now().UTC(),
		}
		if err := c.Validate(); err != nil {
			return malformed("%w", err)
		}
		return c, nil
	}
	if req.Repo == "" || req.Ref == "" {
		return malformed(`it says neither "repo" and "ref" nor "bucket", "object" and "generation"`)
	}
	location, err := events.RepoLocation(req.Repo)
	if err != nil {
		return malformed("%w", err)
	}
	c := events.Change{
		Kind: events.KindGit, Location: location, Name: req.Ref, After: strings.ToLower(req.Commit),
		Delivery: "api", Time: d.cfg.Now().UTC(),
	}
	if !strings.HasPrefix(c.Name, "refs/") {
		c.Name = "refs/heads/" + c.Name
	}
	if c.After == "" {
		// Only repositories that somebody configured are asked.
		c.Before, c.After = source.ZeroID(""), strings.Repeat("1", 40)
		if err := c.Validate(); err != nil {
			return malformed("%w", err)
		}
		if len(d.cfg.Triggers.Match(c)) == 0 {
			return malformed("no trigger listens to %s of %s", c.Name, c.Location)
		}
		if d.cfg.ResolveRef == nil {
			return malformed(`nobody here can ask the repository where the ref is: say "commit"`)
		}
		if c.After, err = d.cfg.ResolveRef(ctx, c); err != nil {
			return events.Change{}, &unaskedError{err}
		}
		if c.After == "" {
			return events.Change{}, fmt.Errorf("%s has no %s: %w", c.Location, c.Name, fs.ErrNotExist)
		}
	}
	c.Before = source.ZeroID(c.After)
	if err := c.Validate(); err != nil {
		return malformed("%w", err)
	}
	return c, nil
}

func (d *Dispatcher) apiRebuild(r *http.Request, _ []byte) (any, error) {
	key := r.Header.Get("Idempotency-Key")
	if key == "" {
		key = rand.Text()
	}
	decision, err := d.Rebuild(r.Context(), r.PathValue("id"), "request "+events.CleanText(key, 100))
	if err != nil {
		return nil, err
	}
	if decision.Status == StatusIgnored {
		return answer{Builds: []Decision{decision}, Ignored: decision.Reason}, nil
	}
	return answer{Builds: []Decision{decision}}, nil
}

func (d *Dispatcher) apiCancel(r *http.Request, body []byte) (any, error) {
	var req struct {
		Reason string `json:"reason"`
	}
	if err := decode(body, &req); err != nil {
		return nil, err
	}
	if req.Reason == "" {
		req.Reason = "cancelled by a person"
	}
	id := r.PathValue("id")
	if err := d.Cancel(context.WithoutCancel(r.Context()), id, events.CleanText(req.Reason, events.MaxReason)); err != nil {
		return nil, err
	}
	return map[string]string{"cancelled": id}, nil
}

// deadLetters is a page of them.
type deadLetters struct {
	DeadLetters []DeadLetter `json:"deadLetters"`
	Next        string       `json:"next,omitempty"` // for ?after=; empty if that was all
}

func (d *Dispatcher) apiDeadLetters(r *http.Request, _ []byte) (any, error) {
	limit, err := limitOf(r.URL.Query(), listLimit)
	if err != nil {
		return nil, err
	}
	letters, err := d.DeadLetters(r.Context(), r.URL.Query().Get("after"), limit)
	if err != nil {
		return nil, err
	}
	page := deadLetters{DeadLetters: letters}
	if len(letters) == limit {
		page.Next = letters[len(letters)-1].Key
	}
	return page, nil
}

func deadLetterKey(r *http.Request) string {
	return "poison/" + r.PathValue("day") + "/" + r.PathValue("name")
}

func (d *Dispatcher) apiReplay(r *http.Request, _ []byte) (any, error) {
	decisions, err := d.Replay(r.Context(), deadLetterKey(r))
	if err != nil {
		return nil, err
	}
	return answer{Builds: decisions}, nil
}

func (d *Dispatcher) apiForget(r *http.Request, _ []byte) (any, error) {
	key := deadLetterKey(r)
	if err := d.Forget(r.Context(), key); err != nil {
		return nil, err
	}
	return map[string]string{"forgotten": key}, nil
}
