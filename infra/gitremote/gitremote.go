// Package gitremote asks repositories questions, with the git program: where a
// ref is, which refs there are, which files differ between two commits, and
// what one file holds.
//
// Only as much of a repository is fetched as an answer needs: the trees of the
// commits compared, and the blob of the file read. What was fetched is kept in
// bare repositories that may be deleted at any time.
package gitremote

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/kilnhook/kiln/events"
)

// Limits on an answer.
const (
	MaxRefs     = 50_000  // of a repository
	MaxFiles    = 100_000 // that differ
	defaultTime = 20 * time.Second
)

// Config says how to reach repositories. Dir is required.
type Config struct {
	Dir  string   // where to keep what was fetched
	Env  []string // environment of git: PATH, HOME with its credentials, proxies
	Time time.Duration
	// URL is where a location ("host/path") can be fetched from; nil is https.
	URL func(location string) (string, error)
}

// Client asks repositories. Its methods may be called concurrently.
type Client struct {
	cfg   Config
	locks [32]sync.Mutex // by repository: git fetches into one at a time
}

// New returns a Client.
func New(cfg Config) *Client {
	if cfg.Time <= 0 {
		cfg.Time = defaultTime
	}
	if cfg.URL == nil {
		cfg.URL = func(location string) (string, error) { return "https://" + location + ".git", nil }
	}
	return &Client{cfg: cfg}
}

// Head says where a ref is: its object id, or "" if there is no such ref.
func (c *Client) Head(ctx context.Context, location, ref string) (string, error) {
	refs, err := c.refs(ctx, location, ref)
	if err != nil {
		return "", fmt.Errorf("ask %s where %s is: %w", location, ref, err)
	}
	return refs[ref].Head, nil
}

// Ref is where a ref is.
type Ref struct {
	Head   string // the object that it names
	Commit string // the commit, where Head is an annotated tag; else ""
}

// Refs lists the branches and tags of a repository by their full names.
func (c *Client) Refs(ctx context.Context, location string) (map[string]Ref, error) {
	refs, err := c.refs(ctx, location, "refs/heads/*", "refs/tags/*")
	if err != nil {
		return nil, fmt.Errorf("list refs of %s: %w", location, err)
	}
	return refs, nil
}

func (c *Client) refs(ctx context.Context, location string, patterns ...string) (map[string]Ref, error) {
	url, err := c.cfg.URL(location)
	if err != nil {
		return nil, err
	}
	out, err := c.git(ctx, append([]string{"ls-remote", "--", url}, patterns...)...)
	if err != nil {
		return nil, err
	}
	refs := map[string]Ref{}
	for line := range strings.Lines(string(out)) {
		id, name, ok := strings.Cut(strings.TrimSpace(line), "\t")
		if !ok || !events.IsObjectID(id) {
			continue
		}
		if len(refs) == MaxRefs {
			return nil, fmt.Errorf("there are more than %d refs", MaxRefs)
		}
		if tag, peeled := strings.CutSuffix(name, "^{}"); peeled {
			refs[tag] = Ref{Head: refs[tag].Head, Commit: id}
			continue
		}
		refs[name] = Ref{Head: id, Commit: refs[name].Commit}
	}
	return refs, nil
}

// Changed lists the files that differ between two commits, ascending; a file
// that was renamed under both names.
func (c *Client) Changed(ctx context.Context, location, from, to string) ([]string, error) {
	files, err := c.changed(ctx, location, from, to)
	if err != nil {
		return nil, fmt.Errorf("compare %s with %s in %s: %w", short(from), short(to), location, err)
	}
	return files, nil
}

func (c *Client) changed(ctx context.Context, location, from, to string) ([]string, error) {
	var out []byte
	err := c.with(ctx, location, []string{from, to}, func(ctx context.Context, dir string) (err error) {
		out, err = c.git(ctx, "-C", dir, "diff-tree", "-r", "-z", "--name-only", "--no-renames", from+"^{commit}", to+"^{commit}")
		return err
	})
	if err != nil {
		return nil, err
	}
	files := []string{}
	for name := range strings.SplitSeq(strings.TrimSuffix(string(out), "\x00"), "\x00") {
		if name == "" {
			continue
		}
		if len(files) == MaxFiles {
			return nil, fmt.Errorf("more than %d files differ", MaxFiles)
		}
		files = append(files, name)
	}
	return files, nil
}

