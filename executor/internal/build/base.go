package build

import (
	"context"
	"fmt"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/kilnhook/kiln/executor/internal/plan"
)

// bottom is the stage at the bottom of the result.
func (b *builder) bottom() *plan.Stage {
	p := b.plan.Final()
	for p.Base.Stage != nil {
		p = &b.plan.Stages[*p.Base.Stage]
	}
	return p
}

// resultBase is the image that the result stands on.
func (b *builder) resultBase(ctx context.Context) (v1.Image, error) {
	img, err := b.Image(ctx, b.bottom().Base.Digest)
	if err != nil || b.Share == nil || b.Upload == nil {
		return img, err
	}
	return b.Share(img)
}

// uploadBase hands on the layers of the image that the result stands on.
func (s *stage) uploadBase(ctx context.Context) error {
	layers, err := s.image.Layers()
	if err != nil {
		return fmt.Errorf("read layers of %s: %w", s.plan.Base.Ref, err)
	}
	tell := s.from0()
	for _, l := range layers {
		s.tellLayer(tell, l, nil)
		s.upload(ctx, tell.meter(), l)
	}
	return nil
}
