package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"path/filepath"
	"strconv"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"golang.org/x/sync/errgroup"

	"github.com/kilnhook/kiln/events"
	"github.com/kilnhook/kiln/executor/internal/access"
	"github.com/kilnhook/kiln/executor/internal/build"
	"github.com/kilnhook/kiln/executor/internal/cache"
	"github.com/kilnhook/kiln/executor/internal/registry"
	"github.com/kilnhook/kiln/executor/internal/source"
	"github.com/kilnhook/kiln/executor/internal/step"
	"github.com/kilnhook/kiln/executor/internal/store"
	"github.com/kilnhook/kiln/executor/internal/transport"
)

// env returns a variable or "".
func (s *session) env(name string) string {
	v, _ := s.p.lookup(name)
	return v
}

// newClient makes the registry client that the flags describe.
func (s *session) newClient() (*registry.Client, error) {
	keys, err := s.keychain()
	if err != nil {
		return nil, err
	}
	return s.c.registry.Client(s.access(), keys)
}

func (s *session) keychain() (*registry.Keychain, error) { return s.c.registry.Keychain(s.access()) }

// access is what this process gives to those who reach registries.
func (s *session) access() access.Process {
	return access.Process{Lookup: s.p.lookup, Env: s.p.env, Now: s.p.now, UserAgent: s.userAgent(), Log: s.log, Local: s.baseCache(), Document: s.document}
}

// preparePush returns nil if nothing is to be pushed. Whether the destinations may
// be pushed to is found out in the background: checked waits for it.
func (s *session) preparePush(ctx context.Context, client *registry.Client) (push *registry.Push, checked func() error, err error) {
	checked = func() error { return nil }
	if s.c.noPush || s.c.dryRun {
		return nil, checked, nil
	}
	if push, err = client.Push(s.c.destinations...); err != nil || s.c.skipPushCheck {
		return push, checked, err
	}
	var group errgroup.Group
	group.Go(func() error { return push.Check(ctx) })
	return push, func() error {
		if err := group.Wait(); err != nil {
			return fault(events.ClassPush, fmt.Errorf("checking push permissions: %w", err))
		}
		return nil
	}, nil
}

// sourceOptions says how the context is fetched.
func (s *session) sourceOptions(dir string) (source.Options, error) {
	opt := source.Options{
		TempDir: dir, SubPath: s.c.subPath, Stdin: s.p.stdin, UserAgent: s.userAgent(),
		GitPullMethod: s.env("GIT_PULL_METHOD"), GitToken: s.env("GIT_TOKEN"),
		GitUsername: s.env("GIT_USERNAME"), GitPassword: s.env("GIT_PASSWORD"),
		GitSkipLFS: isTrue(s.env("GIT_LFS_SKIP_SMUDGE")), GitKeepDir: s.keepGitDir(), SSH: s.ssh(),
		Env: s.env, Now: s.p.now, Proxy: http.ProxyFromEnvironment, Log: s.log,
	}
	for _, kv := range s.c.git {
		k, v, ok := strings.Cut(kv, "=")
		if !ok {
			return opt, fmt.Errorf("invalid git flag %q, must be in the key=value format", kv)
		}
		var err error
		switch k {
		case "branch":
			opt.GitBranch = v
		case "single-branch": // one commit is all that is fetched
			_, err = strconv.ParseBool(v)
		case "depth":
			var n uint64
			n, err = strconv.ParseUint(v, 10, 31)
			opt.GitDepth = int(n)
		case "recurse-submodules":
			opt.GitSubmodules, err = strconv.ParseBool(v)
		case "insecure-skip-tls":
			opt.GitInsecureSkipTLS, err = strconv.ParseBool(v)
		default:
			err = errors.New("unknown key: want branch, single-branch, depth, recurse-submodules or insecure-skip-tls")
		}
		if err != nil {
			return opt, fmt.Errorf("--git %s: %w", kv, err)
		}
	}
	return opt, nil
}

func isTrue(s string) bool {
	on, err := strconv.ParseBool(s)
	return err == nil && on
}

// keepGitDir tells whether the build argument is set by which BuildKit leaves a
// .git in a context from Git.
func (s *session) keepGitDir() bool {
	args, err := s.c.arguments(s.p.lookup)
	return err == nil && isTrue(args["BUILDKIT_CONTEXT_KEEP_GIT_DIR"])
}

// ssh says how to log in to the Git servers of contexts.
func (s *session) ssh() source.SSHOptions {
	o := source.SSHOptions{Agent: s.env("SSH_AUTH_SOCK"), KnownHosts: []string{"/etc/ssh/ssh_known_hosts"}}
	if files := s.env("SSH_KNOWN_HOSTS"); files != "" {
		o.KnownHosts = filepath.SplitList(files)
	}
	if home := s.env("HOME"); home != "" {
		o.Dirs = append(o.Dirs, filepath.Join(home, ".ssh"))
	}
	o.Dirs = append(o.Dirs, filepath.Join(s.c.registry.KanikoDir, ".ssh"))
	return o
}

