package plan

import (
	"errors"
	"fmt"
	"sync"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/moby/buildkit/frontend/dockerfile/instructions"

	"github.com/kilnhook/kiln/executor/internal/dockerfile"
)

// imageKey tells one image that is looked up from another.
type imageKey struct{ ref, platform string }

// image is an image that a FROM or a --from names.
type image struct {
	ref      string
	platform v1.Platform
	asked    bool
	base     Base
	err      error
}

// wantImage returns the image of that name, one for all who want it.
func (b *builder) wantImage(ref string, p v1.Platform) *image {
	key := imageKey{ref, platformName(p)}
	img, ok := b.images[key]
	if !ok {
		img = &image{ref: ref, platform: p}
		b.images[key] = img
	}
	return img
}

// resolve looks up what target needs and returns those stages, each after the
// ones it depends on. An image's ONBUILD may bring new dependencies, hence the
// loop.
func (b *builder) resolve(target *stage) ([]*stage, error) {
	for {
		needed, err := b.reachable(target)
		if err != nil {
			return nil, err
		}
		if err := b.lookUp(needed); err != nil {
			return nil, err
		}
		more := false
		for _, s := range needed {
			if s.resolved {
				continue
			}
			s.resolved, more = true, true
			if err := b.addTriggers(s); err != nil {
				return nil, err
			}
		}
		if !more {
			return needed, nil
		}
	}
}

// reachable returns target and all it depends on, in the order of the file,
// after finding out what their commands read from.
func (b *builder) reachable(target *stage) ([]*stage, error) {
	need := make([]bool, len(b.stages))
	need[target.index] = true
	if b.opt.AllStages {
		for i := range need {
			need[i] = true
		}
	}
	// A stage depends only on stages before it.
	for i := len(b.stages) - 1; i >= 0; i-- {
		if !need[i] {
			continue
		}
		s := b.stages[i]
		if s.base != nil {
			need[s.base.index] = true
		}
		for n := range s.cmds {
			c := &s.cmds[n]
			if err := b.findSources(s, c); err != nil {
				return nil, b.fault(c, err)
			}
			for _, from := range c.sources() {
				if from.stage != nil {
					need[from.stage.index] = true
				}
			}
		}
	}
	var out []*stage
	for i, s := range b.stages {
		if need[i] {
			out = append(out, s)
		}
	}
	return out, nil
}

// lookUp asks for the images of the stages that were not asked for yet, a few
// at a time. Of several errors it returns that of the first instruction.
func (b *builder) lookUp(needed []*stage) error {
	var ask []*image
	want := func(img *image) {
		if img != nil && !img.asked {
			img.asked = true
			ask = append(ask, img)
		}
	}
	eachImage(needed, func(img *image, _ *stage, _ *command) { want(img) })
	slots := make(chan struct{}, 8)
	var wg sync.WaitGroup
	for _, img := range ask {
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			img.base, img.err = b.askBase(img)
		})
	}
	wg.Wait()
	var first error
	eachImage(needed, func(img *image, s *stage, c *command) {
		if first != nil || img.err == nil {
			return
		}
		err := b.nearStage(img.ref, img.err)
		if c != nil {
			first = b.fault(c, err)
			return
		}
		first = &dockerfile.Error{Pos: b.file.Pos(s.def.Location), Text: s.def.SourceCode, Err: err}
	})
	return first
}

// eachImage calls fn for every image that the stages name, in file order, with
// the command that names it or nil for the FROM.
func eachImage(stages []*stage, fn func(*image, *stage, *command)) {
	for _, s := range stages {
		if s.image != nil {
			fn(s.image, s, nil)
		}
		for n := range s.cmds {
			for _, from := range s.cmds[n].sources() {
				if from.image != nil {
					fn(from.image, s, &s.cmds[n])
				}
			}
		}
	}
}

func (b *builder) askBase(img *image) (Base, error) {
	if b.opt.Base == nil {
		return Base{}, errors.New("no image can be looked up here")
	}
	base, err := b.opt.Base(img.ref, img.platform)
	if err != nil {
		return Base{}, err
	}
	if base.Config == nil {
		return Base{}, fmt.Errorf("image %s has no config", img.ref)
	}
	if os := base.Config.OS; os != "" && os != "linux" {
		return Base{}, fmt.Errorf("image %s is for %s: %w", img.ref, os, errNotLinux)
	}
	return base, nil
}

// addTriggers puts the ONBUILD triggers of a stage's base before its own
// commands.
func (b *builder) addTriggers(s *stage) error {
	var triggers []string
	switch {
	case s.image != nil:
		triggers = s.image.base.Config.Config.OnBuild
	case s.base != nil && !s.base.replaced:
		for _, c := range s.base.def.Commands {
			if o, ok := c.(*instructions.OnbuildCommand); ok {
				triggers = append(triggers, o.Expression)
			}
		}
	}
	var cmds []command
	for _, t := range triggers {
		c, err := dockerfile.ParseTrigger(t, s.def.Location)
		if err != nil {
			return &dockerfile.Error{Pos: b.file.Pos(s.def.Location), Text: s.def.SourceCode, Err: fmt.Errorf("ONBUILD %s: %w", dockerfile.Shorten(t), err)}
		}
		cmds = append(cmds, command{Command: c, triggered: true})
	}
	s.cmds = append(cmds, s.cmds...)
	return nil
}
