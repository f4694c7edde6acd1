package source

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"path"
	"path/filepath"
	"strings"

	"github.com/go-git/go-git/v5/config"
	"github.com/go-git/go-git/v5/plumbing"
	githttp "github.com/go-git/go-git/v5/plumbing/transport/http"
)

// maxSubmoduleDepth is how deep submodules may lie in submodules.
const maxSubmoduleDepth = 8

// fetchGit fetches one commit of a Git repository, without its history. All
// files have the time of the commit, so that the same commit always gives the
// same files.
func fetchGit(ctx context.Context, rest string, opt *Options) (*Context, error) {
	spec, err := parseGit(rest, opt.GitPullMethod)
	if err != nil {
		return nil, err
	}
	return fetchSpec(ctx, spec, opt)
}

// fetchSSH fetches one commit of a repository over ssh.
func fetchSSH(ctx context.Context, rest string, opt *Options) (*Context, error) {
	return fetchSCP(ctx, "ssh://"+rest, opt)
}

// fetchSCP is fetchSSH for user@host:path.
func fetchSCP(ctx context.Context, raw string, opt *Options) (*Context, error) {
	spec, err := parseSSHGit(raw)
	if err != nil {
		return nil, err
	}
	return fetchSpec(ctx, spec, opt)
}

func fetchSpec(ctx context.Context, spec gitSpec, opt *Options) (*Context, error) {
	spec.keepDir, spec.depth = opt.GitKeepDir && spec.subdir == "", opt.GitDepth
	if spec.ref == "" && spec.commit == "" {
		if spec.ref = opt.GitBranch; checkRef(spec.ref) != nil {
			return nil, checkRef(spec.ref)
		}
	}
	c, err := newTemp(opt)
	if err != nil {
		return nil, err
	}
	if c.Revision.Commit, err = checkOut(ctx, spec, c, opt); err != nil {
		_ = c.Close()
		return nil, err
	}
	if err := c.enter(spec.subdir); err != nil {
		_ = c.Close()
		return nil, err
	}
	return c, nil
}

// checkOut writes the files of the commit that spec means to c.Dir and
// returns the commit's id.
func checkOut(ctx context.Context, spec gitSpec, c *Context, opt *Options) (_ string, err error) {
	t, err := newTree(c.Dir, &budget{limits: opt.Limits})
	if err != nil {
		return "", err
	}
	defer func() {
		if closeErr := t.close(err != nil); err == nil && closeErr != nil {
			err = writeFailed(c.Dir, closeErr)
		}
	}()
	user := spec.user
	if spec.url.Scheme == "ssh" {
		user = nil // it says who logs in over ssh, and has no password
	}
	g := &gitFetch{
		tree: t, opt: opt, dir: c.Dir, temp: c.temp,
		client: newClient(opt, opt.GitInsecureSkipTLS), keepDir: spec.keepDir, host: spec.url.Host, auth: gitAuth(user, opt),
	}
	commit, err := g.repository(ctx, spec, ".", 0)
	if err != nil {
		return "", err
	}
	if g.lfs > 0 {
		opt.Log.Warn("files are kept in Git LFS and only their pointers are in the context, as GIT_LFS_SKIP_SMUDGE asks for", "files", g.lfs, "first", g.firstLFS)
	}
	return commit, nil
}

// gitAuth is how to log in to the repository's host; nil if not at all.
func gitAuth(user *url.Userinfo, opt *Options) *githttp.BasicAuth {
	switch {
	case user != nil:
		password, _ := user.Password()
		return &githttp.BasicAuth{Username: user.Username(), Password: password}
	case opt.GitToken != "":
		return &githttp.BasicAuth{Username: opt.GitToken}
	case opt.GitUsername != "" || opt.GitPassword != "":
		return &githttp.BasicAuth{Username: opt.GitUsername, Password: opt.GitPassword}
	}
	return nil
}

