// Package console is the page that people look at builds with: a list with
// filters and search, one build with its steps, its live log, its layers and what
// changed since the build before, and how the builds of a trigger have gone.
//
// All of it is drawn from the ledger, from what executors say while they work, and
// from images in their registry; nothing is made up. Pages are whole without
// JavaScript. With it a running build is followed, and a long log is scrolled
// through without being loaded whole. Nothing comes from elsewhere, under a policy
// that forbids it, and no text of a build is ever markup.
package console

import (
	"bytes"
	"context"
	"embed"
	"errors"
	"fmt"
	"html/template"
	"io"
	"io/fs"
	"log/slog"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/cloudevents/sdk-go/v2/event"
	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/kilnhook/kiln/events"
)

//go:embed templates/*.html static/*
var files embed.FS // the only form embedding has

// Ledger is the part of a ledger that the console reads.
type Ledger interface {
	Get(ctx context.Context, key string) (data []byte, version string, err error)
	List(ctx context.Context, prefix, after string, limit int) ([]string, error)
}

// Logs reads what executors say, one events.Progress a line. Log emits whole lines
// from a byte offset on, and returns the offset after the last; with follow it
// goes on until the build has ended. The error wraps fs.ErrNotExist if there is no
// log. An error of emit ends it and is wrapped.
type Logs interface {
	Log(ctx context.Context, id string, offset int64, follow bool, emit func(lines []byte) error) (int64, error)
}

// State is where a build that has not ended stands.
type State struct {
	Name     string // "queued", "running", "finishing" or "pending"
	Position int    // in the queue, from 1; 0 if it is not queued
	Attempt  int    // 0 if it is not known
}

// Actions are what people can do to builds. An error that wraps fs.ErrNotExist is
// a build that is not known, any other a refusal whose text they are shown.
type Actions interface {
	Cancel(ctx context.Context, id, reason string) error
	// Rebuild builds again and returns the id of the new build. The same cause is
	// the same build.
	Rebuild(ctx context.Context, id, cause string) (newID string, err error)
}

// Upload is a context that somebody sends through the page.
type Upload struct {
	Name    string // of the app
	Trigger string // the only one to run; empty is every one that matches
	Tag     string // metadata of the object, which a trigger may make a tag of
	Content io.Reader
}

// Config says what the console shows. Ledger, Now and Log are required.
type Config struct {
	Ledger  Ledger
	Logs    Logs                                                             // nil: logs are kept elsewhere
	State   func(ctx context.Context, id string) (State, bool)               // nil: nobody knows
	Actions Actions                                                          // nil: people only look
	Submit  func(ctx context.Context, u Upload) (buildID string, err error)  // nil: there is no form for uploads
	Event   func(ctx context.Context, id string) ([]byte, error)             // the terminal event as it was sent, nil if there is none; nil: made of the ledger again
	Image   func(ctx context.Context, repo, digest string) (v1.Image, error) // for comparisons; nil: there are none
	Doors   []string                                                         // commands that start a build, for the list
	// Tokens let people in; none: whoever reaches the console.
	Tokens []string
	// Hosts are names, besides those of this machine and addresses, under which it
	// is reached if there are no tokens: another site's page must not read it under
	// a name of its own.
	Hosts []string
	// LogsElsewhere says where the log of a build is if Logs is nil; nil: nobody knows.
	LogsElsewhere func(id string) string
	MaxUpload     int64 // bytes; 0 is 1 GiB
	Now           func() time.Time
	Log           *slog.Logger
}

// Console serves the page. It is safe for concurrent use.
type Console struct {
	cfg     Config
	index   *index
	stories *stories
	pages   map[string]*template.Template
	assets  map[string]asset
	notes   chan note
}

// note is that something was told of a build.
type note struct {
	id      string
	started time.Time // zero if that was not told
}

// maxNotes is how many notes wait to be looked into. Beyond them the next refresh
// sees what there is.
const maxNotes = 4096

