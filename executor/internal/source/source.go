// Package source fetches a build context: the files that a Dockerfile may
// COPY. A context is a directory that is used in place, an archive that is
// unpacked while it is read, or a commit of a Git repository.
//
// What is fetched is never trusted: files are written only below the context's
// own directory, and there is a limit to how many and how large they are.
package source

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// Options of Fetch. The zero value fetches every scheme but standard input.
type Options struct {
	// TempDir is where contexts are unpacked, in a new directory each. It
	// must exist. "" means /tmp.
	TempDir string
	// SubPath is the directory of the context to use as the context. It
	// cannot leave the context.
	SubPath string
	// Stdin is read for tar://stdin.
	Stdin io.Reader
	// Limits of what is unpacked.
	Limits Limits
	// Progress is told how many bytes of an archive or a repository have
	// arrived and how many there are, 0 if that is not known.
	Progress func(done, total int64)

	// GitPullMethod is "https" (the default) or "http".
	GitPullMethod string
	// GitToken is used as the user name, with GitPassword empty, as kaniko does.
	// What stands in the URL wins over it, and it over GitUsername.
	GitToken, GitUsername, GitPassword string
	// GitBranch is the branch or tag to use if the URL names none.
	GitBranch string
	// GitSubmodules fetches submodules too. Credentials go to the
	// repository's own host only.
	GitSubmodules bool
	// GitKeepDir leaves a .git in the context, with GitDepth commits of history;
	// 0: all of it.
	GitKeepDir bool
	GitDepth   int
	// GitSkipLFS leaves the pointers to files in Git LFS instead of the files.
	GitSkipLFS bool
	// SSH is for repositories over ssh.
	SSH SSHOptions
	// GitInsecureSkipTLS does not verify the Git server's certificate.
	GitInsecureSkipTLS bool

	// Env returns an environment variable or "": contexts in buckets read there
	// what the tools of their cloud do. nil is an empty environment.
	Env func(name string) string

	// Proxy finds the proxy for a request; nil: none.
	Proxy func(*http.Request) (*url.URL, error)
	// RootCAs verify servers; nil: the system's.
	RootCAs *x509.CertPool
	// UserAgent is sent to servers.
	UserAgent string
	// Retries is how often a download is tried again or resumed; 0: 4,
	// negative: never.
	Retries int
	// RetryWait is the wait before the first retry, doubled for each further
	// one; 0: 1 s.
	RetryWait time.Duration
	// Now is the clock that requests are signed by. Contexts in buckets need it.
	Now func() time.Time
	// Log takes warnings; nil: none.
	Log *slog.Logger
}

