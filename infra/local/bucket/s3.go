package bucket

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"strings"

	"github.com/johannesboyne/gofakes3"
)

// S3Handler is the S3 door: buckets, objects with versions, multipart uploads.
// It serves the root path, as S3 clients expect, and believes any credentials:
// bind it to the loopback interface only. An upload whose announcement did not
// succeed is answered 503, one too large 413, one on a full disk 507.
func (s *Store) S3Handler() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if err := decodePayload(r); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		// The library's interface has neither a context nor a status for some
		// of our errors, so each request gets a backend of its own.
		b := &s3Backend{store: s, ctx: r.Context, contentType: r.Header.Get("Content-Type")}
		if isPartCopy(r) {
			b.servePartCopy(w, r)
			return
		}
		server := gofakes3.New(b, gofakes3.WithTimeSkewLimit(0), gofakes3.WithLogger(s3Log{s}))
		server.Server().ServeHTTP(&s3Writer{ResponseWriter: w, backend: b}, r)
	})
}

// s3Backend is the store as one request of the S3 library sees it.
type s3Backend struct {
	store       *Store
	ctx         func() context.Context // of the request
	contentType string
	status      int // of the answer, if the library has no error code for it
}

var (
	_ gofakes3.Backend          = (*s3Backend)(nil)
	_ gofakes3.VersionedBackend = (*s3Backend)(nil)
	_ gofakes3.MultipartBackend = (*s3Backend)(nil)
)

// s3Writer replaces the status of an error answer by the one that fits.
type s3Writer struct {
	http.ResponseWriter
	backend *s3Backend
}

// WriteHeader implements http.ResponseWriter.
func (w *s3Writer) WriteHeader(status int) {
	if status >= http.StatusBadRequest && w.backend.status != 0 {
		status = w.backend.status
		if status == http.StatusServiceUnavailable {
			w.Header().Set("Retry-After", "5")
		}
	}
	w.ResponseWriter.WriteHeader(status)
}

// Unwrap is for http.ResponseController.
func (w *s3Writer) Unwrap() http.ResponseWriter { return w.ResponseWriter }

type s3Log struct{ s *Store }

// Print implements gofakes3.Logger.
func (l s3Log) Print(level gofakes3.LogLevel, v ...any) {
	if level == gofakes3.LogErr {
		l.s.opts.Log.Warn("s3 request", "err", fmt.Sprint(v...))
	}
}

// fail turns an error of the store into one of S3.
func (b *s3Backend) fail(err error, bucket, name string) error {
	if err == nil {
		return nil
	}
	status, text := refusal(err)
	switch {
	case errors.Is(err, ErrNoBucket):
		return gofakes3.BucketNotFound(bucket)
	case errors.Is(err, ErrNoObject):
		return gofakes3.KeyNotFound(name)
	case errors.Is(err, ErrExists):
		return gofakes3.ErrorMessage(gofakes3.ErrPreconditionFailed, text)
	case errors.Is(err, ErrShort):
		return gofakes3.ErrorMessage(gofakes3.ErrIncompleteBody, text)
	case errors.Is(err, ErrCorrupt):
		return gofakes3.ErrorMessage(gofakes3.ErrBadDigest, text)
	case errors.Is(err, ErrEmpty), errors.Is(err, ErrBadName):
		return gofakes3.ErrorMessage(gofakes3.ErrInvalidArgument, text)
	case errors.Is(err, ErrTooLarge):
		b.status = status
		return gofakes3.ErrorMessage("EntityTooLarge", text)
	case errors.Is(err, ErrNoSpace):
		b.status = status
		return gofakes3.ErrorMessage("InsufficientStorage", text)
	case errors.Is(err, ErrNotHandled):
		b.status = status
		b.store.opts.Log.Warn("upload not accepted", "status", status, "err", err)
		return gofakes3.ErrorMessage("ServiceUnavailable", text)
	default:
		var s3err gofakes3.Error
		if errors.As(err, &s3err) {
			return s3err
		}
		b.store.opts.Log.Warn("s3 request", "err", err)
		return gofakes3.ErrorMessage(gofakes3.ErrInternal, text)
	}
}