// New prepares a console. Nothing is read before Run.
func New(cfg Config) (*Console, error) {
	if cfg.Ledger == nil || cfg.Now == nil || cfg.Log == nil {
		return nil, errors.New("open console: Ledger, Now and Log are required")
	}
	if cfg.MaxUpload <= 0 {
		cfg.MaxUpload = 1 << 30
	}
	c := &Console{cfg: cfg, index: newIndex(cfg.Ledger, cfg.Log.Warn), stories: &stories{byID: map[string]*story{}}, notes: make(chan note, maxNotes)}
	if err := c.parse(); err != nil {
		return nil, fmt.Errorf("open console: %w", err)
	}
	return c, nil
}

// refreshEvery is how often the ledger is looked at for what nobody told of.
const refreshEvery = time.Minute

// Run reads the ledger, the newest builds first, and again every now and then,
// until ctx is done. Pages are served meanwhile.
func (c *Console) Run(ctx context.Context) error {
	var following sync.WaitGroup
	defer following.Wait()
	following.Go(func() { c.follow(ctx) })
	ticker := time.NewTicker(refreshEvery)
	defer ticker.Stop()
	for {
		if err := c.index.refresh(ctx); err != nil && ctx.Err() == nil {
			c.cfg.Log.Warn("read builds for the page; trying again later", "err", err)
		}
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// follow looks into what was noted until ctx is done.
func (c *Console) follow(ctx context.Context) {
	for {
		select {
		case n := <-c.notes:
			if err := c.index.note(ctx, n.id, n.started); err != nil && !errors.Is(err, fs.ErrNotExist) && ctx.Err() == nil {
				c.cfg.Log.Warn("read a build for the page", "build", n.id, "err", err)
			}
		case <-ctx.Done():
			return
		}
	}
}

// Note is to be told of every event that is published: the build that it is about
// is read again, soon and by Run. It does not block.
func (c *Console) Note(e event.Event) {
	id, _ := e.Extensions()[events.ExtBuildID].(string)
	if !events.IsBuildID(id) {
		return
	}
	var started time.Time
	if e.Type() == events.TypeBuildStarted {
		started = e.Time()
	}
	select {
	case c.notes <- note{id, started}:
	default: // the next refresh sees it
	}
}

// Handler serves:
//
//	GET  /                      the list: ?trigger= ?outcome= ?ref= ?q= ?after=
//	GET  /builds/{id}           one build; an id may be abbreviated
//	GET  /builds/{id}/log       its log in pages: ?step= ?page=
//	GET  /builds/{id}/lines     lines of a step as JSON: ?step= ?from= ?count=
//	GET  /builds/{id}/stream    server-sent events: how far each step is
//	GET  /builds/{id}/files     which files differ from the build before
//	GET  /builds/{id}/layers/{digest} what is in a layer
//	POST /builds/{id}/cancel, /builds/{id}/rebuild
//	GET  /trends                how the builds of triggers have gone: ?trigger=
//	GET, POST /upload           sends a context
//	GET, POST /login, POST /logout
//	GET  /static/{file}
//
// Who may not see it is shown the form of /login, or told 401.
func (c *Console) Handler() http.Handler {
	mux := http.NewServeMux()
	for pattern, h := range map[string]func(http.ResponseWriter, *http.Request) error{
		"GET /{$}":                         c.serveList,
		"GET /builds/{id}":                 c.serveBuild,
		"GET /builds/{id}/log":             c.serveLog,
		"GET /builds/{id}/lines":           c.serveLines,
		"GET /builds/{id}/stream":          c.serveStream,
		"GET /builds/{id}/files":           c.serveFiles,
		"GET /builds/{id}/layers/{digest}": c.serveLayer,
		"POST /builds/{id}/cancel":         c.serveCancel,
		"POST /builds/{id}/rebuild":        c.serveRebuild,
		"GET /trends":                      c.serveTrends,
		"GET /upload":                      c.serveUploadForm,
		"POST /upload":                     c.serveUpload,
		"/":                                func(http.ResponseWriter, *http.Request) error { return notFound("there is no such page") },
	} {
		mux.Handle(pattern, c.admitted(c.orError(h)))
	}
	mux.Handle("GET /login", c.orError(c.serveLoginForm))
	mux.Handle("POST /login", c.orError(c.serveLogin))
	mux.Handle("POST /logout", c.orError(c.serveLogout))
	mux.HandleFunc("GET /static/{file}", c.serveStatic)
	origin := http.NewCrossOriginProtection()
	origin.SetDenyHandler(c.orError(func(http.ResponseWriter, *http.Request) error {
		return &statusError{http.StatusForbidden, "this request comes from another site's page"}
	}))
	return c.known(origin.Handler(mux))
}

// policy is the Content-Security-Policy of every page.
const policy = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; " +
	"form-action 'self'; base-uri 'none'; frame-ancestors 'none'"

// secure sets the headers that every answer has.
func secure(h http.Header) {
	h.Set("Content-Security-Policy", policy)
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Referrer-Policy", "same-origin")
	h.Set("Cross-Origin-Opener-Policy", "same-origin")
	h.Set("Cross-Origin-Resource-Policy", "same-origin")
	h.Set("Cache-Control", "no-store")
}

// statusError is an answer that is no success.
type statusError struct {
	status int
	text   string
}

func (e *statusError) Error() string { return e.text }

func notFound(text string) error { return &statusError{http.StatusNotFound, text} }

func badRequest(format string, args ...any) error {
	return &statusError{http.StatusBadRequest, fmt.Sprintf(format, args...)}
}

// orError makes a handler of one that returns an error, which is shown as a page.
func (c *Console) orError(h func(http.ResponseWriter, *http.Request) error) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		secure(w.Header())
		err := h(w, r)
		if err == nil || r.Context().Err() != nil {
			return
		}
		status, text := http.StatusInternalServerError, "something went wrong; the log of the server says what"
		var known *statusError
		switch {
		case errors.As(err, &known):
			status, text = known.status, known.text
		case errors.Is(err, fs.ErrNotExist):
			status, text = http.StatusNotFound, strings.TrimSuffix(err.Error(), ": "+fs.ErrNotExist.Error())
		default:
			c.cfg.Log.Error("answer request", "path", r.URL.Path, "err", err)
		}
		data := errorPage{page: c.page(http.StatusText(status), ""), Text: text, Status: status}
		if err := c.render(w, status, "error", data); err != nil {
			c.cfg.Log.Error("show an error", "path", r.URL.Path, "err", err)
		}
	})
}

