package source

import (
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"os"

	"github.com/kilnhook/kiln/executor/internal/decompress"
)

// archive is a stream of bytes that holds a tar archive.
type archive struct {
	r     io.ReadCloser
	total int64 // bytes; 0 if unknown
}

// fetchTar fetches a local archive or standard input.
func fetchTar(ctx context.Context, path string, opt *Options) (*Context, error) {
	open := openFile
	if path == "stdin" {
		open = openStdin
	}
	a, err := open(path, opt)
	if err != nil {
		return nil, err
	}
	return unpackNew(ctx, a, opt)
}

func openFile(path string, _ *Options) (archive, error) {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return archive{}, ErrNotFound
	}
	if err != nil {
		return archive{}, err
	}
	info, err := f.Stat()
	if err == nil && info.IsDir() {
		err = fmt.Errorf("%s is a directory: use dir://%s", path, path)
	}
	if err != nil {
		_ = f.Close()
		return archive{}, err
	}
	a := archive{r: f}
	if info.Mode().IsRegular() {
		a.total = info.Size()
	}
	return a, nil
}

func openStdin(_ string, opt *Options) (archive, error) {
	if opt.Stdin == nil {
		return archive{}, errors.New("there is no standard input")
	}
	if f, ok := opt.Stdin.(*os.File); ok {
		info, err := f.Stat()
		if err != nil {
			return archive{}, fmt.Errorf("inspect standard input: %w", err)
		}
		if info.Mode()&os.ModeCharDevice != 0 {
			return archive{}, errors.New("no data found.. don't forget to add the '--interactive, -i' flag")
		}
	}
	return archive{r: io.NopCloser(opt.Stdin)}, nil
}

// unpackNew unpacks a into a new directory. It closes a.
func unpackNew(ctx context.Context, a archive, opt *Options) (*Context, error) {
	defer func() { _ = a.r.Close() }()
	c, err := newTemp(opt)
	if err != nil {
		return nil, err
	}
	if c.Revision.SHA256, err = unpack(ctx, a, c.Dir, opt); err != nil {
		_ = c.Close()
		return nil, err
	}
	return c, nil
}

// unpack unpacks a into dir and returns the SHA-256 of its bytes.
func unpack(ctx context.Context, a archive, dir string, opt *Options) (_ string, err error) {
	src := &sourceReader{ctx: ctx, r: a.r, hash: sha256.New(), total: a.total, progress: opt.Progress}
	buffered := bufio.NewReaderSize(src, copyBuffer)
	tarball, compressed, err := decompressed(buffered)
	if err != nil {
		return "", err
	}
	defer func() { _ = tarball.Close() }()
	b := &budget{limits: opt.Limits}
	if compressed != decompress.None {
		b.compressed = func() int64 { return src.done }
	}
	t, err := newTree(dir, b)
	if err != nil {
		return "", err
	}
	defer func() {
		if closeErr := t.close(err != nil); err == nil && closeErr != nil {
			err = writeFailed(dir, closeErr)
		}
	}()
	stream := &tail{r: tarball}
	if err := untar(stream, t, dir); err != nil {
		if compressed != decompress.None && stream.err != nil {
			return "", corrupt(compressed, stream.err)
		}
		return "", err
	}
	// What follows the archive is not looked at, but it is read: only at its
	// end does a decompressor compare checksums, and the digest is of all.
	if err := drain(stream, b); err != nil {
		return "", corrupt(compressed, err)
	}
	if _, err := io.Copy(io.Discard, buffered); err != nil {
		return "", err
	}
	src.progress(src.done, src.done)
	return hex.EncodeToString(src.hash.Sum(nil)), nil
}

func drain(r io.Reader, b *budget) error {
	buf := make([]byte, 32<<10)
	for {
		n, err := r.Read(buf)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err == nil {
			err = b.take(n)
		}
		if err != nil {
			return err
		}
	}
}

// progressEvery is how many bytes arrive between two calls of Progress.
const progressEvery = 256 << 10

// sourceReader reads an archive's bytes: it counts and hashes them, tells how
// far it is and stops when ctx is done.
type sourceReader struct {
	ctx      context.Context //nolint:containedctx // lives as long as one Fetch
	r        io.Reader
	hash     hash.Hash
	done     int64
	told     int64
	total    int64
	progress func(done, total int64)
}

// readError is an error of the place that an archive comes from, as opposed to
// one of the archive.
type readError struct{ err error }

func (e *readError) Error() string { return "read: " + e.err.Error() }

func (e *readError) Unwrap() error { return e.err }

func (s *sourceReader) Read(p []byte) (int, error) {
	if s.ctx.Err() != nil {
		return 0, &readError{context.Cause(s.ctx)}
	}
	n, err := s.r.Read(p)
	s.hash.Write(p[:n])
	s.done += int64(n)
	if s.done-s.told >= progressEvery {
		s.told = s.done
		s.progress(s.done, s.total)
	}
	if err != nil && !errors.Is(err, io.EOF) {
		if s.ctx.Err() != nil {
			err = context.Cause(s.ctx)
		}
		err = &readError{err}
	}
	return n, err
}

// tail remembers what a tar archive ends with.
type tail struct {
	r     io.Reader
	zeros int64 // zero bytes at the end so far
	err   error // other than io.EOF
}

func (t *tail) Read(p []byte) (int, error) {
	n, err := t.r.Read(p)
	i := n
	for i > 0 && p[i-1] == 0 {
		i--
	}
	if i > 0 {
		t.zeros = 0
	}
	t.zeros += int64(n - i)
	if err != nil && !errors.Is(err, io.EOF) {
		t.err = err
	}
	return n, err
}