// ListBuckets implements gofakes3.Backend.
func (b *s3Backend) ListBuckets() ([]gofakes3.BucketInfo, error) {
	buckets, err := b.store.Buckets()
	if err != nil {
		return nil, b.fail(err, "", "")
	}
	var infos []gofakes3.BucketInfo
	for name, made := range buckets {
		infos = append(infos, gofakes3.BucketInfo{Name: name, CreationDate: gofakes3.NewContentTime(made)})
	}
	return infos, nil
}

// ListBucket implements gofakes3.Backend.
func (b *s3Backend) ListBucket(bucket string, prefix *gofakes3.Prefix, page gofakes3.ListBucketPage) (*gofakes3.ObjectList, error) {
	if prefix == nil {
		prefix = &gofakes3.Prefix{}
	}
	objects, err := b.store.versions(bucket, prefix.Prefix, true)
	if err != nil {
		return nil, b.fail(err, bucket, "")
	}
	list := gofakes3.NewObjectList()
	var last string
	for _, o := range objects {
		if page.HasMarker && o.Name <= page.Marker {
			continue
		}
		var match gofakes3.PrefixMatch
		if !prefix.Match(o.Name, &match) {
			continue
		}
		if match.CommonPrefix && page.HasMarker && strings.HasPrefix(page.Marker, match.MatchedPart) {
			continue // the page before ended inside this prefix
		}
		same := match.CommonPrefix && len(list.CommonPrefixes) > 0 &&
			list.CommonPrefixes[len(list.CommonPrefixes)-1].Prefix == match.MatchedPart
		if full := int64(len(list.Contents)+len(list.CommonPrefixes)) >= page.MaxKeys; page.MaxKeys > 0 && full && !same {
			list.IsTruncated, list.NextMarker = true, last
			break
		}
		last = o.Name
		if match.CommonPrefix {
			list.AddPrefix(match.MatchedPart)
			continue
		}
		list.Add(&gofakes3.Content{
			Key: o.Name, LastModified: gofakes3.NewContentTime(o.Created),
			ETag: `"` + o.MD5 + `"`, Size: o.Size,
		})
	}
	return list, nil
}

// CreateBucket implements gofakes3.Backend.
func (b *s3Backend) CreateBucket(name string) error {
	err := b.store.CreateBucket(name)
	switch {
	case errors.Is(err, fs.ErrExist):
		return gofakes3.ResourceError(gofakes3.ErrBucketAlreadyExists, name)
	case errors.Is(err, ErrBadName):
		return gofakes3.ErrorMessage(gofakes3.ErrInvalidBucketName, err.Error())
	}
	return b.fail(err, name, "")
}

// BucketExists implements gofakes3.Backend.
func (b *s3Backend) BucketExists(name string) (bool, error) {
	return b.store.HasBucket(name), nil
}

// DeleteBucket implements gofakes3.Backend. Buckets are kept: builds may still
// need what is in them.
func (b *s3Backend) DeleteBucket(string) error {
	return gofakes3.ErrorMessage(gofakes3.ErrNotImplemented, "buckets are kept for the builds that came from them; delete the objects instead")
}

// ForceDeleteBucket implements gofakes3.Backend.
func (b *s3Backend) ForceDeleteBucket(name string) error { return b.DeleteBucket(name) }

// GetObject implements gofakes3.Backend.
func (b *s3Backend) GetObject(bucket, name string, rng *gofakes3.ObjectRangeRequest) (*gofakes3.Object, error) {
	return b.open(bucket, name, "", rng)
}

// HeadObject implements gofakes3.Backend.
func (b *s3Backend) HeadObject(bucket, name string) (*gofakes3.Object, error) {
	return b.HeadObjectVersion(bucket, name, "")
}