// fetchURL gets what an ADD names.
func (s *session) fetchURL(ctx context.Context, url string) (io.ReadCloser, step.URLInfo, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, step.URLInfo{}, fmt.Errorf("fetch %s: %w", source.Redact(url), err)
	}
	if login := s.downloadLogin(req.URL); login != "" {
		req.Header.Set("Authorization", login)
	}
	client := &http.Client{Transport: transport.New(transport.Options{Proxy: http.ProxyFromEnvironment, UserAgent: s.userAgent()})}
	resp, err := client.Do(req)
	if err != nil {
		return nil, step.URLInfo{}, fmt.Errorf("fetch %s: %w", source.Redact(url), err)
	}
	if resp.StatusCode != http.StatusOK {
		_ = resp.Body.Close()
		return nil, step.URLInfo{}, fmt.Errorf("fetch %s: the server answered %s", source.Redact(url), resp.Status)
	}
	var info step.URLInfo
	if t, err := http.ParseTime(resp.Header.Get("Last-Modified")); err == nil {
		info.ModTime = t
	}
	return resp.Body, info, nil
}

// describe fills the result with what there is to say about the image.
func (s *session) describe(res build.Result) error {
	m, err := res.Image.Manifest()
	if err != nil {
		return err
	}
	by := map[v1.Hash]string{}
	for _, l := range res.Layers {
		digest, err := l.Layer.Digest()
		if err != nil {
			return err
		}
		by[digest] = l.CreatedBy
	}
	s.res.MediaType = string(m.MediaType)
	s.res.Size = m.Config.Size
	for _, l := range m.Layers {
		s.res.Size += l.Size
		s.res.Layers = append(s.res.Layers, events.LayerInfo{Digest: l.Digest.String(), Size: l.Size, CreatedBy: by[l.Digest]})
	}
	if len(s.c.destinations) > 0 && !s.c.noPush {
		repo, _ := splitDestination(s.c.destinations[0])
		s.res.Repository = repo
		for _, d := range s.c.destinations {
			if r, tag := splitDestination(d); r == repo && !s.c.pushByDigest {
				s.res.Tags = append(s.res.Tags, tag)
			}
		}
	}
	return nil
}

// imageName is the name that a layout's image gets.
func (s *session) imageName() string {
	if len(s.c.destinations) == 0 {
		return ""
	}
	return s.c.destinations[0]
}

// archiveTags are the names in an archive for docker load; kaniko's if there
// is no destination.
func (s *session) archiveTags() []string {
	if len(s.c.destinations) == 0 {
		return []string{"docker.io/unset-repo/unset-image-name"}
	}
	return s.c.destinations
}

// layerCache remembers what steps made, and indexes of other layers.
type layerCache interface {
	build.Cache
	store.Remote
	Recall(ctx context.Context, k cache.Key, done func())
	Document(ctx context.Context, digest v1.Hash) []byte
	Note(digest v1.Hash, raw []byte)
	Keep(ctx context.Context) error
}

// readOnly is a cache that nothing is stored in.
type readOnly struct{ layerCache }

func (readOnly) Put(context.Context, cache.Key, v1.Layer, cache.Meta) error { return nil }
func (readOnly) PutIndex(context.Context, v1.Hash, []byte) error            { return nil }
func (readOnly) Keep(context.Context) error                                 { return nil }

// newCache opens the layer cache.
func (s *session) newCache(client *registry.Client) (layerCache, error) {
	c, err := s.openCache(client)
	if err == nil && s.c.noPushCache {
		return readOnly{c}, nil
	}
	return c, err
}

// storeDir is the directory of what this build has in common with others on this
// machine, or one of its own.
func (s *session) storeDir() string {
	if s.c.storeDir != "" {
		return s.c.storeDir
	}
	return filepath.Join(s.workDir, "store")
}

// cacheRepo is where the layer cache is: a repository or oci:DIR.
func (s *session) cacheRepo() string {
	if s.c.cacheRepo != "" {
		return s.c.cacheRepo
	}
	repo, _ := splitDestination(s.c.destinations[0])
	return repo + "/cache"
}

func (s *session) openCache(client *registry.Client) (*cache.Cache, error) {
	opt := cache.Options{TTL: s.c.cacheTTL, Now: s.p.now, Log: s.log}
	repo := s.cacheRepo()
	if dir, ok := strings.CutPrefix(repo, "oci:"); ok {
		return cache.NewDir(dir, opt), nil
	}
	name, reach, err := client.Repository(repo)
	if err != nil {
		return nil, err
	}
	return cache.NewRepository(name, reach, opt)
}
