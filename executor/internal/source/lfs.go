package source

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"github.com/go-git/go-git/v5/plumbing/format/config"
	githttp "github.com/go-git/go-git/v5/plumbing/transport/http"
)

const (
	lfsHeader  = "version https://git-lfs.github.com/spec/v1\n" // how a pointer begins
	maxPointer = 1024                                           // bytes of a pointer
	lfsBatch   = 100                                            // objects asked for at once
	lfsType    = "application/vnd.git-lfs+json"
)

// pointer is what a repository has in place of a file that is kept in Git LFS.
type pointer struct {
	oid  string // SHA-256 of the file, in hex
	size int64
	to   string // place in the tree
	mode fs.FileMode
}

// parsePointer returns false for anything but a pointer.
func parsePointer(content []byte) (p pointer, ok bool) {
	if len(content) > maxPointer || !bytes.HasPrefix(content, []byte(lfsHeader)) {
		return p, false
	}
	size := ""
	for line := range strings.Lines(string(content)) {
		key, value, _ := strings.Cut(strings.TrimRight(line, "\n"), " ")
		switch key {
		case "oid":
			p.oid = strings.TrimPrefix(value, "sha256:")
		case "size":
			size = value
		}
	}
	n, err := strconv.ParseInt(size, 10, 64)
	if err != nil || n < 0 || len(p.oid) != 64 || strings.Trim(p.oid, "0123456789abcdef") != "" {
		return pointer{}, false
	}
	p.size = n
	return p, true
}

// fetchLFS replaces what is kept in Git LFS by the files themselves. lfsConfig
// is the content of the repository's .lfsconfig.
func (w *commitWriter) fetchLFS(ctx context.Context, spec gitSpec, lfsConfig []byte) error {
	if len(w.pointers) == 0 {
		return nil
	}
	first := w.pointers[0].to
	if err := w.lfs(ctx, spec, lfsConfig); err != nil {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if errors.As(err, new(*LimitError)) {
			return err
		}
		return fmt.Errorf("%d files, %q for one, are kept in Git LFS and cannot be fetched (set GIT_LFS_SKIP_SMUDGE=1 to build with the pointers to them): %w", len(w.pointers), first, err)
	}
	return nil
}

func (w *commitWriter) lfs(ctx context.Context, spec gitSpec, lfsConfig []byte) error {
	s, err := w.lfsServer(ctx, spec, lfsConfig)
	if err != nil {
		return err
	}
	places := map[string][]pointer{}
	var order []pointer
	for _, p := range w.pointers {
		if len(places[p.oid]) == 0 {
			order = append(order, p)
		}
		places[p.oid] = append(places[p.oid], p)
	}
	for begin := 0; begin < len(order); begin += lfsBatch {
		actions, err := s.batch(ctx, order[begin:min(begin+lfsBatch, len(order))])
		if err != nil {
			return err
		}
		for _, p := range order[begin:min(begin+lfsBatch, len(order))] {
			// What is in several places is fetched for each: that is rare.
			for _, place := range places[p.oid] {
				if err := w.download(ctx, s, place, actions[p.oid]); err != nil {
					return fmt.Errorf("%q: %w", place.to, err)
				}
			}
		}
	}
	return nil
}

// lfsServer is where a repository's large files are.
type lfsServer struct {
	client *http.Client
	url    *url.URL
	header http.Header        // for this server
	auth   *githttp.BasicAuth // for authHost; nil: none
	host   string
}

// lfsServer finds it: what .lfsconfig says, what an ssh server says, or the
// place below the repository's URL.
func (w *commitWriter) lfsServer(ctx context.Context, spec gitSpec, lfsConfig []byte) (*lfsServer, error) {
	client := *w.g.client
	client.CheckRedirect = sameHostRedirect
	s := &lfsServer{client: &client, header: http.Header{}, auth: w.g.auth, host: w.g.host}
	if configured := lfsURL(lfsConfig); configured != "" {
		u, err := url.Parse(configured)
		if err != nil || u.Host == "" || u.Scheme != "https" && u.Scheme != spec.url.Scheme || u.Scheme == "ssh" {
			return nil, errors.New("the lfs.url in .lfsconfig is not an https:// URL")
		}
		u.User = nil // credentials in a repository are not ours to use
		s.url = u
		return s, nil
	}
	if r, ok := w.r.session.(*sshRemote); ok {
		return s, s.authenticate(ctx, r, spec)
	}
	u := *spec.url
	u.Path = strings.TrimSuffix(u.Path, "/")
	if !strings.HasSuffix(u.Path, ".git") {
		u.Path += ".git"
	}
	u.Path, u.RawPath = u.Path+"/info/lfs", ""
	s.url = &u
	return s, nil
}

// lfsURL is the lfs.url of a .lfsconfig; "" if it has none.
func lfsURL(content []byte) string {
	c := config.New()
	if len(content) == 0 || config.NewDecoder(bytes.NewReader(content)).Decode(c) != nil {
		return ""
	}
	return c.Section("lfs").Option("url")
}

// authenticate asks an ssh server where the files are and how to log in there.
func (s *lfsServer) authenticate(ctx context.Context, r *sshRemote, spec gitSpec) error {
	raw, err := r.run(ctx, "git-lfs-authenticate "+shellQuote(spec.path)+" download")
	if err != nil {
		return fmt.Errorf("git-lfs-authenticate: %w", err)
	}
	var answer struct {
		Href   string            `json:"href"`
		Header map[string]string `json:"header"`
	}
	u, perr := (*url.URL)(nil), json.Unmarshal(raw, &answer)
	if perr == nil {
		u, perr = url.Parse(answer.Href)
	}
	if perr != nil || u.Host == "" || u.Scheme != "https" && !isLoopback(u.Hostname()) {
		return errors.New("git-lfs-authenticate: the server names no https:// URL")
	}
	s.url, s.auth = u, nil
	for k, v := range answer.Header {
		s.header.Set(k, v)
	}
	return nil
}

