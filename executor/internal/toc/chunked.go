package toc

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"

	"github.com/kilnhook/kiln/executor/internal/decompress"
)

// A zstd:chunked layer is a zstd stream of many frames. Its table, JSON in a zstd stream of
// its own, is in a frame that decompressors skip, so no file of the layer. The manifest
// says where.

func (r *reader) chunked() error {
	at := r.ref
	if at.length > maxTable || at.json > maxJSON {
		return errLong
	}
	const skippable = 8 // the header of the frame
	if r.end = at.offset - skippable; r.end <= 0 {
		return fmt.Errorf("%w: nothing is before its table of contents", errForm)
	}
	rc, err := r.b.Range(r.ctx, at.offset, at.offset+at.length)
	if err != nil {
		return err
	}
	defer rc.Close()
	sum := sha256.New()
	tee := io.TeeReader(rc, sum)
	err = r.chunkedJSON(tee)
	if err != nil && r.ctx.Err() != nil {
		return err
	}
	if _, rerr := io.Copy(io.Discard, tee); rerr != nil {
		return errors.Join(err, rerr)
	}
	if got := hex.EncodeToString(sum.Sum(nil)); got != at.Digest.Hex {
		return fmt.Errorf("%w: its digest is sha256:%s, want %s", ErrDigest, got, at.Digest)
	}
	return err
}

func (r *reader) chunkedJSON(raw io.Reader) error {
	plain, _, err := decompress.New(raw, decompress.Zstd)
	if err != nil {
		return fmt.Errorf("%w: its table of contents cannot be read: %w", errForm, err)
	}
	defer plain.Close()
	return parse(&bounded{plain, r.ref.json}, r.want, r.entry)
}
