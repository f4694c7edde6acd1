package registry

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/partial"
	ggcr "github.com/google/go-containerregistry/pkg/v1/remote/transport"
	"golang.org/x/sync/errgroup"
)

// maxUploads is how many layers Finish uploads at once.
const maxUploads = 4

// Push sends an image to its destinations: layers as they are made, then the
// manifest, tags last. It is safe for concurrent use.
type Push struct {
	c     *Client
	repos []name.Repository // each once
	tags  []name.Tag        // of all destinations, each once
}

// Push prepares a push to destinations, which are "registry/repository:tag";
// without a tag it is "latest". Nothing is sent yet.
func (c *Client) Push(dests ...string) (*Push, error) {
	p := &Push{c: c}
	seen := map[string]bool{}
	for _, dest := range dests {
		tag, err := c.destination(dest)
		if err != nil {
			return nil, err
		}
		if !seen[tag.Name()] {
			seen[tag.Name()] = true
			p.tags = append(p.tags, tag)
		}
		if repo := tag.Repository; !seen[repo.Name()+"/"] {
			seen[repo.Name()+"/"] = true
			p.repos = append(p.repos, repo)
		}
	}
	if len(p.repos) == 0 {
		return nil, errors.New("push: no destination is given")
	}
	return p, nil
}

func (c *Client) destination(dest string) (name.Tag, error) {
	if strings.Contains(dest, "@") {
		return name.Tag{}, fmt.Errorf("destination %q has a digest: a destination is a repository and a tag", dest)
	}
	tag, err := name.NewTag(dest, c.nameOptions(dest, false)...)
	if err != nil {
		return name.Tag{}, fmt.Errorf("destination %q is not valid: %w", dest, err)
	}
	return tag, nil
}

// Finish uploads what is not there yet, puts the manifest under its digest in
// every repository and, unless byDigestOnly, moves the tags to it. When it
// returns an error no tag was moved, or some were if the error is about a tag.
func (p *Push) Finish(ctx context.Context, img v1.Image, byDigestOnly bool) (v1.Hash, error) {
	digest, err := img.Digest()
	if err != nil {
		return v1.Hash{}, fmt.Errorf("push image: %w", err)
	}
	if err := p.blobs(ctx, img); err != nil {
		return v1.Hash{}, err
	}
	for _, repo := range p.repos {
		ref := repo.Digest(digest.String())
		if err := p.put(ctx, ref, img); err != nil {
			return v1.Hash{}, fmt.Errorf("push manifest %s: %w", ref, p.c.explain(err, repo))
		}
	}
	if byDigestOnly {
		return digest, nil
	}
	for _, tag := range p.tags {
		err := p.put(ctx, tag, img)
		if err != nil && isImmutable(err) {
			err = p.immutable(ctx, tag, digest, err)
		}
		if err != nil {
			return v1.Hash{}, fmt.Errorf("push tag %s: %w", tag, p.c.explain(err, tag.Repository))
		}
	}
	return digest, nil
}

// blobs uploads the layers and the config.
func (p *Push) blobs(ctx context.Context, img v1.Image) error {
	layers, err := img.Layers()
	if err != nil {
		return fmt.Errorf("push image: %w", err)
	}
	config, err := partial.ConfigLayer(img)
	if err != nil {
		return fmt.Errorf("push image: %w", err)
	}
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(maxUploads)
	for _, l := range append(layers, config) {
		group.Go(func() error { return p.Upload(ctx, l, nil) })
	}
	return group.Wait()
}

func (p *Push) put(ctx context.Context, ref name.Reference, img v1.Image) error {
	return p.c.again(ctx, p.c.opt.PushRetry, func() error {
		return p.c.destPusher.Put(ctx, ref, img)
	})
}

// isImmutable knows the answers of Artifact Registry and ECR for a tag that
// must not be moved.
func isImmutable(err error) bool {
	for _, text := range []string{
		"The repository has enabled tag immutability",
		"cannot be overwritten because the tag is immutable",
	} {
		if strings.Contains(err.Error(), text) {
			return true
		}
	}
	return false
}

// immutable decides what a tag that cannot be moved means: nothing if it is
// where it should be.
func (p *Push) immutable(ctx context.Context, tag name.Tag, digest v1.Hash, err error) error {
	desc, headErr := p.c.destPuller.Head(ctx, tag)
	if headErr == nil && desc.Digest == digest {
		return nil
	}
	if !p.c.opt.IgnoreImmutableTagErrors {
		return err
	}
	p.c.opt.Log.Warn("tag is immutable and was not moved", "tag", tag.String(), "digest", digest.String(), "err", err)
	return nil
}

// CheckPush asks the registry of a destination whether we may push there: an
// upload is begun and cancelled.
func (c *Client) CheckPush(ctx context.Context, dest string) error {
	tag, err := c.destination(dest)
	if err != nil {
		return err
	}
	err = c.again(ctx, c.opt.PushRetry, func() error { return c.beginUpload(ctx, tag.Repository) })
	if err != nil {
		return fmt.Errorf("check push permission for %s: %w", tag, c.explain(err, tag.Repository))
	}
	return nil
}

func (c *Client) beginUpload(ctx context.Context, repo name.Repository) error {
	auth, err := resolve(ctx, c.opt.Keychain, repo)
	if err != nil {
		return err
	}
	rt, err := ggcr.NewWithContext(ctx, repo.Registry, auth, ggcr.NewUserAgent(c.destTripper, c.opt.UserAgent), []string{repo.Scope(ggcr.PushScope)})
	if err != nil {
		return err
	}
	client := &http.Client{Transport: rt}
	url := fmt.Sprintf("%s://%s/v2/%s/blobs/uploads/", repo.Scheme(), repo.RegistryStr(), repo.RepositoryStr())
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, url, http.NoBody)
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }()
	if err := ggcr.CheckError(resp, http.StatusCreated, http.StatusAccepted); err != nil {
		return err
	}
	c.cancelUpload(ctx, client, resp)
	return nil
}

// cancelUpload lets the registry forget an upload. That it may fail does not
// matter: registries forget uploads by themselves in time.
func (c *Client) cancelUpload(ctx context.Context, client *http.Client, begun *http.Response) {
	location, err := begun.Location()
	if err != nil || location.Host != begun.Request.URL.Host {
		return
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodDelete, location.String(), http.NoBody)
	if err != nil {
		return
	}
	if resp, err := client.Do(req); err == nil {
		_ = resp.Body.Close()
	}
}
