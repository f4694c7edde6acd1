// Package gcs is a ledger in a bucket of Google Cloud Storage. An object is
// stored only if its generation is the one that was seen, or if there is none
// (ifGenerationMatch).
package gcs

import (
	"context"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"net/http"
	"strconv"

	"cloud.google.com/go/storage"
	"google.golang.org/api/googleapi"
	"google.golang.org/api/iterator"
	"google.golang.org/api/option"

	"github.com/kilnhook/kiln/infra/ledger"
	"github.com/kilnhook/kiln/infra/ledger/object"
)

// writerKey is the metadata that says which call stored an object.
const writerKey = "kiln-writer"

// Options says where the ledger is.
type Options struct {
	Bucket string // required
	object.Options
	// Endpoint is the address of a server that stands for Google's and asks
	// for no credentials, as "http://127.0.0.1:4443"; empty is Google's, with
	// the credentials that its own tools find.
	Endpoint string
	// Client makes the requests; nil is one with credentials.
	Client *http.Client
	// PageSize is how many keys a list asks for at a time; 0 is the server's
	// limit, 1,000.
	PageSize int
}

// Store is the ledger. Close it when done.
type Store struct {
	*object.Store
	client *storage.Client
}

// Open returns the ledger in a bucket, which must exist. ctx is for finding
// credentials.
func Open(ctx context.Context, o Options) (*Store, error) {
	opts := []option.ClientOption{storage.WithJSONReads()}
	if o.Endpoint != "" {
		opts = append(opts, option.WithEndpoint(o.Endpoint+"/storage/v1/"), option.WithoutAuthentication())
	}
	if o.Client != nil {
		opts = append(opts, option.WithHTTPClient(o.Client))
	}
	client, err := storage.NewClient(ctx, opts...)
	if err != nil {
		return nil, fmt.Errorf("open ledger in gs://%s: %w", o.Bucket, err)
	}
	// Attempts are counted in one place, the package object.
	client.SetRetry(storage.WithPolicy(storage.RetryNever))
	store, err := object.New(bucket{handle: client.Bucket(o.Bucket), page: o.PageSize}, storage.ShouldRetry, o.Options)
	if err != nil {
		return nil, errors.Join(err, client.Close())
	}
	return &Store{Store: store, client: client}, nil
}

// Close releases the connections.
func (s *Store) Close() error { return s.client.Close() }

// bucket is a bucket as the package object wants one.
type bucket struct {
	handle *storage.BucketHandle
	page   int
}

// Get implements object.Bucket.
func (b bucket) Get(ctx context.Context, name string) (data []byte, version string, err error) {
	r, err := b.handle.Object(name).NewReader(ctx)
	if err != nil {
		return nil, "", known(err)
	}
	defer r.Close()
	data, err = io.ReadAll(io.LimitReader(r, ledger.MaxValue+1))
	if err != nil {
		return nil, "", fmt.Errorf("%w: %w", object.ErrBroken, err)
	}
	return data, strconv.FormatInt(r.Attrs.Generation, 10), ledger.CheckValue(name, data)
}

// Writer implements object.Bucket.
func (b bucket) Writer(ctx context.Context, name string) (writer, version string, err error) {
	attrs, err := b.handle.Object(name).Attrs(ctx)
	if err != nil {
		return "", "", known(err)
	}
	return attrs.Metadata[writerKey], strconv.FormatInt(attrs.Generation, 10), nil
}

// Put implements object.Bucket.
func (b bucket) Put(ctx context.Context, name, writer string, data []byte, c object.Condition) (version string, err error) {
	cond := storage.Conditions{DoesNotExist: true}
	if c.Version != "" {
		generation, err := strconv.ParseInt(c.Version, 10, 64)
		if err != nil || generation <= 0 {
			return "", object.ErrPrecondition // no object ever had that version
		}
		cond = storage.Conditions{GenerationMatch: generation}
	}
	// Canceling is how a write that failed on the way is given up.
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	w := b.handle.Object(name).If(cond).NewWriter(ctx)
	w.ChunkSize = 0 // one request
	w.ContentType = "application/json"
	w.Metadata = map[string]string{writerKey: writer}
	w.CRC32C, w.SendCRC32C = crc32.Checksum(data, crc32.MakeTable(crc32.Castagnoli)), true
	if _, err := w.Write(data); err != nil {
		return "", known(errors.Join(err, w.Close()))
	}
	if err := w.Close(); err != nil {
		return "", known(err)
	}
	return strconv.FormatInt(w.Attrs().Generation, 10), nil
}

// Delete implements object.Bucket.
func (b bucket) Delete(ctx context.Context, name string) error {
	return known(b.handle.Object(name).Delete(ctx))
}

// List implements object.Bucket.
func (b bucket) List(ctx context.Context, prefix, after string, limit int) ([]string, error) {
	query := storage.Query{Prefix: prefix, Projection: storage.ProjectionNoACL}
	if after > prefix {
		query.StartOffset = after + "!" // the first character that a key may have is after it
	}
	if err := query.SetAttrSelection([]string{"Name"}); err != nil {
		return nil, err
	}
	objects := b.handle.Objects(ctx, &query)
	objects.PageInfo().MaxSize = b.page
	if limit > 0 && (b.page == 0 || limit < b.page) {
		objects.PageInfo().MaxSize = min(limit, 1000)
	}
	var names []string
	for {
		attrs, err := objects.Next()
		if errors.Is(err, iterator.Done) {
			return names, nil
		}
		if err != nil {
			return nil, known(err)
		}
		if attrs.Name > after {
			names = append(names, attrs.Name)
		}
		if len(names) == limit || len(names) > 0 && objects.PageInfo().Remaining() == 0 {
			return names, nil
		}
	}
}

// known turns what the server says of an object into the errors of the package
// object.
func known(err error) error {
	var api *googleapi.Error
	switch {
	case errors.Is(err, storage.ErrBucketNotExist):
		return errors.New("there is no such bucket; make it first")
	case errors.Is(err, storage.ErrObjectNotExist):
		return fs.ErrNotExist
	case errors.As(err, &api) && api.Code == http.StatusPreconditionFailed:
		return object.ErrPrecondition
	}
	return err
}
