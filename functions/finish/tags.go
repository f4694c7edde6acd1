package finish

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"io/fs"

	"github.com/kilnhook/kiln/events"
	"github.com/kilnhook/kiln/functions/record"
	"github.com/kilnhook/kiln/infra/ledger"
)

// maxMoves is how often a tag is moved again because a newer build came while
// it was being moved.
const maxMoves = 50

// moveTags moves the tags that a successful build asked for and is the newest
// to ask for, and returns those.
func (f *Finisher) moveTags(ctx context.Context, req events.Request, res events.Result, first bool) ([]string, error) {
	if res.Outcome != events.OutcomeSuccess || req.Image == "" || len(req.Tags) == 0 {
		return nil, nil
	}
	if f.cfg.MoveTags == nil {
		return nil, errors.New("no registry is configured to move tags in")
	}
	var moved []string
	for _, tag := range req.Tags {
		ok, err := f.moveTag(ctx, claimOn(req, res.Digest, tag), first)
		if err != nil {
			return nil, fmt.Errorf("move tag %s:%s: %w", req.Image, tag, err)
		}
		if ok {
			moved = append(moved, tag)
		}
	}
	return moved, nil
}

// claimOn is what a build asks for a tag.
func claimOn(req events.Request, digest, tag string) record.Tag {
	return record.Tag{
		Repository: req.Image, Tag: tag, Digest: digest, BuildID: req.BuildID, Tenant: req.Tenant,
		Group: req.Group, Sequence: req.Sequence, Nonce: req.Nonce, RequestedAt: req.RequestedAt,
	}
}

// moveTag puts a tag where its register says, after entering the build there
// if it is the newest, and reports whether it is. A registry cannot compare
// before it moves a tag, so the register is read again after the move: if a
// newer build was entered meanwhile, its move may have been overwritten, and
// the tag is moved to that one. Thus the last to leave leaves the newest.
// A build that is not the newest moves nothing, unless an earlier call for it
// may have: then it too puts the tag where the register says.
func (f *Finisher) moveTag(ctx context.Context, mine record.Tag, first bool) (bool, error) {
	key := record.TagKey(mine.Repository, mine.Tag)
	lock := &f.moves[shard(key, len(f.moves))]
	lock.Lock()
	defer lock.Unlock()
	for range maxMoves {
		entry, version, err := f.enter(ctx, key, mine)
		if err != nil {
			return false, err
		}
		newest := entry.BuildID == mine.BuildID
		if !newest && first {
			return false, nil
		}
		err = f.cfg.MoveTags(ctx, entry.Repository, entry.Digest, []string{entry.Tag})
		if errors.Is(err, fs.ErrPermission) || errors.Is(err, fs.ErrNotExist) {
			f.cfg.Log.Warn("registry refuses to move tag", "build", mine.BuildID, "tag", mine.Repository+":"+mine.Tag, "err", err)
			return false, nil
		}
		if err != nil {
			return false, err
		}
		var after record.Tag
		now, err := record.Load(ctx, f.cfg.Ledger, key, &after)
		if err != nil {
			return false, err
		}
		if now == version {
			return newest, nil
		}
		first = false
	}
	return false, errors.New("newer builds keep coming")
}

// enter writes a build into the register of a tag if it is the newest to ask
// for it, and returns what is in the register then.
func (f *Finisher) enter(ctx context.Context, key string, mine record.Tag) (record.Tag, string, error) {
	for {
		var entry record.Tag
		version, err := record.Load(ctx, f.cfg.Ledger, key, &entry)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return record.Tag{}, "", err
		}
		if version != "" && (entry.BuildID == mine.BuildID || !newer(mine, entry)) {
			return entry, version, nil
		}
		data, err := record.Encode(mine)
		if err != nil {
			return record.Tag{}, "", err
		}
		version, err = f.cfg.Ledger.Swap(ctx, key, version, data)
		if err == nil {
			return mine, version, nil
		}
		if !errors.Is(err, ledger.ErrConflict) {
			return record.Tag{}, "", err
		}
	}
}

// newer reports whether a tag belongs to a rather than b. Builds of one group
// are ordered by their sequence, and repetitions of one by their nonce; builds
// of different groups, whose sequences say nothing about each other, by when
// they were requested.
func newer(a, b record.Tag) bool {
	switch {
	case a.Group == b.Group && a.Tenant == b.Tenant && a.Sequence != b.Sequence:
		return a.Sequence > b.Sequence
	case a.Group == b.Group && a.Tenant == b.Tenant && a.Nonce != b.Nonce:
		return a.Nonce > b.Nonce
	case !a.RequestedAt.Equal(b.RequestedAt):
		return a.RequestedAt.After(b.RequestedAt)
	}
	return a.BuildID > b.BuildID
}

// shard spreads keys over n locks.
func shard(key string, n int) int {
	h := fnv.New32a()
	h.Write([]byte(key))
	return int(h.Sum32() % uint32(n))
}
