package registry

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/partial"
	"golang.org/x/sync/errgroup"
)

// maxUploads is how many layers Finish uploads at once.
const maxUploads = 4

// Push sends an image to its destinations: layers as they are made, then the
// manifest, tags last. It is safe for concurrent use.
type Push struct {
	c       *Client
	targets []*target  // repositories, each once
	tags    []name.Tag // of all destinations, each once
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
			p.targets = append(p.targets, newTarget(c, repo))
		}
	}
	if len(p.targets) == 0 {
		return nil, errors.New("push: no destination is given")
	}
	return p, nil
}

// Only tells whether a registry is the only one that is pushed to.
func (p *Push) Only(host string) bool {
	for _, t := range p.targets {
		if t.repo.RegistryStr() != host {
			return false
		}
	}
	return true
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
// every repository and, unless byDigestOnly, moves the tags to it. A manifest that
// goes under one tag only is put there at once, which puts it under its digest too.
// When it returns an error no tag was moved, or some were if the error is about a tag.
func (p *Push) Finish(ctx context.Context, img v1.Image, byDigestOnly bool) (v1.Hash, error) {
	m, err := manifestOf(img)
	if err != nil {
		return v1.Hash{}, fmt.Errorf("push image: %w", err)
	}
	if err := p.blobs(ctx, img); err != nil {
		return v1.Hash{}, err
	}
	if byDigestOnly || len(p.tags) > 1 {
		var group errgroup.Group
		for _, t := range p.targets {
			group.Go(func() error { return t.digest(ctx, m) })
		}
		if err := group.Wait(); err != nil {
			return v1.Hash{}, err
		}
	}
	if byDigestOnly {
		return m.digest, nil
	}
	var group errgroup.Group
	for _, tag := range p.tags {
		group.Go(func() error { return p.tag(ctx, tag, m) })
	}
	return m.digest, group.Wait()
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

// Check asks the registries of all destinations whether we may push there: uploads
// are begun, which are used later. Close gives up those that are not.
func (p *Push) Check(ctx context.Context) error {
	var group errgroup.Group
	for _, t := range p.targets {
		checking := make(chan struct{})
		t.mu.Lock()
		t.checking = checking
		t.mu.Unlock()
		group.Go(func() error {
			defer close(checking)
			if err := p.c.again(ctx, p.c.opt.PushRetry, func() error { return p.c.thrice(ctx, func() error { return t.check(ctx) }) }); err != nil {
				return fmt.Errorf("check push permission for %s: %w", p.tagOf(t), p.c.explain(err, t.repo))
			}
			return nil
		})
	}
	return group.Wait()
}

// Prepare logs in, in the background, to mount layers from another repository: one
// that is not of the registry of a destination needs nothing. That it fails does not
// matter, since who mounts logs in if that is not done.
func (p *Push) Prepare(ctx context.Context, from string) {
	repo, err := name.NewRepository(from, p.c.nameOptions(from, false)...)
	if err != nil {
		return
	}
	for _, t := range p.targets {
		if t.repo.RegistryStr() != repo.RegistryStr() || t.repo.RepositoryStr() == repo.RepositoryStr() {
			continue
		}
		p.c.work.Go(func() {
			ctx, cancel := context.WithTimeoutCause(ctx, maxPlain, errSlow)
			defer cancel()
			_, _ = p.c.reach(ctx, t.repo, repo.RepositoryStr())
		})
	}
}

// tagOf is the first destination in a repository.
func (p *Push) tagOf(t *target) name.Tag {
	for _, tag := range p.tags {
		if tag.Repository == t.repo {
			return tag
		}
	}
	return name.Tag{Repository: t.repo}
}

// Close gives up what was begun and not used.
func (p *Push) Close(ctx context.Context) {
	for _, t := range p.targets {
		t.close(ctx)
	}
}

// CheckPush asks the registry of a destination whether we may push there: an
// upload is begun and cancelled.
func (c *Client) CheckPush(ctx context.Context, dest string) error {
	p, err := c.Push(dest)
	if err != nil {
		return err
	}
	err = p.Check(ctx)
	p.Close(ctx)
	c.Close()
	return err
}
