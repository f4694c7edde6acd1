package source

import (
	"context"
	"fmt"
	"net/url"
	"strings"
)

// Repository says which files of which commit of a repository are wanted, as
// ADD and named contexts do. Of Options only what is about Git's transport and
// the place on disk counts; credentials go to the repository's host.
type Repository struct {
	URL        string // http or https; credentials in it are used
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
	scheme, rest, _ := strings.Cut(r.URL, "://")
	if scheme != "http" && scheme != "https" {
		return nil, fmt.Errorf("scheme %s:// is not supported: use an https:// URL", scheme)
	}
	u, err := parseHTTP(scheme, rest)
	if err != nil {
		return nil, err
	}
	spec := gitSpec{url: u, user: u.User, ref: r.Ref, keepDir: r.KeepGitDir && r.Subdir == ""}
	u.User, u.RawQuery = nil, ""
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

// Host returns the host of a context's or repository's URL, with its port; ""
// if it has none.
func Host(rawURL string) string {
	u, err := url.Parse(rawURL)
	if err != nil {
		return ""
	}
	return u.Host
}