// gitFetch fetches a repository and its submodules into one tree.
type gitFetch struct {
	tree   *tree
	opt    *Options
	dir    string // of the tree
	temp   string // for packs
	client *http.Client
	host   string             // the only one that gets auth
	auth   *githttp.BasicAuth // nil if there is none

	keepDir bool // make .git too

	received int64  // bytes of packs
	lfs      int64  // pointers found
	firstLFS string // name of the first
}

// repository writes a commit of a repository to the directory at of the tree
// and returns the commit's id.
func (g *gitFetch) repository(ctx context.Context, spec gitSpec, at string, depth int) (string, error) {
	dir, err := os.MkdirTemp(g.temp, "git-*")
	if err != nil {
		return "", fmt.Errorf("make a directory for the repository: %w", err)
	}
	defer func() { _ = removeAll(dir) }()
	r, err := openRemote(ctx, g, spec, dir)
	if err != nil {
		return "", err
	}
	defer r.close()
	defer func() { _ = r.session.Close() }()
	commit, err := r.fetch(ctx, spec)
	if err != nil {
		return "", err
	}
	modules, err := g.writeCommit(ctx, r, spec, commit, at)
	if err != nil {
		return "", err
	}
	_ = r.session.Close() // submodules may take long
	r.close()
	if err := removeAll(dir); err != nil {
		return "", err
	}
	for _, m := range modules {
		if err := g.submodule(ctx, spec, m, depth+1); err != nil {
			return "", err
		}
	}
	return commit.Hash.String(), nil
}

// submodule is a commit of another repository at a place in the tree.
type submodule struct {
	name   string // in its repository
	at     string // in the tree
	url    string // as .gitmodules has it
	commit plumbing.Hash
}

func (g *gitFetch) submodule(ctx context.Context, parent gitSpec, m submodule, depth int) error {
	if depth > maxSubmoduleDepth {
		return fmt.Errorf("submodule %q: more than %d levels of submodules", m.at, maxSubmoduleDepth)
	}
	spec, err := submoduleSpec(parent, m.url)
	if err != nil {
		return fmt.Errorf("submodule %q: %w", m.at, err)
	}
	spec.commit = m.commit.String()
	if _, err := g.repository(ctx, spec, m.at, depth); err != nil {
		return fmt.Errorf("submodule %q from %s: %w", m.at, spec.url, err)
	}
	return nil
}

// submoduleSpec is the repository of a submodule. Its URL may be relative to
// its parent's. One on the parent's host that is written for ssh is fetched as
// the parent is, with the same credentials.
func submoduleSpec(of gitSpec, raw string) (gitSpec, error) {
	parent := of.url
	if strings.HasPrefix(raw, "./") || strings.HasPrefix(raw, "../") {
		u := *parent
		u.Path = path.Join("/", parent.Path, raw)
		u.RawPath, u.RawQuery = "", ""
		return gitSpec{url: &u, user: of.user, path: path.Join(of.path, raw)}, nil
	}
	u, sshPath, err := sshURL(raw)
	switch {
	case err != nil:
		return gitSpec{}, err
	case u != nil && parent.Scheme != "ssh" && u.Hostname() == parent.Hostname():
		u.Scheme, u.Host, u.User = parent.Scheme, parent.Host, nil
		return gitSpec{url: u}, nil
	case u != nil:
		user := u.User
		u.User = nil
		return gitSpec{url: u, user: user, path: sshPath}, nil
	}
	u, err = url.Parse(raw)
	if err != nil || u.Scheme != "https" && (u.Scheme != parent.Scheme || u.Scheme == "ssh") || u.Host == "" {
		return gitSpec{}, errors.New("only https://, ssh and relative URLs are supported for submodules")
	}
	u.User = nil // credentials in a repository are not ours to use
	return gitSpec{url: u}, nil
}

// parseModules maps the paths of submodules to their URLs.
func parseModules(content []byte) (map[string]string, error) {
	m := config.NewModules()
	if err := m.Unmarshal(content); err != nil {
		return nil, fmt.Errorf("parse .gitmodules: %w", err)
	}
	urls := make(map[string]string, len(m.Submodules))
	for _, s := range m.Submodules {
		urls[filepath.ToSlash(filepath.Clean(s.Path))] = s.URL
	}
	return urls, nil
}
