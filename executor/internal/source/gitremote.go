package source

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/object"
	"github.com/go-git/go-git/v5/plumbing/protocol/packp"
	"github.com/go-git/go-git/v5/plumbing/protocol/packp/capability"
	"github.com/go-git/go-git/v5/plumbing/protocol/packp/sideband"
	gittransport "github.com/go-git/go-git/v5/plumbing/transport"
	githttp "github.com/go-git/go-git/v5/plumbing/transport/http"
)

// gitRemote is a repository on a server, and what has been fetched of it.
type gitRemote struct {
	g       *gitFetch
	session packSession
	refs    *packp.AdvRefs
	dir     string          // for packs
	pack    *pack           // what was fetched last; nil at first
	shallow []plumbing.Hash // commits whose history was not fetched
}

// packSession is a conversation with a server about one repository.
type packSession interface {
	AdvertisedReferencesContext(ctx context.Context) (*packp.AdvRefs, error)
	UploadPack(ctx context.Context, req *packp.UploadPackRequest) (*packp.UploadPackResponse, error)
	Close() error
}

// openRemote asks the server what the repository has. Packs go to dir.
func openRemote(ctx context.Context, g *gitFetch, spec gitSpec, dir string) (*gitRemote, error) {
	if spec.url.Scheme == "ssh" {
		session, refs, err := askSSH(ctx, g, spec)
		if err != nil {
			return nil, err
		}
		return &gitRemote{g: g, session: session, refs: refs, dir: dir}, nil
	}
	ep, err := gittransport.NewEndpoint(spec.url.String())
	if err != nil {
		return nil, errors.New("not a valid repository URL")
	}
	var auth gittransport.AuthMethod
	if g.auth != nil && spec.url.Host == g.host {
		auth = g.auth
	}
	session, err := githttp.NewClient(g.client).NewUploadPackSession(ep, auth)
	if err != nil {
		return nil, err
	}
	refs, err := session.AdvertisedReferencesContext(ctx)
	if err != nil {
		return nil, gitError(ctx, err, auth != nil)
	}
	return &gitRemote{g: g, session: session, refs: refs, dir: dir}, nil
}

// askSSH asks by ssh what the repository has, anew where a server that is busy ends the
// conversation before it has said anything.
func askSSH(ctx context.Context, g *gitFetch, spec gitSpec) (*sshRemote, *packp.AdvRefs, error) {
	for try := 0; ; try++ {
		session, err := openSSH(ctx, g, spec)
		if err != nil {
			return nil, nil, err
		}
		refs, err := session.AdvertisedReferencesContext(ctx)
		if err == nil {
			return session, refs, nil
		}
		_ = session.Close()
		var said *saidError
		silent := (errors.Is(err, io.EOF) || errors.Is(err, packp.ErrEmptyInput)) && !errors.As(err, &said)
		if !silent || try >= min(g.opt.Retries, 2) {
			return nil, nil, gitError(ctx, err, true)
		}
		select {
		case <-ctx.Done():
			return nil, nil, context.Cause(ctx)
		case <-time.After(g.opt.RetryWait << min(try, 5)):
		}
	}
}

// close releases the pack. It may be called more than once.
func (r *gitRemote) close() {
	r.pack.close()
	r.pack = nil
}

// gitError says what a server's refusal means.
func gitError(ctx context.Context, err error, loggedIn bool) error {
	switch {
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case errors.Is(err, gittransport.ErrAuthenticationRequired) && loggedIn, errors.Is(err, gittransport.ErrAuthorizationFailed):
		return fmt.Errorf("the Git server refused the credentials: %w", err)
	case errors.Is(err, gittransport.ErrAuthenticationRequired):
		return fmt.Errorf("%w: set GIT_TOKEN, or GIT_USERNAME and GIT_PASSWORD, or check the name of the repository", err)
	case errors.Is(err, gittransport.ErrRepositoryNotFound):
		return fmt.Errorf("repository %w", ErrNotFound)
	case errors.Is(err, gittransport.ErrEmptyRemoteRepository):
		return errors.New("the repository is empty")
	case errors.Is(err, ErrNotFound):
		return err
	}
	var status *githttp.Err
	if errors.As(err, &status) && status.Response != nil {
		return fmt.Errorf("the Git server answered %s", http.StatusText(status.Response.StatusCode))
	}
	return fmt.Errorf("talk to the Git server: %w", withoutURL(ctx, err))
}

// fetch gets the commit that spec means, with as little history as the server
// lets us.
func (r *gitRemote) fetch(ctx context.Context, spec gitSpec) (*object.Commit, error) {
	want := plumbing.NewHash(spec.commit)
	if spec.commit == "" {
		var err error
		if want, err = r.resolve(spec.ref); err != nil {
			return nil, err
		}
	}
	direct := r.advertised(want) || r.refs.Capabilities.Supports(capability.AllowReachableSHA1InWant) ||
		r.refs.Capabilities.Supports(capability.AllowTipSHA1InWant)
	var err error
	if direct {
		depth := 1
		if spec.keepDir {
			depth = spec.depth
		}
		if err = r.pull(ctx, []plumbing.Hash{want}, depth); err == nil {
			return r.commit(want)
		}
	}
	if r.advertised(want) || ctx.Err() != nil {
		return nil, err
	}
	// The server gives out only what a ref points to: get it all and look.
	if err := r.pull(ctx, r.tips(spec.ref), 0); err != nil {
		return nil, err
	}
	c, err := r.commit(want)
	if errors.Is(err, plumbing.ErrObjectNotFound) {
		return nil, fmt.Errorf("commit %s: %w in the repository", want, ErrNotFound)
	}
	return c, err
}