func (b *s3Backend) open(bucket, name, version string, rng *gofakes3.ObjectRangeRequest) (*gofakes3.Object, error) {
	o, f, err := b.store.Open(bucket, name, version)
	if err != nil {
		return nil, b.fail(err, bucket, name)
	}
	obj := describe(o)
	obj.Contents = f
	r, err := rng.Range(o.Size)
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	if r != nil {
		obj.Range = r
		obj.Contents = section{io.NewSectionReader(f, r.Start, r.Length), f}
	}
	return obj, nil
}

// section is a part of a file that closes the file.
type section struct {
	io.Reader
	io.Closer
}

func describe(o Object) *gofakes3.Object {
	meta := map[string]string{"Last-Modified": o.Created.UTC().Format(http.TimeFormat)}
	for k, v := range o.Metadata {
		meta["X-Amz-Meta-"+k] = v
	}
	if o.ContentType != "" {
		meta["Content-Type"] = o.ContentType
	}
	sum, err := hex.DecodeString(o.MD5)
	if err != nil {
		sum = nil
	}
	return &gofakes3.Object{
		Name: o.Name, Metadata: meta, Size: o.Size, Hash: sum,
		Contents: io.NopCloser(strings.NewReader("")), VersionID: gofakes3.VersionID(o.Generation), IsDeleteMarker: o.Deleted,
	}
}

// PutObject implements gofakes3.Backend.
func (b *s3Backend) PutObject(bucket, name string, meta map[string]string, in io.Reader, size int64, cond *gofakes3.PutConditions) (gofakes3.PutObjectResult, error) {
	o := b.putOptions(name, meta)
	o.Size = size
	if cond != nil {
		o.CreateOnly = cond.IfNoneMatch != nil && *cond.IfNoneMatch == "*"
		if cond.IfMatch != nil {
			o.IfMatch = strings.Trim(*cond.IfMatch, `"`)
		}
	}
	obj, err := b.store.Put(b.ctx(), bucket, name, in, o)
	return gofakes3.PutObjectResult{VersionID: gofakes3.VersionID(obj.Generation)}, b.fail(err, bucket, name)
}

// putOptions takes from S3's headers what we keep. A name that ends in a slash
// is how S3 tools mark a folder: it may be empty.
func (b *s3Backend) putOptions(name string, meta map[string]string) PutOptions {
	o := PutOptions{ContentType: b.contentType, Metadata: map[string]string{}, AllowEmpty: strings.HasSuffix(name, "/")}
	for k, v := range meta {
		if key, ok := strings.CutPrefix(k, "X-Amz-Meta-"); ok {
			o.Metadata[strings.ToLower(key)] = v
		}
		if k == "Content-Type" {
			o.ContentType = v
		}
	}
	return o
}

// DeleteObject implements gofakes3.Backend.
func (b *s3Backend) DeleteObject(bucket, name string) (gofakes3.ObjectDeleteResult, error) {
	return b.DeleteObjectVersion(bucket, name, "")
}

// DeleteMulti implements gofakes3.Backend.
func (b *s3Backend) DeleteMulti(bucket string, names ...string) (gofakes3.MultiDeleteResult, error) {
	ids := make([]gofakes3.ObjectID, len(names))
	for i, name := range names {
		ids[i].Key = name
	}
	return b.DeleteMultiVersions(bucket, ids...)
}

// CopyObject implements gofakes3.Backend.
func (b *s3Backend) CopyObject(fromBucket, from, toBucket, to string, meta map[string]string) (gofakes3.CopyObjectResult, error) {
	src, f, err := b.store.Open(fromBucket, from, "")
	if err != nil {
		return gofakes3.CopyObjectResult{}, b.fail(err, fromBucket, from)
	}
	defer f.Close()
	o := b.putOptions(to, meta)
	o.Size = src.Size
	obj, err := b.store.Put(b.ctx(), toBucket, to, f, o)
	if err != nil {
		return gofakes3.CopyObjectResult{}, b.fail(err, toBucket, to)
	}
	return gofakes3.CopyObjectResult{ETag: `"` + obj.MD5 + `"`, LastModified: gofakes3.NewContentTime(obj.Created)}, nil
}