// sameHostRedirect takes what is meant for one host out of a request to
// another.
func sameHostRedirect(req *http.Request, via []*http.Request) error {
	if err := checkRedirect(req, via); err != nil {
		return err
	}
	if req.URL.Host != via[0].URL.Host {
		req.Header = http.Header{"User-Agent": req.Header["User-Agent"]}
	}
	return nil
}

// lfsAction says how an object is downloaded.
type lfsAction struct {
	Href   string            `json:"href"`
	Header map[string]string `json:"header"`
}

// batch asks where objects are.
func (s *lfsServer) batch(ctx context.Context, objects []pointer) (map[string]*lfsAction, error) {
	type object struct {
		OID     string                `json:"oid"`
		Size    int64                 `json:"size"`
		Actions map[string]*lfsAction `json:"actions,omitempty"`
		Error   *struct {
			Code    int    `json:"code"`
			Message string `json:"message"`
		} `json:"error,omitempty"`
	}
	ask := struct {
		Operation string   `json:"operation"`
		Transfers []string `json:"transfers"`
		Objects   []object `json:"objects"`
		HashAlgo  string   `json:"hash_algo"`
	}{Operation: "download", Transfers: []string{"basic"}, HashAlgo: "sha256"}
	for _, o := range objects {
		ask.Objects = append(ask.Objects, object{OID: o.oid, Size: o.size})
	}
	body, err := json.Marshal(ask)
	if err != nil {
		return nil, err
	}
	header := s.header.Clone()
	header.Set("Accept", lfsType)
	header.Set("Content-Type", lfsType)
	resp, err := s.do(ctx, http.MethodPost, s.url.JoinPath("objects", "batch").String(), header, body)
	if err != nil {
		return nil, fmt.Errorf("ask %s for large files: %w", s.url.Host, err)
	}
	defer func() { _ = resp.Body.Close() }()
	var answer struct {
		Transfer string   `json:"transfer"`
		Objects  []object `json:"objects"`
	}
	if err := json.NewDecoder(io.LimitReader(resp.Body, 4<<20)).Decode(&answer); err != nil {
		return nil, fmt.Errorf("ask %s for large files: its answer cannot be read", s.url.Host)
	}
	if answer.Transfer != "" && answer.Transfer != "basic" {
		return nil, fmt.Errorf("%s wants to send large files by %q, and only basic is supported", s.url.Host, answer.Transfer)
	}
	out := map[string]*lfsAction{}
	for _, o := range answer.Objects {
		if o.Error != nil {
			return nil, fmt.Errorf("object %s: %s answered %d %s", o.OID, s.url.Host, o.Error.Code, o.Error.Message)
		}
		out[o.OID] = o.Actions["download"]
	}
	return out, nil
}

// do sends a request and returns an answer that is a success. Our own
// credentials go to the repository's host only.
func (s *lfsServer) do(ctx context.Context, method, rawURL string, header http.Header, body []byte) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, method, rawURL, bytes.NewReader(body))
	if err != nil || req.URL.Scheme != "https" && req.URL.Scheme != s.url.Scheme {
		return nil, errors.New("the server names a URL that is not valid")
	}
	req.Header = header
	if s.auth != nil && req.URL.Host == s.host && header.Get("Authorization") == "" {
		s.auth.SetAuth(req)
	}
	resp, err := s.client.Do(req)
	if err != nil {
		return nil, withoutURL(ctx, err)
	}
	if resp.StatusCode == http.StatusOK {
		return resp, nil
	}
	_ = resp.Body.Close()
	hint := ""
	switch resp.StatusCode {
	case http.StatusNotFound:
		hint = ": it has no Git LFS, or the credentials are not for this repository"
	case http.StatusUnauthorized, http.StatusForbidden:
		hint = ": check GIT_TOKEN, or GIT_USERNAME and GIT_PASSWORD"
	}
	return nil, fmt.Errorf("the server answered %s%s", resp.Status, hint)
}

// download writes one file.
func (w *commitWriter) download(ctx context.Context, s *lfsServer, p pointer, a *lfsAction) error {
	if p.size == 0 && a == nil {
		return w.g.tree.file(p.to, p.mode, w.modTime, bytes.NewReader(nil))
	}
	if a == nil || a.Href == "" {
		return fmt.Errorf("%s has no object %s", s.url.Host, p.oid)
	}
	header := http.Header{}
	for k, v := range a.Header {
		header.Set(k, v)
	}
	resp, err := s.do(ctx, http.MethodGet, a.Href, header, nil)
	if err != nil {
		return fmt.Errorf("download object %s: %w", p.oid, err)
	}
	defer func() { _ = resp.Body.Close() }()
	sum := sha256.New()
	content := &counted{r: io.TeeReader(io.LimitReader(resp.Body, p.size+1), sum)}
	if err := w.g.tree.file(p.to, p.mode, w.modTime, content); err != nil {
		return fmt.Errorf("download object %s: %w", p.oid, withoutURL(ctx, err))
	}
	w.g.received += content.n
	w.g.opt.Progress(w.g.received, 0)
	if got := hex.EncodeToString(sum.Sum(nil)); got != p.oid || content.n != p.size {
		return fmt.Errorf("what %s sent for object %s is something else: %d bytes with SHA-256 %s", s.url.Host, p.oid, content.n, got)
	}
	return nil
}

// counted counts what is read.
type counted struct {
	r io.Reader
	n int64
}

func (c *counted) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.n += int64(n)
	return n, err
}
