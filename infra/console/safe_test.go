package console

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"mime/multipart"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"
)

// acts notes what people do.
type acts struct{ done []string }

func (a *acts) Cancel(_ context.Context, id, reason string) error {
	a.done = append(a.done, "cancel "+id+" "+reason)
	return nil
}

func (a *acts) Rebuild(_ context.Context, id, cause string) (string, error) {
	if strings.Contains(cause, "refuse") {
		return "", errors.New("a later change was accepted")
	}
	a.done = append(a.done, "rebuild "+id+" "+cause)
	return id, nil
}

// Actions are forms, which pages of others cannot send.
func TestActions(t *testing.T) {
	a := &acts{}
	w, l := newWorld(t, func(c *Config) { c.Actions = a })
	req, _ := buildOf(1, "web")
	add(t, l, req, nil)
	path := "/builds/" + req.BuildID
	for _, c := range []struct {
		path   string
		form   url.Values
		header []string
		want   int
		done   string
	}{
		{"/cancel", url.Values{}, nil, 303, "cancel " + req.BuildID + " cancelled by a person"},
		{"/cancel", url.Values{}, []string{"Sec-Fetch-Site", "same-origin"}, 303, "cancel " + req.BuildID + " cancelled by a person"},
		{"/rebuild", url.Values{"nonce": {"once"}}, nil, 303, "rebuild " + req.BuildID + " request once"},
		{"/rebuild", url.Values{"nonce": {"refuse"}}, nil, 409, ""},
		{"/cancel", url.Values{}, []string{"Sec-Fetch-Site", "cross-site"}, 403, ""},
		{"/cancel", url.Values{}, []string{"Origin", "https://evil.example"}, 403, ""},
		{"/rebuild", url.Values{}, []string{"Sec-Fetch-Site", "same-site"}, 403, ""},
	} {
		a.done = nil
		status, body, _ := w.do(http.MethodPost, path+c.path, c.form, c.header...)
		if got := strings.Join(a.done, ","); status != c.want || got != c.done {
			t.Errorf("%s %v: %d %q, want %d %q\n%.200s", c.path, c.header, status, got, c.want, c.done, body)
		}
	}
	for _, p := range []string{path + "/cancel", path + "/rebuild", "/upload", "/logout"} {
		if status, _, _ := w.do(http.MethodGet, p, nil); status == 200 || status == 303 {
			t.Errorf("GET %s does something: %d", p, status)
		}
	}
	if status, _, _ := w.do(http.MethodPost, "/builds/"+strings.Repeat("0", 26)+"/cancel", url.Values{}); status != 404 {
		t.Errorf("a build that is not there: %d", status)
	}
}

// Every answer has the headers that keep it from doing harm.
func TestHeaders(t *testing.T) {
	w, l := newWorld(t, nil)
	req, res := buildOf(1, "web")
	add(t, l, req, res)
	for _, path := range []string{"/", "/builds/" + req.BuildID, "/builds/none", "/trends", "/login", "/nowhere", "/builds/" + req.BuildID + "/lines"} {
		_, body, h := w.do(http.MethodGet, path, nil)
		csp := h.Get("Content-Security-Policy")
		if !strings.HasPrefix(csp, "default-src 'none'; script-src 'self'; style-src 'self';") || strings.Contains(csp, "unsafe") || !strings.Contains(csp, "frame-ancestors 'none'") {
			t.Errorf("%s: policy %q", path, csp)
		}
		if h.Get("X-Content-Type-Options") != "nosniff" || h.Get("Referrer-Policy") == "" || h.Get("Cache-Control") != "no-store" {
			t.Errorf("%s: %v", path, h)
		}
		if strings.Contains(body, "<script>") || strings.Contains(body, " style=") {
			t.Errorf("%s has something inline", path)
		}
	}
	r := httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/", nil)
	r.Host = "rebound.example:8765"
	rec := httptest.NewRecorder()
	w.Handler().ServeHTTP(rec, r)
	if rec.Code != http.StatusMisdirectedRequest {
		t.Errorf("under a name of others: %d", rec.Code)
	}
}