type errorPage struct {
	page
	Text   string
	Status int
}

// page is what every template gets.
type page struct {
	Title   string
	Here    string // the link of the header that leads here
	Session bool   // one can log out
	Upload  bool   // there is a form for uploads
	Refresh int    // seconds after which a browser without JavaScript loads it again; 0: never
}

func (c *Console) page(title, here string) page {
	return page{Title: title, Here: here, Session: len(c.cfg.Tokens) > 0, Upload: c.cfg.Submit != nil}
}

// render renders first and sends then, so that an error is an error.
func (c *Console) render(w http.ResponseWriter, status int, name string, data any) error {
	var out bytes.Buffer
	if err := c.pages[name].Execute(&out, data); err != nil {
		return fmt.Errorf("render page %s: %w", name, err)
	}
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.WriteHeader(status)
	_, _ = w.Write(out.Bytes()) // the client has gone
	return nil
}

// link is an address with a query, of which empty values are left out.
func link(path string, pairs ...string) string {
	q := url.Values{}
	for i := 0; i+1 < len(pairs); i += 2 {
		if pairs[i+1] != "" {
			q.Set(pairs[i], pairs[i+1])
		}
	}
	if len(q) == 0 {
		return path
	}
	return path + "?" + q.Encode()
}

// isJSON reports whether a request wants data rather than a page.
func isJSON(r *http.Request) bool {
	return strings.HasSuffix(r.URL.Path, "/lines") || strings.HasSuffix(r.URL.Path, "/stream")
}
