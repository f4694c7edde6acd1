package local

import (
	"encoding/json"
	"errors"
	"io/fs"
	"net"
	"net/http"
	"slices"
	"strings"

	"github.com/kilnhook/kiln/events"
	"github.com/kilnhook/kiln/events/source"
	"github.com/kilnhook/kiln/functions/dispatch"
	"github.com/kilnhook/kiln/infra/local/api"
)

// hookPath is where the git hook reports, healthPath says that the stack works.
const (
	hookPath   = "/internal/git-hook"
	healthPath = "/healthz"
)

// handler is everything behind the first listener.
func (s *Stack) handler() http.Handler {
	mux := http.NewServeMux()
	mux.Handle("/", s.console.Handler())
	mux.HandleFunc("GET "+healthPath, s.orError(s.serveHealth))
	mux.HandleFunc("GET /api/builds", s.orError(s.serveBuilds))
	mux.HandleFunc("GET /api/builds/{id}", s.orError(s.serveBuild))
	mux.HandleFunc("POST /api/builds/{id}/cancel", s.orError(s.serveCancel))
	mux.HandleFunc("GET /api/events", s.orError(s.serveEvents))
	mux.Handle("/events", s.bus.SSEHandler())
	mux.Handle("POST "+hookPath, s.git.ReportHandler())
	mux.Handle("GET /schemas/", http.StripPrefix("/schemas/", http.FileServerFS(events.Schemas())))
	hooks := http.NewServeMux()
	hooks.Handle("/", s.metrics.Doors(dispatch.Doors(), s.cfg.Now, s.dispatcher.Handler()))
	hooks.Handle(dispatch.LogPattern, s.dispatcher.Handler()) // lasts as long as a build, which says nothing of doors
	mux.Handle("GET /metrics", s.metrics.Handler())
	mux.HandleFunc("GET /api/doctor", s.orError(s.serveDoctor))
	mux.Handle("/hooks/", hooks)
	mux.Handle(dispatch.DoorEvents, hooks)
	mux.Handle(dispatch.APIPrefix, hooks)
	contexts, git := s.bucket.Handler("/contexts/"), s.git.Handler()
	guarded := s.guard(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		// These have names of their own in their paths, which are not to be
		// tidied up by redirects.
		switch path := r.URL.Path; {
		case strings.HasPrefix(path, "/contexts/"):
			contexts.ServeHTTP(w, r)
		case strings.HasPrefix(path, "/git/"):
			git.ServeHTTP(w, r)
		case strings.HasPrefix(path, "/v2/"), path == "/v2":
			s.registry.ServeHTTP(w, r)
		default:
			mux.ServeHTTP(w, r)
		}
	}))
	guarded = s.tokens(guarded)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if s.locked(r.URL.Path) {
			hooks.ServeHTTP(w, r)
			return
		}
		guarded.ServeHTTP(w, r)
	})
}

// locked reports whether a door checks by itself who sends: webhooks of forges
// are signed, and the others want a token if there is one. Those requests come
// through tunnels under any host name.
func (s *Stack) locked(path string) bool {
	switch path {
	case dispatch.DoorGitHub, dispatch.DoorGitLab, dispatch.DoorGitea, dispatch.DoorBitbucket:
		return true
	case dispatch.DoorGit, dispatch.DoorS3, dispatch.DoorRegistry, dispatch.DoorEvents:
		return len(s.cfg.Secrets.Tokens) > 0
	}
	return len(s.cfg.Secrets.Tokens) > 0 && strings.HasPrefix(path, dispatch.APIPrefix)
}

// guard keeps web pages of others out: their scripts can neither send requests
// that change something nor, by a host name that leads to this machine, read.
func (s *Stack) guard(next http.Handler) http.Handler {
	origin := http.NewCrossOriginProtection()
	same := origin.Handler(next)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !s.knownHost(r.Host) {
			http.Error(w, "unknown host name "+r.Host+": use the address kiln up printed, or allow this one with --allow-host", http.StatusMisdirectedRequest)
			return
		}
		if r.Header.Get("Sec-Fetch-Site") == "cross-site" && r.Header.Get("Sec-Fetch-Mode") != "navigate" {
			http.Error(w, "this request comes from another site's page", http.StatusForbidden)
			return
		}
		same.ServeHTTP(w, r)
	})
}

