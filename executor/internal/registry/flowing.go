package registry

import (
	"errors"
	"io"
	"sync"
	"sync/atomic"
)

// flowing is the body of a request that counts what is read of it. An answer may
// come, and the request end, while somebody still reads.
type flowing struct {
	rc     io.ReadCloser
	closed sync.Once
	ended  atomic.Bool

	mu     sync.Mutex // while it is read
	n      int64
	failed error
}

func (f *flowing) Read(p []byte) (int, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	n, err := f.rc.Read(p)
	f.n += int64(n)
	if err != nil && !errors.Is(err, io.EOF) && !f.ended.Load() && f.failed == nil {
		f.failed = err
	}
	return n, err
}

// Close ends a read that waits.
func (f *flowing) Close() error {
	f.ended.Store(true)
	var err error
	f.closed.Do(func() { err = f.rc.Close() })
	return err
}

// end ends the reading and returns how much was read and, if the layer itself
// could not be read, why.
func (f *flowing) end() (int64, error) {
	_ = f.Close()
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.n, f.failed
}