func (o *Options) applyDefaults() {
	if o.TempDir == "" {
		o.TempDir = "/tmp"
	}
	if o.Retries == 0 {
		o.Retries = 4
	}
	if o.RetryWait == 0 {
		o.RetryWait = time.Second
	}
	if o.Progress == nil {
		o.Progress = func(int64, int64) {}
	}
	if o.Env == nil {
		o.Env = func(string) string { return "" }
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	o.Limits.applyDefaults()
}

// Context is a build context on disk.
type Context struct {
	// Dir is the absolute path of the context. A directory that was given as
	// the context is this very directory and must not be written to.
	Dir string
	// Revision says exactly what was fetched.
	Revision Revision

	temp string // removed by Close; "" if there is nothing to remove
}

// Revision pins a context. All fields are empty for a directory.
type Revision struct {
	Commit string // full id of the Git commit
	SHA256 string // of the archive as it arrived, in hex
	// Version is what the bucket calls the object that was fetched:
	// "generation:<number>" (Google), "version:<id>" or, where objects have no
	// versions, "etag:<etag>" (S3, Azure).
	Version string
}

// String returns "git:<commit>", the Version, "sha256:<hex>" or "".
func (r Revision) String() string {
	switch {
	case r.Version != "":
		return r.Version
	case r.Commit != "":
		return "git:" + r.Commit
	case r.SHA256 != "":
		return "sha256:" + r.SHA256
	}
	return ""
}

// Close removes what Fetch made. A directory that was given stays. Close may
// be called more than once.
func (c *Context) Close() error {
	if c == nil || c.temp == "" {
		return nil
	}
	if err := removeAll(c.temp); err != nil {
		return fmt.Errorf("remove build context: %w", err)
	}
	c.temp = ""
	return nil
}

// Errors of Fetch, for errors.Is. See also LimitError and syscall.ENOSPC.
var (
	ErrNotFound   = errors.New("not found")
	ErrEmpty      = errors.New("empty: 0 bytes")
	ErrTruncated  = errors.New("truncated")
	ErrNotArchive = errors.New("not a tar archive")
)

// fetcher fetches the context that is called rest in its scheme.
type fetcher func(ctx context.Context, rest string, opt *Options) (*Context, error)

// Scheme is a kind of context.
type Scheme struct {
	// Form shows how a context of the scheme is written.
	Form string

	fetch fetcher
}

// Schemes returns every scheme by its name, which stands before "://" in the
// context's URL. A context without a scheme is a directory.
func Schemes() map[string]Scheme {
	return map[string]Scheme{
		"dir":   {Form: "dir:///path", fetch: fetchDir},
		"tar":   {Form: "tar:///path/context.tar.gz or tar://stdin", fetch: fetchTar},
		"git":   {Form: "git://host/path.git[#ref[:directory]][#commit]", fetch: fetchGit},
		"ssh":   {Form: "ssh://[user@]host[:port]/path.git[#ref[:directory]][#commit] or user@host:path", fetch: fetchSSH},
		"https": {Form: "https://host/context.tar.gz or https://account.blob.core.windows.net/container/blob", fetch: fetchHTTPS},
		"http":  {Form: "http://localhost/context.tar.gz", fetch: fetchHTTP},
		"gs":    {Form: "gs://bucket[/object][#generation]", fetch: fetchGCS},
		"s3":    {Form: "s3://bucket[/key][?versionId=id]", fetch: fetchS3},
	}
}

// Fetch makes the context at rawURL available on disk. The caller closes it.
// Credentials in the URL are never part of an error.
func Fetch(ctx context.Context, rawURL string, opt Options) (*Context, error) {
	opt.applyDefaults()
	c, err := fetch(ctx, rawURL, &opt)
	if err != nil {
		return nil, fmt.Errorf("context %s: %w", Redact(rawURL), err)
	}
	return c, nil
}

func fetch(ctx context.Context, rawURL string, opt *Options) (*Context, error) {
	do := fetchDir
	rest := rawURL
	if name, after, ok := strings.Cut(rawURL, "://"); ok {
		s, known := Schemes()[name]
		if !known {
			return nil, unknownScheme()
		}
		do, rest = s.fetch, after
	} else if isSCP(rawURL) && !exists(rawURL) {
		do = fetchSCP
	}
	if _, err := cleanSubPath(opt.SubPath); err != nil {
		return nil, err // before anything is downloaded
	}
	c, err := do(ctx, rest, opt)
	if err != nil {
		return nil, err
	}
	if err := c.enter(opt.SubPath); err != nil {
		_ = c.Close()
		return nil, err
	}
	return c, nil
}

// exists tells whether a path that may be something else is one.
func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

func unknownScheme() error {
	schemes := Schemes()
	names := slices.Sorted(maps.Keys(schemes))
	for i, n := range names {
		names[i] = n + "://"
	}
	return fmt.Errorf("unknown build context prefix provided, please use one of the following: %s", strings.Join(names, ", "))
}

// newTemp makes a directory for a context, below opt.TempDir.
func newTemp(opt *Options) (*Context, error) {
	base, err := filepath.Abs(opt.TempDir)
	if err != nil {
		return nil, fmt.Errorf("find temporary directory: %w", err)
	}
	temp, err := os.MkdirTemp(base, "kiln-context-*")
	if err != nil {
		return nil, fmt.Errorf("make a directory for the context: %w", err)
	}
	c := &Context{Dir: filepath.Join(temp, "files"), temp: temp}
	if err := os.Mkdir(c.Dir, 0o755); err != nil {
		return nil, errors.Join(fmt.Errorf("make a directory for the context: %w", err), c.Close())
	}
	return c, nil
}

// Redact returns a context's URL without what may be secret: user names,
// passwords and tokens before the host, and the values of the query.
func Redact(rawURL string) string {
	scheme, rest, ok := strings.Cut(rawURL, "://")
	if !ok || slices.Contains([]string{"dir", "tar", "gs", "s3"}, scheme) {
		return rawURL
	}
	rest, fragment, hasFragment := strings.Cut(rest, "#")
	rest, _, hasQuery := strings.Cut(rest, "?")
	host, path, hasPath := strings.Cut(rest, "/")
	if i := strings.LastIndexByte(host, '@'); i >= 0 {
		host = "xxxxx@" + host[i+1:]
	}
	out := scheme + "://" + host
	if hasPath {
		out += "/" + path
	}
	if hasQuery {
		out += "?xxxxx"
	}
	if hasFragment && (scheme == "git" || scheme == "ssh") {
		out += "#" + fragment
	}
	return out
}
