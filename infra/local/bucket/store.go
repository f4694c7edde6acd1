// Package bucket is a versioned object store on a directory, with two doors: a
// plain HTTP one (PUT /contexts/<name>) and one that speaks enough S3 for the
// usual clients.
//
// Every put makes a new generation: an immutable file and a small record
// beside it. A generation exists once its record does, and the record is
// written last, so an aborted or short upload leaves nothing. Each put is
// announced through Options.OnObject before it is acknowledged; a put whose
// announcement did not succeed is remembered and announced again by Sweep.
package bucket

import (
	"context"
	"crypto/md5" //nolint:gosec // an S3 ETag is an MD5 by definition
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"sort"
	"strconv"
	"sync"
	"syscall"
	"time"

	"github.com/kilnhook/kiln/events"
	"github.com/kilnhook/kiln/infra/local/durable"
)

// Contexts is the bucket that always exists and that the plain door serves.
const Contexts = "contexts"

// DefaultMaxObject is the largest object taken unless Options says otherwise,
// in bytes.
const DefaultMaxObject = 16 << 30

// Errors that callers branch on.
var (
	ErrNoBucket   = errors.New("no such bucket")
	ErrNoObject   = errors.New("no such object")
	ErrBadName    = errors.New("bad name")
	ErrTooLarge   = errors.New("object too large")
	ErrEmpty      = errors.New("object is empty")
	ErrShort      = errors.New("fewer or more bytes than announced")
	ErrCorrupt    = errors.New("content does not match its checksum")
	ErrExists     = errors.New("object exists")
	ErrNoSpace    = errors.New("no space left on disk")
	ErrNotHandled = errors.New("the object is stored but nothing was started for it yet")
)

// Options adjusts a Store. The zero value works.
type Options struct {
	MaxObject int64                                            // bytes; 0 is DefaultMaxObject
	OnObject  func(ctx context.Context, c events.Change) error // announces a put; nil announces nothing
	Now       func() time.Time                                 // required: the clock
	Log       *slog.Logger                                     // nil discards
}

// Store is the object store. Its methods may be called concurrently. Only one
// Store may be open on a directory.
type Store struct {
	dir     string
	opts    Options
	stripes [64]sync.Mutex // of an object, chosen by its key; held while a generation is made
}

// Object describes one generation of an object.
type Object struct {
	Bucket      string            `json:"bucket"`
	Name        string            `json:"name"`
	Generation  string            `json:"generation"` // decimal, 16 digits, ascending within the object
	Size        int64             `json:"size"`       // bytes
	MD5         string            `json:"md5"`        // hexadecimal
	SHA256      string            `json:"sha256"`     // hexadecimal
	ContentType string            `json:"contentType,omitempty"`
	Metadata    map[string]string `json:"metadata,omitempty"` // lower-case keys
	Created     time.Time         `json:"created"`
	Deleted     bool              `json:"deleted,omitempty"` // a delete marker
}

// PutOptions says more about an upload. The zero value works.
type PutOptions struct {
	Size        int64  // bytes announced
	Unsized     bool   // nothing was announced: Size is not looked at
	MD5         []byte // expected; nil is not checked
	ContentType string
	Metadata    map[string]string
	CreateOnly  bool   // ErrExists if the object exists
	IfMatch     string // hexadecimal MD5 the present object must have; "" is not checked
	AllowEmpty  bool   // take 0 bytes; such an object is not announced
	Quiet       bool   // do not announce
}

// Open opens the store in dir, making it if there is none. It removes what
// uploads left that were under way when the store was last open.
func Open(dir string, opts Options) (*Store, error) {
	if opts.Now == nil {
		return nil, errors.New("open bucket: no clock given")
	}
	if opts.MaxObject == 0 {
		opts.MaxObject = DefaultMaxObject
	}
	if opts.Log == nil {
		opts.Log = slog.New(slog.DiscardHandler)
	}
	abs, err := filepath.Abs(dir)
	if err != nil {
		return nil, fmt.Errorf("open bucket: %w", err)
	}
	s := &Store{dir: abs, opts: opts}
	if err := os.RemoveAll(s.path("tmp")); err != nil {
		return nil, fmt.Errorf("open bucket: %w", err)
	}
	for _, d := range []string{"tmp", "pending", "uploads", filepath.Join("objects", Contexts)} {
		if err := os.MkdirAll(s.path(d), 0o700); err != nil {
			return nil, fmt.Errorf("open bucket: %w", err)
		}
	}
	if err := s.dropOldUploads(); err != nil {
		return nil, err
	}
	return s, nil
}

