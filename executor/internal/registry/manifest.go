package registry

import (
	"context"
	"errors"
	"fmt"
	"net/http"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	ggcr "github.com/google/go-containerregistry/pkg/v1/remote/transport"
)

// manifest is what makes an image of blobs.
type manifest struct {
	raw       []byte
	mediaType string
	digest    v1.Hash
}

func manifestOf(img v1.Image) (manifest, error) {
	raw, err := img.RawManifest()
	if err != nil {
		return manifest{}, err
	}
	mt, err := img.MediaType()
	if err != nil {
		return manifest{}, err
	}
	digest, err := img.Digest()
	return manifest{raw: raw, mediaType: string(mt), digest: digest}, err
}

// digest puts a manifest under its digest.
func (t *target) digest(ctx context.Context, m manifest) error {
	if err := t.put(ctx, m.digest.String(), m); err != nil {
		return fmt.Errorf("push manifest %s: %w", t.repo.Digest(m.digest.String()), t.c.explain(err, t.repo))
	}
	return nil
}

// put puts a manifest under a tag or its digest.
func (t *target) put(ctx context.Context, reference string, m manifest) error {
	return t.c.again(ctx, t.c.opt.PushRetry, func() error {
		return t.c.thrice(ctx, func() error { return t.putOnce(ctx, reference, m) })
	})
}

func (t *target) putOnce(ctx context.Context, reference string, m manifest) error {
	client, err := t.c.reach(ctx, t.repo, "")
	if err != nil {
		return err
	}
	resp, err := do(ctx, client, http.MethodPut, blobURL(t.repo, "manifests/"+reference, nil), m.raw, http.Header{"Content-Type": {m.mediaType}})
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }()
	if err := ggcr.CheckError(resp, http.StatusOK, http.StatusCreated, http.StatusAccepted); err != nil {
		return err
	}
	// It is optional, and what is no digest says nothing.
	stored, err := v1.NewHash(resp.Header.Get("Docker-Content-Digest"))
	if err == nil && stored.Algorithm == m.digest.Algorithm && stored != m.digest {
		return permanent{fmt.Errorf("the registry stored it as %s, though it is %s", stored, m.digest)}
	}
	return nil
}

// tag moves a tag to a manifest.
func (p *Push) tag(ctx context.Context, tag name.Tag, m manifest) error {
	t := p.targetOf(tag.Repository)
	err := t.put(ctx, tag.TagStr(), m)
	if err != nil && isImmutable(err) {
		err = t.immutable(ctx, tag, m, err)
	}
	if err != nil {
		err = p.c.explain(err, tag.Repository)
		if len(p.tags) == 1 && !isImmutable(err) {
			return fmt.Errorf("push manifest %s as %s: %w", tag.Repository.Digest(m.digest.String()), tag.TagStr(), err)
		}
		return fmt.Errorf("push tag %s: %w", tag, err)
	}
	return nil
}

func (p *Push) targetOf(repo name.Repository) *target {
	for _, t := range p.targets {
		if t.repo == repo {
			return t
		}
	}
	return newTarget(p.c, repo)
}

// immutable decides what a tag that cannot be moved means: nothing if it is where
// it should be. If that is to be ignored the image is there under its digest.
func (t *target) immutable(ctx context.Context, tag name.Tag, m manifest, err error) error {
	desc, headErr := t.c.destPuller.Head(ctx, tag)
	if headErr == nil && desc.Digest == m.digest {
		return nil
	}
	if !t.c.opt.IgnoreImmutableTagErrors {
		return err
	}
	t.c.opt.Log.Warn("tag is immutable and was not moved", "tag", tag.String(), "digest", m.digest.String(), "err", err)
	if perr := t.put(ctx, m.digest.String(), m); perr != nil {
		return errors.Join(err, perr)
	}
	return nil
}
