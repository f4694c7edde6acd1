package source

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"strings"
)

// Repository says which files of which commit of a repository are wanted, as
// ADD and named contexts do. Of Options only what is about Git's transport and
// the place on disk counts; credentials go to the repository's host.
type Repository struct {
	URL        string // http, https, ssh or user@host:path; credentials in it are used
	Ref        string // branch, tag, full name of a ref or full commit id; "" is the default branch
	Commit     string // what the commit's id must begin with, lower case; "" for any
	Subdir     string // "" is the root
	Submodules bool
	KeepGitDir bool // leave a .git, as of a clone without history, unless there is a Subdir
}

// FetchRepository makes the files of a commit available on disk. The caller
// closes what it returns. Credentials are never part of an error.
func FetchRepository(ctx context.Context, r Repository, opt Options) (*Context, error) {
	opt.applyDefaults()
	opt.GitSubmodules = r.Submodules
	c, err := fetchRepository(ctx, r, &opt)
	if err != nil {
		return nil, fmt.Errorf("repository %s: %w", Redact(r.URL), err)
	}
	return c, nil
}

func fetchRepository(ctx context.Context, r Repository, opt *Options) (*Context, error) {
	spec, err := repositorySpec(r.URL)
	if err != nil {
		return nil, err
	}
	spec.ref, spec.keepDir, spec.depth = r.Ref, r.KeepGitDir && r.Subdir == "", 1
	if isCommit(r.Ref) {
		spec.ref, spec.commit = "", r.Ref
	}
	if err := checkRef(spec.ref); err != nil {
		return nil, err
	}
	if _, err := cleanSubPath(r.Subdir); err != nil {
		return nil, err
	}
	c, err := newTemp(opt)
	if err != nil {
		return nil, err
	}
	c.Revision.Commit, err = checkOut(ctx, spec, c, opt)
	if err == nil && !strings.HasPrefix(c.Revision.Commit, r.Commit) {
		what := "its default branch"
		if r.Ref != "" {
			what = fmt.Sprintf("%q", r.Ref)
		}
		err = fmt.Errorf("%s is commit %s and not %s, as the checksum says", what, c.Revision.Commit, r.Commit)
	}
	if err == nil {
		err = c.enter(r.Subdir)
	}
	if err != nil {
		_ = c.Close()
		return nil, err
	}
	return c, nil
}

func repositorySpec(raw string) (gitSpec, error) {
	scheme, rest, ok := strings.Cut(raw, "://")
	if !ok || scheme == "ssh" {
		u, path, err := sshURL(raw)
		if err == nil && u == nil {
			err = errors.New("not the URL of a repository")
		}
		if err != nil {
			return gitSpec{}, err
		}
		spec := gitSpec{url: u, user: u.User, path: path}
		u.User = nil
		return spec, nil
	}
	if scheme != "http" && scheme != "https" {
		return gitSpec{}, fmt.Errorf("scheme %s:// is not supported: use an https:// or an ssh URL", scheme)
	}
	u, err := parseHTTP(scheme, rest)
	if err != nil {
		return gitSpec{}, err
	}
	spec := gitSpec{url: u, user: u.User}
	u.User, u.RawQuery = nil, ""
	return spec, nil
}

// Host returns the host of a context's or repository's URL, with its port; ""
// if it has none.
func Host(rawURL string) string {
	if u, _, err := sshURL(rawURL); err == nil && u != nil {
		return u.Host
	}
	u, err := url.Parse(rawURL)
	if err != nil {
		return ""
	}
	return u.Host
}
