package podlog

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"

	"github.com/kilnhook/kiln/events"
	"github.com/kilnhook/kiln/functions/record"
	"github.com/kilnhook/kiln/infra/local/buildlog"
	"github.com/kilnhook/kiln/infra/wait"
)

// Log emits the lines of a build's log from the byte offset on, several whole lines at
// a time, and returns the offset after the last. With follow it waits for more until
// the build has ended. That of a build for several platforms is that of the first,
// then that of the second, and so on; what a later one says is shown when those before
// it have ended. The error wraps fs.ErrNotExist if there is no log, or none yet.
func (k *Keeper) Log(ctx context.Context, id string, offset int64, follow bool, emit func(lines []byte) error) (int64, error) {
	var req events.Request
	if _, err := record.Load(ctx, k.cfg.Ledger, record.RequestKey(id), &req); err != nil {
		return offset, fmt.Errorf("read log of build %s: %w", id, err)
	}
	all := req.Parts()
	if len(all) == 0 {
		all = []events.Request{req}
	}
	var before int64 // bytes of the parts before
	for i, part := range all {
		size, whole, err := k.part(ctx, part, max(offset-before, 0), follow, func(lines []byte) error {
			if err := emit(lines); err != nil {
				return err
			}
			offset += int64(len(lines))
			return nil
		})
		switch {
		case errors.Is(err, fs.ErrNotExist) && i > 0:
			return offset, nil // it was not launched yet
		case err != nil || !whole:
			return offset, err
		}
		before += size
		offset = max(offset, before)
	}
	return offset, nil
}

// part emits the log of one executor and returns how long it is; whole says that there
// will be no more of it.
func (k *Keeper) part(ctx context.Context, req events.Request, offset int64, follow bool, emit func(lines []byte) error) (size int64, whole bool, err error) {
	for {
		size, whole, err = k.tape(req).read(ctx, k.cfg.Now, offset, follow, emit)
		if !errors.Is(err, fs.ErrNotExist) {
			return size, whole, err
		}
		var claim record.Claim
		if _, lerr := record.Load(ctx, k.cfg.Ledger, record.ResultKey(req.Whole()), &claim); errors.Is(lerr, fs.ErrNotExist) {
			return 0, false, err
		} else if lerr != nil {
			return 0, false, fmt.Errorf("read log of build %s: %w", req.BuildID, lerr)
		}
		if k.cfg.Now().Sub(claim.FinishedAt) >= settle {
			return k.missing(req, claim.Result, offset, emit)
		}
		if !follow {
			return 0, false, err
		}
		if err := wait.For(ctx, look); err != nil { // another may be about to keep it
			return 0, false, err
		}
	}
}

// missing says in the place of a log that there is none.
func (k *Keeper) missing(req events.Request, res events.Result, offset int64, emit func(lines []byte) error) (size int64, whole bool, err error) {
	p := events.Progress{Time: res.FinishedAt, Kind: events.ProgressNote, Text: noLog}
	if req.PartOf != "" {
		buildlog.Mark(&p, req.Platform)
	}
	line, err := json.Marshal(p)
	if err != nil {
		return 0, false, fmt.Errorf("read log of build %s: %w", req.BuildID, err)
	}
	line = append(line, '\n')
	if offset == 0 {
		err = emit(line)
	}
	return int64(len(line)), true, err
}

// noLog stands in the place of a log.
const noLog = "there is no log: no executor ran, its pod was gone before it was read, or it was old and is removed"