func (s *Store) path(parts ...string) string {
	return filepath.Join(append([]string{s.dir}, parts...)...)
}

// Put stores body as a new generation of name and announces it. The object is
// visible to readers once all of it is on disk. The errors wrap ErrNoBucket,
// ErrBadName, ErrTooLarge, ErrEmpty, ErrShort, ErrCorrupt, ErrExists,
// ErrNoSpace and, when the object is stored but its announcement did not
// succeed, ErrNotHandled; with the last the Object is valid.
//
// The same bytes put again while their announcement is still owed are the same
// generation: a client that tries again starts one build, not two.
func (s *Store) Put(ctx context.Context, bucket, name string, body io.Reader, o PutOptions) (Object, error) {
	if err := s.checkTarget(bucket, name); err != nil {
		return Object{}, err
	}
	obj := Object{Bucket: bucket, Name: name, ContentType: o.ContentType, Metadata: o.Metadata}
	tmp, err := s.receive(ctx, &obj, body, o)
	if err != nil {
		return Object{}, fmt.Errorf("store %s/%s: %w", bucket, name, noSpace(err))
	}
	announce := s.opts.OnObject != nil && !o.Quiet && obj.Size > 0
	obj, err = s.commit(obj, tmp, o, announce)
	if err != nil {
		return Object{}, errors.Join(fmt.Errorf("store %s/%s: %w", bucket, name, noSpace(err)), removeIfThere(tmp))
	}
	if !announce {
		return obj, nil
	}
	return obj, s.announce(context.WithoutCancel(ctx), obj)
}

// receive copies body into a file of its own and fills in size and checksums.
func (s *Store) receive(ctx context.Context, obj *Object, body io.Reader, o PutOptions) (path string, err error) {
	if !o.Unsized && o.Size > s.opts.MaxObject {
		return "", s.tooLarge()
	}
	f, err := os.CreateTemp(s.path("tmp"), "put-*")
	if err != nil {
		return "", err
	}
	defer func() {
		if err = errors.Join(err, f.Close()); err != nil {
			err = errors.Join(err, os.Remove(f.Name()))
		}
	}()
	md, sha := md5.New(), sha256.New() //nolint:gosec // see the import
	in := io.LimitReader(readerUntil(ctx, body), s.opts.MaxObject+1)
	n, err := io.CopyBuffer(io.MultiWriter(f, md, sha), in, make([]byte, 256<<10))
	switch {
	case errors.Is(err, io.ErrUnexpectedEOF):
		return "", fmt.Errorf("%w: the upload ended after %d bytes", ErrShort, n)
	case err != nil:
		return "", err
	case n > s.opts.MaxObject:
		return "", s.tooLarge()
	case !o.Unsized && n != o.Size:
		return "", fmt.Errorf("%w: %d bytes came, %d were announced", ErrShort, n, o.Size)
	case n == 0 && !o.AllowEmpty:
		return "", ErrEmpty
	}
	sum := md.Sum(nil)
	if o.MD5 != nil && string(sum) != string(o.MD5) {
		return "", fmt.Errorf("%w: its MD5 is %x, the header says %x", ErrCorrupt, sum, o.MD5)
	}
	obj.Size, obj.MD5, obj.SHA256 = n, hex.EncodeToString(sum), hex.EncodeToString(sha.Sum(nil))
	return f.Name(), f.Sync()
}

func (s *Store) tooLarge() error {
	return fmt.Errorf("%w: at most %d bytes are taken", ErrTooLarge, s.opts.MaxObject)
}

// commit makes the received file a generation, or adopts an equal one whose
// announcement is still owed.
func (s *Store) commit(obj Object, tmp string, o PutOptions, announce bool) (Object, error) {
	dir := s.objectDir(obj.Bucket, obj.Name)
	mu := s.stripe(dir)
	mu.Lock()
	defer mu.Unlock()
	last, err := s.latest(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return Object{}, err
	}
	exists := err == nil && !last.Deleted
	switch {
	case o.CreateOnly && exists:
		return Object{}, ErrExists
	case o.IfMatch != "" && (!exists || last.MD5 != o.IfMatch):
		return Object{}, fmt.Errorf("%w, but not with the expected content", ErrExists)
	case announce && exists && last.SHA256 == obj.SHA256 && s.owed(last):
		return last, os.Remove(tmp)
	}
	obj.Created = s.opts.Now().UTC()
	obj.Generation = nextGeneration(obj.Created, last.Generation)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return Object{}, err
	}
	if err := os.Rename(tmp, s.dataPath(obj)); err != nil {
		return Object{}, err
	}
	if announce {
		if err := s.owe(obj); err != nil {
			return Object{}, err
		}
	}
	return obj, s.writeRecord(obj)
}