// resolve finds what a ref points to. A plain name is a branch or, if there is
// none, a tag.
func (r *gitRemote) resolve(ref string) (plumbing.Hash, error) {
	if ref == "" || ref == "HEAD" {
		if r.refs.Head == nil {
			return plumbing.ZeroHash, fmt.Errorf("the repository has no default branch: name one, #main for example")
		}
		return *r.refs.Head, nil
	}
	names := []string{"refs/heads/" + ref, "refs/tags/" + ref}
	if strings.HasPrefix(ref, "refs/") {
		names = []string{ref}
	}
	for _, name := range names {
		if h, ok := r.refs.Peeled[name]; ok {
			return h, nil
		}
		if h, ok := r.refs.References[name]; ok {
			return h, nil
		}
	}
	if len(ref) >= 7 && len(ref) < 40 && strings.Trim(ref, "0123456789abcdef") == "" {
		return plumbing.ZeroHash, fmt.Errorf("ref %q is neither a branch nor a tag (a commit needs all its 40 hex digits): %w", ref, ErrNotFound)
	}
	return plumbing.ZeroHash, fmt.Errorf("ref %q is neither a branch nor a tag: %w", ref, ErrNotFound)
}

// advertised says whether a ref points to h.
func (r *gitRemote) advertised(h plumbing.Hash) bool {
	if r.refs.Head != nil && *r.refs.Head == h {
		return true
	}
	for _, refs := range []map[string]plumbing.Hash{r.refs.References, r.refs.Peeled} {
		for _, other := range refs {
			if other == h {
				return true
			}
		}
	}
	return false
}

// tips is what to get when a commit has to be looked for: the history of ref
// if there is one, else that of all branches and tags.
func (r *gitRemote) tips(ref string) []plumbing.Hash {
	if h, err := r.resolve(ref); err == nil && ref != "" {
		return []plumbing.Hash{h}
	}
	seen := map[plumbing.Hash]bool{}
	var out []plumbing.Hash
	for name, h := range r.refs.References {
		if (strings.HasPrefix(name, "refs/heads/") || strings.HasPrefix(name, "refs/tags/")) && !seen[h] {
			seen[h] = true
			out = append(out, h)
		}
	}
	return out
}

// pull gets objects; depth 0 is the complete history.
func (r *gitRemote) pull(ctx context.Context, wants []plumbing.Hash, depth int) error {
	req := packp.NewUploadPackRequestFromCapabilities(r.refs.Capabilities)
	req.Capabilities.Delete(capability.ThinPack)
	req.Wants = wants
	if depth > 0 && r.refs.Capabilities.Supports(capability.Shallow) {
		req.Depth = packp.DepthCommits(depth)
		if err := req.Capabilities.Set(capability.Shallow); err != nil {
			return err
		}
	}
	if r.refs.Capabilities.Supports(capability.NoProgress) {
		if err := req.Capabilities.Set(capability.NoProgress); err != nil {
			return err
		}
	}
	resp, err := r.session.UploadPack(ctx, req)
	if err != nil {
		return gitError(ctx, err, r.g.auth != nil)
	}
	defer func() { _ = resp.Close() }()
	f, err := os.CreateTemp(r.dir, "pack-*")
	if err != nil {
		return writeFailed(r.g.temp, err)
	}
	if _, err := io.Copy(f, &packReader{r: demux(req, resp), g: r.g}); err != nil {
		_ = f.Close()
		if errors.As(err, new(*LimitError)) {
			return err
		}
		return fmt.Errorf("fetch from the Git server: %w", writeFailed(r.g.temp, withoutURL(ctx, err)))
	}
	r.close()
	r.shallow = resp.Shallows
	r.pack, err = openPack(ctx, f, r.dir, r.g.opt.Limits.Bytes)
	return err
}

// demux returns the pack in an answer.
func demux(req *packp.UploadPackRequest, resp io.Reader) io.Reader {
	switch {
	case req.Capabilities.Supports(capability.Sideband64k):
		return sideband.NewDemuxer(sideband.Sideband64k, resp)
	case req.Capabilities.Supports(capability.Sideband):
		return sideband.NewDemuxer(sideband.Sideband, resp)
	}
	return resp
}

// packReader counts what arrives.
type packReader struct {
	r    io.Reader
	g    *gitFetch
	told int64
}

func (p *packReader) Read(b []byte) (int, error) {
	n, err := p.r.Read(b)
	p.g.received += int64(n)
	limit := p.g.opt.Limits.Bytes
	if limit > 0 && p.g.received > limit {
		return n, &LimitError{What: "bytes fetched", Limit: limit}
	}
	if p.g.received-p.told >= progressEvery || errors.Is(err, io.EOF) {
		p.told = p.g.received
		p.g.opt.Progress(p.g.received, 0)
	}
	return n, err
}

// maxTags is how many tags may point to each other.
const maxTags = 10

// commit reads the commit h; h may be a tag of one.
func (r *gitRemote) commit(h plumbing.Hash) (*object.Commit, error) {
	for range maxTags {
		i, err := r.pack.find(h)
		if err != nil {
			return nil, err
		}
		if r.pack.objects[i].typ != plumbing.TagObject {
			break
		}
		var tag object.Tag
		if err := r.pack.decode(h, &tag); err != nil {
			return nil, fmt.Errorf("read tag %s: %w", h, err)
		}
		h = tag.Target
	}
	var c object.Commit
	if err := r.pack.decode(h, &c); err != nil {
		return nil, fmt.Errorf("read commit %s: %w", h, err)
	}
	return &c, nil
}

// tree reads a directory.
func (r *gitRemote) tree(h plumbing.Hash) (*object.Tree, error) {
	var t object.Tree
	if err := r.pack.decode(h, &t); err != nil {
		return nil, err
	}
	return &t, nil
}
