package finish

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"time"

	"github.com/kilnhook/kiln/events"
	"github.com/kilnhook/kiln/functions/record"
	"github.com/kilnhook/kiln/infra/ledger"
)

// reuseFor is how long a build stands for the same one: a ref that goes back and
// forth is tagged anew and not built anew, while what a Dockerfile fetches from
// elsewhere is not taken for the same for ever.
const reuseFor = 24 * time.Hour

// Reuse brings a build to its end with the image of an earlier one that was
// asked for the very same: the commit, the Dockerfile, the arguments, the
// destination. It reports whether it did. Builds that somebody or something asked
// for once more are never reused, nor are uploads, which are built once anyway.
func (f *Finisher) Reuse(ctx context.Context, req events.Request) (bool, error) {
	if !reusable(req) || f.cfg.CheckDigest == nil {
		return false, nil
	}
	var same record.Same
	_, err := record.Load(ctx, f.cfg.Ledger, record.SameKey(req), &same)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("look for the same build as %s: %w", req.BuildID, err)
	}
	now := f.cfg.Now().UTC()
	if same.BuildID == req.BuildID || now.Sub(same.At) > reuseFor {
		return false, nil
	}
	if err := f.cfg.CheckDigest(ctx, req.Image, same.Result.Digest); err != nil {
		return false, nil //nolint:nilerr // it is built then, and the registry speaks for itself
	}
	res := same.Result
	res.Reason, res.StartedAt, res.FinishedAt, res.DurationMS = "built before as "+same.BuildID, now, now, nil
	res.Cache = events.CacheInfo{Hits: len(res.Layers)}
	if _, err := f.Finish(ctx, req.BuildID, res); err != nil {
		return false, err
	}
	return true, nil
}

// reusable reports whether a build is of something that is the same again.
func reusable(req events.Request) bool {
	return req.Change.Kind == events.KindGit && req.Nonce == 0 && req.Image != "" && req.Change.Revision() != ""
}

// noteSame remembers a success, for Reuse. A build that was reused itself does
// not make it younger.
func (f *Finisher) noteSame(ctx context.Context, req events.Request, res events.Result) error {
	if res.Outcome != events.OutcomeSuccess || req.Change.Kind != events.KindGit || req.Image == "" || res.Digest == "" {
		return nil
	}
	key := record.SameKey(req)
	for {
		var have record.Same
		version, err := record.Load(ctx, f.cfg.Ledger, key, &have)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		if version != "" && (have.BuildID == req.BuildID || have.Result.Digest == res.Digest || have.At.After(res.FinishedAt)) {
			return nil
		}
		data, err := record.Encode(record.Same{BuildID: req.BuildID, At: res.FinishedAt, Result: res})
		if err != nil {
			return err
		}
		if _, err = f.cfg.Ledger.Swap(ctx, key, version, data); err == nil || !errors.Is(err, ledger.ErrConflict) {
			return err
		}
	}
}
