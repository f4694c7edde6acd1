package finish

import (
	"context"
	"errors"
	"io/fs"

	"github.com/kilnhook/kiln/events"
	"github.com/kilnhook/kiln/events/trigger"
	"github.com/kilnhook/kiln/functions/record"
	"github.com/kilnhook/kiln/infra/ledger"
)

// maxBases is how many base images of a build are remembered.
const maxBases = 100

// noteBases remembers which images the newest successful build of a ref or
// object stands on, by the digests that were resolved, so that it can be built
// again when one of them moves.
func (f *Finisher) noteBases(ctx context.Context, req events.Request, res events.Result) error {
	if res.Outcome != events.OutcomeSuccess || len(res.Bases) == 0 {
		return nil
	}
	register := record.RegisterKey(req.Tenant, req.Trigger, req.Change)
	mine := record.Based{
		Register: register, Trigger: req.Trigger, Tenant: req.Tenant, BuildID: req.BuildID,
		Sequence: req.Sequence, Nonce: req.Nonce, Images: map[string]string{},
	}
	for _, b := range res.Bases {
		image, err := trigger.ImageName(b.Ref)
		if err != nil || !events.IsDigest(b.Digest) || len(mine.Images) == maxBases {
			continue // what an executor says is not trusted to be a name
		}
		mine.Images[image] = b.Digest
	}
	newest, err := f.enterBased(ctx, mine)
	if err != nil || !newest {
		return err
	}
	for image := range mine.Images {
		key := record.BasesKey(image, register)
		if _, err := f.cfg.Ledger.Create(ctx, key, []byte(register)); err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
	}
	return nil
}

// enterBased writes what a build stands on unless a newer one's is there.
func (f *Finisher) enterBased(ctx context.Context, mine record.Based) (newest bool, err error) {
	key := record.BasedKey(mine.Register)
	for {
		var entry record.Based
		version, err := record.Load(ctx, f.cfg.Ledger, key, &entry)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return false, err
		}
		if version != "" && entry.BuildID == mine.BuildID {
			return true, nil
		}
		if version != "" && (entry.Sequence > mine.Sequence || entry.Sequence == mine.Sequence && entry.Nonce > mine.Nonce) {
			return false, nil
		}
		data, err := record.Encode(mine)
		if err != nil {
			return false, err
		}
		if _, err = f.cfg.Ledger.Swap(ctx, key, version, data); err == nil {
			return true, nil
		}
		if !errors.Is(err, ledger.ErrConflict) {
			return false, err
		}
	}
}