// tokens lets only those in who have a token, if the stack can be reached from
// elsewhere: as bearer, as the password of basic authentication, which git, curl and
// clients of registries have, or in the session of the page. The page asks by
// itself. This machine's own executors, helpers and git need none at the doors that
// they use.
func (s *Stack) tokens(next http.Handler) http.Handler {
	if len(s.pageTokens()) == 0 {
		return next
	}
	console := s.console.Handler()
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if _, password, ok := r.BasicAuth(); ok {
			r.Header.Set("Authorization", "Bearer "+password)
		}
		path := r.URL.Path
		inner := strings.HasPrefix(path, "/v2/") || path == "/v2" || strings.HasPrefix(path, "/git/") || path == hookPath
		switch {
		case path == healthPath, inner && ownMachine(r), s.console.Admits(r):
			next.ServeHTTP(w, r)
		case inner || strings.HasPrefix(path, "/contexts/"):
			w.Header().Set("WWW-Authenticate", `Basic realm="kiln"`)
			http.Error(w, "the password is a token of this installation", http.StatusUnauthorized)
		case strings.HasPrefix(path, "/api/"), path == "/events", path == "/metrics":
			w.Header().Set("WWW-Authenticate", "Bearer")
			http.Error(w, source.ErrUnauthorised.Error(), http.StatusUnauthorized)
		default:
			console.ServeHTTP(w, r)
		}
	})
}

// s3Tokens lets those in at the door for S3 whose access key is a token, if that door
// can be reached from elsewhere. The token stands in the request as it is: signatures
// are not looked at.
func (s *Stack) s3Tokens(next http.Handler) http.Handler {
	if loopback(s.s3) {
		return next
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		credential := r.URL.Query().Get("X-Amz-Credential")
		if _, rest, ok := strings.Cut(r.Header.Get("Authorization"), "Credential="); ok {
			credential = rest
		}
		key, _, _ := strings.Cut(credential, "/")
		if source.VerifyToken(s.cfg.Secrets.Tokens, key) != nil {
			http.Error(w, "the access key is a token of this installation", http.StatusForbidden)
			return
		}
		next.ServeHTTP(w, r)
	})
}

// ownMachine reports whether a request comes from this machine, and not by way of a
// proxy on it that says so.
func ownMachine(r *http.Request) bool {
	for _, h := range []string{"Forwarded", "X-Forwarded-For", "X-Real-Ip", "Via"} {
		if r.Header.Get(h) != "" {
			return false
		}
	}
	host, _, err := net.SplitHostPort(r.RemoteAddr)
	if err != nil {
		return false
	}
	ip := net.ParseIP(host)
	local, ok := r.Context().Value(http.LocalAddrContextKey).(*net.TCPAddr)
	return ip != nil && (ip.IsLoopback() || ok && local.IP.Equal(ip))
}

// knownHost reports whether a client that uses this name for us means us.
func (s *Stack) knownHost(hostport string) bool {
	host := hostport
	if h, _, err := net.SplitHostPort(hostport); err == nil {
		host = h
	}
	host = strings.ToLower(strings.Trim(host, "[]"))
	if ip := net.ParseIP(host); ip != nil {
		return true // names can be made to lead here, addresses cannot
	}
	return host == "localhost" || strings.HasSuffix(host, ".localhost") || slices.Contains(s.cfg.Hosts, host)
}

// orError makes a handler of one that returns an error.
func (s *Stack) orError(h func(w http.ResponseWriter, r *http.Request) error) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		err := h(w, r)
		if err == nil || r.Context().Err() != nil {
			return
		}
		status := http.StatusInternalServerError
		var bad *badRequestError
		switch {
		case errors.As(err, &bad):
			status = http.StatusBadRequest
		case errors.Is(err, fs.ErrNotExist):
			status = http.StatusNotFound
		case errors.Is(err, dispatch.ErrFinished):
			status = http.StatusConflict
		default:
			s.cfg.Log.Error("answer request", "path", r.URL.Path, "err", err)
		}
		writeJSON(w, status, api.Error{Error: err.Error()})
	}
}

// badRequestError is a request that makes no sense.
type badRequestError struct{ text string }

func (e *badRequestError) Error() string { return e.text }

// writeJSON answers with a value. That the client is gone is not an error.
func writeJSON(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(v)
}
