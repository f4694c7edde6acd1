package console

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/kilnhook/kiln/events/source"
	"github.com/kilnhook/kiln/infra/wait"
)

const (
	cookieName  = "kiln-session"
	sessionTime = 7 * 24 * time.Hour
	failedPause = 500 * time.Millisecond // before a wrong token is answered
	maxLogin    = 4 << 10                // bytes of the form
)

// known keeps pages of others out that reach the console under a name of theirs.
// With tokens that is of no use to them: their name has no session.
func (c *Console) known(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if len(c.cfg.Tokens) == 0 && !c.knownHost(r.Host) {
			http.Error(w, "unknown host name: use the address of this machine", http.StatusMisdirectedRequest)
			return
		}
		next.ServeHTTP(w, r)
	})
}

func (c *Console) knownHost(hostport string) bool {
	host := hostport
	if h, _, err := net.SplitHostPort(hostport); err == nil {
		host = h
	}
	host = strings.ToLower(strings.Trim(host, "[]"))
	return net.ParseIP(host) != nil || host == "localhost" || strings.HasSuffix(host, ".localhost") || slices.Contains(c.cfg.Hosts, host)
}

// Admits reports whether a request shows a token or the session of one, or none is
// needed.
func (c *Console) Admits(r *http.Request) bool {
	if len(c.cfg.Tokens) == 0 || source.VerifyBearer(c.cfg.Tokens, r.Header) == nil {
		return true
	}
	cookie, err := r.Cookie(cookieName)
	return err == nil && c.validSession(cookie.Value)
}

// admitted lets those in whom Admits knows. Others are shown the form, or told.
func (c *Console) admitted(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if c.Admits(r) {
			next.ServeHTTP(w, r)
			return
		}
		secure(w.Header())
		if r.Method == http.MethodGet && !isJSON(r) && strings.Contains(r.Header.Get("Accept"), "text/html") {
			http.Redirect(w, r, link("/login", "to", r.URL.RequestURI()), http.StatusSeeOther)
			return
		}
		w.Header().Set("WWW-Authenticate", "Bearer")
		http.Error(w, source.ErrUnauthorised.Error(), http.StatusUnauthorized)
	})
}

// session is proof that somebody knew a token, good until a time.
func session(token string, until time.Time) string {
	expires := strconv.FormatInt(until.Unix(), 10)
	mac := hmac.New(sha256.New, []byte(token))
	mac.Write([]byte("kiln console session " + expires))
	return expires + "." + hex.EncodeToString(mac.Sum(nil))
}

func (c *Console) validSession(value string) bool {
	text, _, _ := strings.Cut(value, ".")
	expires, err := strconv.ParseInt(text, 10, 64)
	if err != nil || !c.cfg.Now().Before(time.Unix(expires, 0)) {
		return false
	}
	ok := false
	for _, t := range c.cfg.Tokens {
		if t != "" && hmac.Equal([]byte(session(t, time.Unix(expires, 0))), []byte(value)) {
			ok = true
		}
	}
	return ok
}

type loginPage struct {
	page
	To    string
	Wrong bool
}

// within is where to go after the login: a page of ours.
func within(to string) string {
	if !strings.HasPrefix(to, "/") || strings.HasPrefix(to, "//") || strings.ContainsAny(to, "\\\r\n\t") {
		return "/"
	}
	return to
}

func (c *Console) serveLoginForm(w http.ResponseWriter, r *http.Request) error {
	p := c.page("log in", "")
	p.Session, p.Upload = false, false
	return c.render(w, http.StatusOK, "login", loginPage{page: p, To: within(r.URL.Query().Get("to"))})
}

func (c *Console) serveLogin(w http.ResponseWriter, r *http.Request) error {
	r.Body = http.MaxBytesReader(w, r.Body, maxLogin)
	if err := r.ParseForm(); err != nil {
		return badRequest("the form could not be read")
	}
	token, to := strings.TrimSpace(r.PostForm.Get("token")), within(r.PostForm.Get("to"))
	if len(c.cfg.Tokens) > 0 && source.VerifyToken(c.cfg.Tokens, token) != nil {
		_ = wait.For(r.Context(), failedPause) // who has gone is answered in vain
		c.cfg.Log.Warn("login refused", "remote", r.RemoteAddr)
		p := c.page("log in", "")
		p.Session, p.Upload = false, false
		return c.render(w, http.StatusUnauthorized, "login", loginPage{page: p, To: to, Wrong: true})
	}
	if len(c.cfg.Tokens) > 0 {
		until := c.cfg.Now().Add(sessionTime)
		c.setCookie(w, r, session(token, until), int(sessionTime.Seconds()))
	}
	http.Redirect(w, r, to, http.StatusSeeOther)
	return nil
}

func (c *Console) serveLogout(w http.ResponseWriter, r *http.Request) error {
	c.setCookie(w, r, "", -1)
	http.Redirect(w, r, "/login", http.StatusSeeOther)
	return nil
}

func (c *Console) setCookie(w http.ResponseWriter, r *http.Request, value string, age int) {
	http.SetCookie(w, &http.Cookie{
		Name: cookieName, Value: value, Path: "/", MaxAge: age, HttpOnly: true, SameSite: http.SameSiteStrictMode,
		Secure: r.TLS != nil || r.Header.Get("X-Forwarded-Proto") == "https",
	})
}