// With tokens one needs one: as bearer, or by the form and its cookie, for a week.
func TestTokens(t *testing.T) {
	now := noon()
	w, l := newWorld(t, func(c *Config) {
		c.Tokens, c.Now = []string{"sesame", "second"}, func() time.Time { return now }
	})
	req, res := buildOf(1, "web")
	add(t, l, req, res)
	if status, _, h := w.do(http.MethodGet, "/trends?trigger=a", nil, "Accept", "text/html"); status != 303 || h.Get("Location") != "/login?to=%2Ftrends%3Ftrigger%3Da" {
		t.Errorf("%d %s", status, h.Get("Location"))
	}
	for _, c := range []struct {
		header []string
		want   int
	}{
		{nil, 401}, {[]string{"Authorization", "Bearer wrong"}, 401}, {[]string{"Authorization", "Bearer "}, 401}, {[]string{"Authorization", "Bearer second"}, 200},
		{[]string{"Cookie", "kiln-session=sesame"}, 401}, {[]string{"Cookie", "kiln-session=99999999999.00"}, 401},
		{[]string{"Cookie", "kiln-session=" + session("other", now.Add(time.Hour))}, 401},
	} {
		if status, _, _ := w.do(http.MethodGet, "/builds/"+req.BuildID+"/lines", nil, c.header...); status != c.want {
			t.Errorf("%v: %d, want %d", c.header, status, c.want)
		}
	}
	if status, body, _ := w.do(http.MethodPost, "/login", url.Values{"token": {"guess"}}); status != 401 || !strings.Contains(body, "not a token") {
		t.Errorf("a wrong token: %d", status)
	}
	for to, want := range map[string]string{"/trends": "/trends", "https://evil.example/": "/", "//evil.example": "/", "/\\evil.example": "/", "": "/"} {
		status, _, h := w.do(http.MethodPost, "/login", url.Values{"token": {"sesame"}, "to": {to}})
		if status != 303 || h.Get("Location") != want {
			t.Errorf("to %q: %d %s", to, status, h.Get("Location"))
		}
	}
	_, _, h := w.do(http.MethodPost, "/login", url.Values{"token": {"sesame"}}, "X-Forwarded-Proto", "https")
	cookie := h.Get("Set-Cookie")
	has(t, "the cookie", cookie, "HttpOnly", "SameSite=Strict", "Secure", "Path=/")
	value, _, _ := strings.Cut(cookie, ";")
	if strings.Contains(value, "sesame") {
		t.Error("the cookie is the token")
	}
	for _, c := range []struct {
		later time.Duration
		want  int
	}{{0, 200}, {6 * 24 * time.Hour, 200}, {8 * 24 * time.Hour, 401}} {
		now = noon().Add(c.later)
		if status, _, _ := w.do(http.MethodGet, "/", nil, "Cookie", value); status != c.want {
			t.Errorf("after %s: %d, want %d", c.later, status, c.want)
		}
	}
}

// The form passes on an archive as it comes, and refuses what is none or too large.
func TestUpload(t *testing.T) {
	var got Upload
	content := ""
	w, _ := newWorld(t, func(c *Config) {
		c.MaxUpload = 5000
		c.Submit = func(_ context.Context, u Upload) (string, error) {
			data, err := io.ReadAll(u.Content)
			if got, content = u, string(data); err != nil {
				return "", err
			}
			if u.Name == "unwanted" {
				return "", errors.New("no trigger is for it")
			}
			return "0123456789abcdefghijklmnop"[:26], nil
		}
	})
	has(t, "the form", w.get("/upload"), "At most 5.0 kB", `enctype="multipart/form-data"`)
	for _, c := range []struct {
		name, tag, file, content string
		want                     int
		said                     string
	}{
		{"shop", "v1", "x.tar.gz", "archive", 303, ""},
		{"", "", "Meine App.tar.gz", "archive", 303, ""},
		{"Shop App", "", "x", "archive", 400, "cannot name an app"},
		{"shop", "a tag", "x", "archive", 400, "cannot be a tag"},
		{"shop", "", "x", "", 400, "is empty"},
		{"shop", "", "x", strings.Repeat("x", 6000), 413, "larger than 5.0 kB"},
		{"unwanted", "", "x", "archive", 409, "no trigger is for it"},
		{strings.Repeat("n", 300), "", "x", "archive", 400, "too long"},
		{"shop", "", "", "", 400, "choose an archive"},
	} {
		var body bytes.Buffer
		form := multipart.NewWriter(&body)
		for k, v := range map[string]string{"name": c.name, "tag": c.tag} {
			if err := form.WriteField(k, v); err != nil {
				t.Fatal(err)
			}
		}
		if c.file != "" {
			part, err := form.CreateFormFile("archive", c.file)
			if err == nil {
				_, err = io.WriteString(part, c.content)
			}
			if err != nil {
				t.Fatal(err)
			}
		}
		if err := form.Close(); err != nil {
			t.Fatal(err)
		}
		r := httptest.NewRequestWithContext(t.Context(), http.MethodPost, "/upload", &body)
		r.Host = "localhost"
		r.Header.Set("Content-Type", form.FormDataContentType())
		rec := httptest.NewRecorder()
		w.Handler().ServeHTTP(rec, r)
		if rec.Code != c.want || !strings.Contains(rec.Body.String(), c.said) {
			t.Errorf("%q %q: %d, want %d %q\n%s", c.name, c.file, rec.Code, c.want, c.said, rec.Body)
		}
		if c.want == 303 && (content != "archive" || got.Tag != c.tag || got.Name != map[string]string{"shop": "shop", "": "meine-app"}[c.name]) {
			t.Errorf("submitted %+v %q", got, content)
		}
	}
	if _, err := fs.ReadFile(files, "static/console.js"); err != nil {
		t.Error(fmt.Errorf("assets are embedded: %w", err))
	}
}
