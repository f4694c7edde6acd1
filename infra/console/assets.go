package console

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"html/template"
	"io/fs"
	"net/http"
	"path"
	"strings"
	"time"

	"github.com/kilnhook/kiln/infra/local/buildlog"
)

// asset is a file that pages load, under a name that changes with it.
type asset struct {
	name string // with the hash
	kind string // media type
	body []byte
}

// parse reads templates and assets.
func (c *Console) parse() error {
	c.pages, c.assets = map[string]*template.Template{}, map[string]asset{}
	list, err := fs.ReadDir(files, "static")
	if err != nil {
		return err
	}
	address := map[string]string{}
	for _, f := range list {
		body, err := fs.ReadFile(files, "static/"+f.Name())
		if err != nil {
			return err
		}
		sum := sha256.Sum256(body)
		ext := path.Ext(f.Name())
		kinds := map[string]string{".css": "text/css; charset=utf-8", ".js": "text/javascript; charset=utf-8", ".svg": "image/svg+xml"}
		a := asset{name: strings.TrimSuffix(f.Name(), ext) + "-" + hex.EncodeToString(sum[:6]) + ext, kind: kinds[ext], body: body}
		c.assets[a.name] = a
		address[f.Name()] = "/static/" + a.name
	}
	for _, name := range []string{"list", "build", "log", "files", "layer", "trends", "upload", "login", "error"} {
		t, err := template.New("layout.html").Funcs(c.functions(address)).ParseFS(files, "templates/layout.html", "templates/parts.html", "templates/"+name+".html")
		if err != nil {
			return fmt.Errorf("read templates: %w", err)
		}
		c.pages[name] = t
	}
	return nil
}

func (c *Console) functions(address map[string]string) template.FuncMap {
	return template.FuncMap{
		"asset":    func(name string) string { return address[name] },
		"short":    buildlog.Short,
		"ref":      buildlog.Ref,
		"duration": buildlog.Duration,
		"took":     func(d time.Duration) string { return buildlog.Duration(d.Milliseconds()) },
		"bytes":    buildlog.Bytes,
		"count":    buildlog.Count,
		"first":    func(text string) string { line, _, _ := strings.Cut(text, "\n"); return line },
		"ago":      func(t time.Time) string { return buildlog.Ago(c.cfg.Now(), t) },
		"stamp":    func(t time.Time) string { return t.UTC().Format(time.RFC3339) },
		"brief":    brief,
		"phase":    phaseWord,
		"link":     link,
		"signed":   signedBytes,
		"add":      func(a, b int) int { return a + b },
	}
}

// brief shortens a digest or a revision.
func brief(s string) string {
	if hex, ok := strings.CutPrefix(s, "sha256:"); ok {
		return "sha256:" + hex[:min(12, len(hex))]
	}
	return s[:min(12, len(s))]
}

// signedBytes is a difference in bytes.
func signedBytes(n int64) string {
	switch {
	case n > 0:
		return "+" + buildlog.Bytes(n)
	case n < 0:
		return "−" + buildlog.Bytes(-n)
	}
	return "±0"
}

func (c *Console) serveStatic(w http.ResponseWriter, r *http.Request) {
	a, ok := c.assets[r.PathValue("file")]
	if !ok {
		http.NotFound(w, r)
		return
	}
	secure(w.Header())
	w.Header().Set("Content-Type", a.kind)
	w.Header().Set("Cache-Control", "public, max-age=31536000, immutable")
	_, _ = w.Write(a.body) // the client has gone
}