// nextGeneration is the time in microseconds, as in GCS, but always greater
// than the generation before it.
func nextGeneration(now time.Time, last string) string {
	gen := now.UnixMicro()
	if n, err := strconv.ParseInt(last, 10, 64); err == nil && n >= gen {
		gen = n + 1
	}
	return fmt.Sprintf("%016d", gen)
}

// Stat describes the generation of an object, the newest if generation is "".
// The error wraps ErrNoObject if there is none or it is a delete marker.
func (s *Store) Stat(bucket, name, generation string) (Object, error) {
	if err := s.checkTarget(bucket, name); err != nil {
		return Object{}, err
	}
	dir := s.objectDir(bucket, name)
	var obj Object
	var err error
	if generation == "" {
		obj, err = s.latest(dir)
	} else if isGeneration(generation) {
		obj, err = readRecord(dir, generation)
	} else {
		err = fs.ErrNotExist
	}
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return Object{}, fmt.Errorf("%w: %s/%s", ErrNoObject, bucket, name)
	case err != nil:
		return Object{}, err
	case obj.Deleted:
		return obj, fmt.Errorf("%w: %s/%s was deleted", ErrNoObject, bucket, name)
	}
	return obj, nil
}

// Open opens an object for reading; the caller closes the file. Errors as Stat.
func (s *Store) Open(bucket, name, generation string) (Object, *os.File, error) {
	obj, err := s.Stat(bucket, name, generation)
	if err != nil {
		return Object{}, nil, err
	}
	f, err := os.Open(s.dataPath(obj))
	if err != nil {
		return Object{}, nil, fmt.Errorf("open %s/%s: %w", bucket, name, err)
	}
	return obj, f, nil
}

// Path is the file that holds a generation. It never changes once it exists.
func (s *Store) Path(bucket, name, generation string) (string, error) {
	obj, err := s.Stat(bucket, name, generation)
	if err != nil {
		return "", err
	}
	return s.dataPath(obj), nil
}

// Delete hides an object behind a delete marker, or removes the one generation
// named. Deleting what is not there is no error.
func (s *Store) Delete(bucket, name, generation string) (Object, error) {
	if err := s.checkTarget(bucket, name); err != nil {
		return Object{}, err
	}
	dir := s.objectDir(bucket, name)
	mu := s.stripe(dir)
	mu.Lock()
	defer mu.Unlock()
	if generation != "" {
		return s.deleteGeneration(dir, generation)
	}
	last, err := s.latest(dir)
	if errors.Is(err, fs.ErrNotExist) || (err == nil && last.Deleted) {
		return last, nil
	}
	if err != nil {
		return Object{}, err
	}
	now := s.opts.Now().UTC()
	marker := Object{Bucket: bucket, Name: name, Deleted: true, Created: now, Generation: nextGeneration(now, last.Generation)}
	return marker, s.writeRecord(marker)
}

func (s *Store) deleteGeneration(dir, generation string) (Object, error) {
	if !isGeneration(generation) {
		return Object{}, nil
	}
	obj, err := readRecord(dir, generation)
	if errors.Is(err, fs.ErrNotExist) {
		return Object{}, nil
	}
	if err != nil {
		return Object{}, err
	}
	if err := durable.Remove(recordPath(dir, generation)); err != nil {
		return Object{}, err
	}
	return obj, errors.Join(durable.Remove(s.dataPath(obj)), s.settle(obj))
}

// List lists the newest generation of up to limit objects of a bucket whose
// names begin with prefix and come after the name after, in order of names.
func (s *Store) List(bucket, prefix, after string, limit int) ([]Object, error) {
	all, err := s.versions(bucket, prefix, true)
	if err != nil {
		return nil, err
	}
	from := sort.Search(len(all), func(i int) bool { return all[i].Name > after })
	return all[from:min(from+limit, len(all))], nil
}

func noSpace(err error) error {
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
		return fmt.Errorf("%w: free some and send it again: %w", ErrNoSpace, err)
	}
	return err
}

func removeIfThere(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

type readerFunc func(p []byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }

// readerUntil reads from r until ctx is done.
func readerUntil(ctx context.Context, r io.Reader) io.Reader {
	return readerFunc(func(p []byte) (int, error) {
		if ctx.Err() != nil {
			return 0, context.Cause(ctx)
		}
		return r.Read(p)
	})
}