// ReadFile reads a file of a commit. The error wraps fs.ErrNotExist if the
// commit has no such file. A file larger than limit bytes is an error.
func (c *Client) ReadFile(ctx context.Context, location, commit, path string, limit int) ([]byte, error) {
	var data []byte
	err := c.with(ctx, location, []string{commit}, func(ctx context.Context, dir string) error {
		out, err := c.git(ctx, "-C", dir, "ls-tree", "-z", commit+"^{commit}", "--", path)
		if err != nil {
			return err
		}
		if fields := strings.Fields(string(out)); len(fields) < 3 || fields[1] != "blob" || fields[0] == "120000" {
			return fs.ErrNotExist
		}
		if data, err = c.git(ctx, "-C", dir, "cat-file", "blob", commit+"^{commit}:"+path); err == nil && len(data) > limit {
			err = fmt.Errorf("it is larger than %d bytes", limit)
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("read %s of %s at %s: %w", path, location, short(commit), err)
	}
	return data, nil
}

// with calls do with a repository that has the given commits.
func (c *Client) with(ctx context.Context, location string, commits []string, do func(ctx context.Context, dir string) error) error {
	for _, id := range commits {
		if !events.IsObjectID(id) {
			return fmt.Errorf("%q is not an object id", id)
		}
	}
	url, err := c.cfg.URL(location)
	if err != nil {
		return err
	}
	sum := sha256.Sum256([]byte(location))
	dir := filepath.Join(c.cfg.Dir, hex.EncodeToString(sum[:16])+".git")
	lock := &c.locks[sum[0]%byte(len(c.locks))]
	lock.Lock()
	defer lock.Unlock()
	ctx, cancel := context.WithTimeoutCause(ctx, c.cfg.Time, errors.New("the repository's host does not answer in time"))
	defer cancel()
	if err := c.prepare(ctx, dir, url, len(commits[0])); err != nil {
		return err
	}
	var missing []string
	for _, id := range commits {
		if _, err := c.git(ctx, "-C", dir, "cat-file", "-e", id+"^{tree}"); err != nil {
			missing = append(missing, id)
		}
	}
	if len(missing) > 0 {
		args := append([]string{"-C", dir, "fetch", "--quiet", "--depth=1", "--no-tags", "--filter=blob:none", "origin"}, missing...)
		if _, err := c.git(ctx, args...); err != nil {
			return err
		}
	}
	return do(ctx, dir)
}

// prepare makes the repository that keeps what is fetched.
func (c *Client) prepare(ctx context.Context, dir, url string, idLength int) error {
	if _, err := os.Stat(filepath.Join(dir, "HEAD")); errors.Is(err, fs.ErrNotExist) {
		format := "sha1"
		if idLength == 64 {
			format = "sha256"
		}
		if err := os.MkdirAll(c.cfg.Dir, 0o700); err != nil {
			return err
		}
		if _, err := c.git(ctx, "init", "--quiet", "--bare", "--object-format="+format, dir); err != nil {
			return err
		}
	} else if err != nil {
		return err
	}
	for _, pair := range [][2]string{
		{"remote.origin.url", url}, {"remote.origin.promisor", "true"}, {"remote.origin.partialclonefilter", "blob:none"},
	} {
		if _, err := c.git(ctx, "-C", dir, "config", pair[0], pair[1]); err != nil {
			return err
		}
	}
	return nil
}

// git runs git and returns what it prints. The error holds what it complained
// about.
func (c *Client) git(ctx context.Context, args ...string) ([]byte, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, c.cfg.Time, errors.New("the repository's host does not answer in time"))
	defer cancel()
	cmd := exec.CommandContext(ctx, "git", args...)
	cmd.Env = append([]string{"LC_ALL=C.UTF-8", "GIT_TERMINAL_PROMPT=0", "GIT_ALLOW_PROTOCOL=https:http:file:ssh"}, c.cfg.Env...)
	cmd.WaitDelay = time.Second
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		if cause := context.Cause(ctx); cause != nil {
			return nil, cause
		}
		words := events.CleanText(strings.TrimSpace(stderr.String()), events.MaxReason)
		return nil, fmt.Errorf("git %s: %w: %s", args[0], err, words)
	}
	return stdout.Bytes(), nil
}

func short(id string) string { return id[:min(12, len(id))] }
