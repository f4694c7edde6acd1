package finish

import (
	"context"
	"errors"
	"fmt"
	"io/fs"

	"github.com/kilnhook/kiln/events"
	"github.com/kilnhook/kiln/functions/parts"
	"github.com/kilnhook/kiln/functions/record"
)

// finishPart claims what became of one platform of a build, and brings the build
// to its end if that decides it.
func (f *Finisher) finishPart(ctx context.Context, part events.Request, res events.Result) (events.Result, error) {
	claimed, _, err := f.claim(ctx, part, res)
	if err != nil {
		return events.Result{}, err
	}
	if _, err := f.Advance(ctx, part.PartOf); err != nil {
		return events.Result{}, err
	}
	return claimed, nil
}

// Advance does what the parts of a build for several platforms call for: if all
// have succeeded it pushes their index and finishes the build with it; if one has
// not, it ends the build as that one did and stops the others. It reports whether
// the build has an outcome. A build without parts is left alone. Errors are as of
// Finish.
func (f *Finisher) Advance(ctx context.Context, buildID string) (ended bool, err error) {
	lock := &f.joins[shard(buildID, len(f.joins))]
	lock.Lock()
	defer lock.Unlock()
	req, err := f.request(ctx, buildID)
	if err != nil {
		return false, fmt.Errorf("look at the platforms of build %s: %w", buildID, err)
	}
	_, _, err = f.cfg.Ledger.Get(ctx, record.ResultKey(buildID))
	switch {
	case err == nil:
		return true, nil // whoever claimed it, or a sweep, finishes it
	case !errors.Is(err, fs.ErrNotExist):
		return false, fmt.Errorf("read result of build %s: %w", buildID, err)
	}
	all, err := f.partsOf(ctx, req)
	if err != nil || len(all) == 0 {
		return false, err
	}
	v := parts.Decide(all)
	switch {
	case v.Index:
		return true, f.join(ctx, req, all)
	case v.End != nil:
		return true, f.endParts(ctx, req, v)
	}
	return false, nil
}

// partsOf reads what became of the parts of a build.
func (f *Finisher) partsOf(ctx context.Context, req events.Request) ([]parts.Part, error) {
	var all []parts.Part
	for _, part := range req.Parts() {
		p := parts.Part{Request: part}
		var claim record.Claim
		_, err := record.Load(ctx, f.cfg.Ledger, record.ResultKey(part.BuildID), &claim)
		switch {
		case err == nil:
			res, _, err := f.claim(ctx, part, claim.Result) // which verifies it
			if err != nil {
				return nil, err
			}
			p.Result = &res
		case !errors.Is(err, fs.ErrNotExist):
			return nil, fmt.Errorf("read what became of %s: %w", part.Platform, err)
		}
		all = append(all, p)
	}
	return all, nil
}

// join makes the manifests of all platforms one index. It is the same bytes
// whenever it is made, and is not pushed where it is already. Manifests that are
// no more in the registry, or never were images, are the build's end.
func (f *Finisher) join(ctx context.Context, req events.Request, all []parts.Part) error {
	var index parts.Index
	if req.Image != "" {
		if f.cfg.PushIndex == nil {
			return fmt.Errorf("build %s is for several platforms, and no registry is configured to push their index to", req.BuildID)
		}
		var err error
		index.Digest, index.MediaType, err = f.cfg.PushIndex(ctx, req.Image, parts.Platforms(all))
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrInvalid) {
			_, err := f.finish(ctx, req.BuildID, refused(parts.Success(all, index), events.ClassPush, "no index", err.Error()))
			return err
		}
		if err != nil {
			return fmt.Errorf("push index of build %s: %w", req.BuildID, err)
		}
	}
	_, err := f.finish(ctx, req.BuildID, parts.Success(all, index))
	return err
}

// endParts ends a build of whose parts one did not succeed. The outcome is claimed
// first: what the others come to, now that they are stopped, decides nothing.
func (f *Finisher) endParts(ctx context.Context, req events.Request, v parts.Verdict) error {
	claimed, _, err := f.claim(ctx, req, *v.End)
	if err != nil {
		return err
	}
	if f.cfg.Stop != nil {
		for _, part := range v.Stop {
			if err := f.cfg.Stop(ctx, part.BuildID); err != nil {
				return fmt.Errorf("stop %s of build %s: %w", part.Platform, req.BuildID, err)
			}
		}
	}
	_, err = f.finish(ctx, req.BuildID, claimed)
	return err
}
