package bucket

import (
	"context"
	"crypto/md5" //nolint:gosec // an S3 ETag is an MD5 by definition
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sort"
	"strconv"
	"strings"
	"time"

	"github.com/johannesboyne/gofakes3"

	"github.com/kilnhook/kiln/infra/local/durable"
)

// A multipart upload is a directory uploads/<id>/ with upload.json and one file
// per part, named <number>-<MD5>. It stays until the object made of it has been
// announced, so that a client may complete it again after a 503.

const uploadAge = 7 * 24 * time.Hour // after which an unfinished upload is dropped

// upload is what an unfinished multipart upload is for.
type upload struct {
	Bucket, Name string
	Meta         map[string]string
	Initiated    time.Time
}

// part is one received part.
type part struct {
	number int
	md5    string // hexadecimal
	path   string
	info   fs.FileInfo
}

func (s *Store) dropOldUploads() error {
	entries, err := os.ReadDir(s.path("uploads"))
	if err != nil {
		return fmt.Errorf("open bucket: %w", err)
	}
	for _, e := range entries {
		u, err := s.readUpload(gofakes3.UploadID(e.Name()))
		if err == nil && s.opts.Now().Sub(u.Initiated) < uploadAge {
			continue
		}
		if err := os.RemoveAll(s.path("uploads", e.Name())); err != nil {
			return fmt.Errorf("open bucket: %w", err)
		}
	}
	return nil
}

func (s *Store) readUpload(id gofakes3.UploadID) (upload, error) {
	if strings.Trim(string(id), "0123456789") != "" || id == "" {
		return upload{}, gofakes3.ErrNoSuchUpload
	}
	data, err := os.ReadFile(s.path("uploads", string(id), "upload.json"))
	if errors.Is(err, fs.ErrNotExist) {
		return upload{}, gofakes3.ErrNoSuchUpload
	}
	var u upload
	if err == nil {
		err = json.Unmarshal(data, &u)
	}
	if err != nil {
		return upload{}, fmt.Errorf("read multipart upload %s: %w", id, err)
	}
	return u, nil
}

// find reads the upload that a request names.
func (b *s3Backend) find(bucket, name string, id gofakes3.UploadID) (upload, error) {
	u, err := b.store.readUpload(id)
	if err != nil {
		return u, b.fail(err, bucket, name)
	}
	if u.Bucket != bucket || u.Name != name {
		return u, gofakes3.ErrNoSuchUpload
	}
	return u, nil
}

// CreateMultipartUpload implements gofakes3.MultipartBackend.
func (b *s3Backend) CreateMultipartUpload(bucket, name string, meta map[string]string) (gofakes3.UploadID, error) {
	if err := b.store.checkTarget(bucket, name); err != nil {
		return "", b.fail(err, bucket, name)
	}
	var raw [6]byte
	if _, err := rand.Read(raw[:]); err != nil {
		return "", b.fail(err, bucket, name)
	}
	// The library's ids are decimal numbers.
	id := strconv.FormatInt(b.store.opts.Now().UnixMicro(), 10)
	for _, c := range raw {
		id += fmt.Sprintf("%03d", c)
	}
	data, err := json.Marshal(upload{Bucket: bucket, Name: name, Meta: meta, Initiated: b.store.opts.Now().UTC()})
	if err == nil {
		err = os.Mkdir(b.store.path("uploads", id), 0o700)
	}
	if err == nil {
		err = durable.WriteFile(b.store.path("uploads", id, "upload.json"), data, 0o600)
	}
	return gofakes3.UploadID(id), b.fail(noSpace(err), bucket, name)
}

// UploadPart implements gofakes3.MultipartBackend.
func (b *s3Backend) UploadPart(bucket, name string, id gofakes3.UploadID, number int, length int64, in io.Reader) (string, error) {
	if _, err := b.find(bucket, name, id); err != nil {
		return "", err
	}
	old, err := b.store.parts(id)
	if err != nil {
		return "", b.fail(err, bucket, name)
	}
	total := length
	for _, p := range old {
		if p.number != number {
			total += p.info.Size()
		}
	}
	if total > b.store.opts.MaxObject {
		return "", b.fail(b.store.tooLarge(), bucket, name)
	}
	sum, err := b.store.writePart(b.ctx(), id, number, length, in)
	if err != nil {
		return "", b.fail(fmt.Errorf("store part %d of %s: %w", number, name, noSpace(err)), bucket, name)
	}
	for _, p := range old {
		if p.number == number && p.md5 != sum {
			if err := removeIfThere(p.path); err != nil {
				return "", b.fail(err, bucket, name)
			}
		}
	}
	return `"` + sum + `"`, nil
}

func (s *Store) writePart(ctx context.Context, id gofakes3.UploadID, number int, length int64, in io.Reader) (sum string, err error) {
	f, err := os.CreateTemp(s.path("uploads", string(id)), ".part-*")
	if err != nil {
		return "", err
	}
	defer func() {
		if err = errors.Join(err, f.Close()); err != nil {
			err = errors.Join(err, removeIfThere(f.Name()))
		}
	}()
	md := md5.New() //nolint:gosec // see the import
	n, err := io.CopyBuffer(io.MultiWriter(f, md), io.LimitReader(readerUntil(ctx, in), length+1), make([]byte, 256<<10))
	if errors.Is(err, io.ErrUnexpectedEOF) || (err == nil && n != length) {
		return "", fmt.Errorf("%w: %d bytes came, %d were announced", ErrShort, n, length)
	}
	if err != nil {
		return "", err
	}
	sum = hex.EncodeToString(md.Sum(nil))
	if err := f.Sync(); err != nil {
		return "", err
	}
	return sum, os.Rename(f.Name(), s.path("uploads", string(id), fmt.Sprintf("%05d-%s", number, sum)))
}

// parts lists the received parts of an upload by number.
func (s *Store) parts(id gofakes3.UploadID) ([]part, error) {
	paths, err := filepath.Glob(s.path("uploads", string(id), "[0-9]*-*"))
	if err != nil {
		return nil, fmt.Errorf("list parts: %w", err)
	}
	var parts []part
	for _, path := range paths {
		num, sum, _ := strings.Cut(filepath.Base(path), "-")
		n, err := strconv.Atoi(num)
		if err != nil {
			continue // not ours
		}
		info, err := os.Stat(path)
		if err != nil {
			continue // replaced meanwhile
		}
		parts = append(parts, part{number: n, md5: sum, path: path, info: info})
	}
	return parts, nil
}

// CompleteMultipartUpload implements gofakes3.MultipartBackend.
func (b *s3Backend) CompleteMultipartUpload(bucket, name string, id gofakes3.UploadID, in *gofakes3.CompleteMultipartUploadRequest) (gofakes3.VersionID, string, error) {
	u, err := b.find(bucket, name, id)
	if err != nil {
		return "", "", err
	}
	have, err := b.store.parts(id)
	if err != nil {
		return "", "", b.fail(err, bucket, name)
	}
	chosen, etag, err := choose(have, in)
	if err != nil {
		return "", "", err
	}
	o := b.putOptions(name, u.Meta)
	var readers []io.Reader
	for _, p := range chosen {
		f, err := os.Open(p.path)
		if err != nil {
			return "", "", b.fail(err, bucket, name)
		}
		defer f.Close() // held to the end: the parts are read one after another
		readers = append(readers, f)
		o.Size += p.info.Size()
	}
	obj, err := b.store.Put(b.ctx(), bucket, name, io.MultiReader(readers...), o)
	if err != nil {
		return "", "", b.fail(err, bucket, name)
	}
	if err := os.RemoveAll(b.store.path("uploads", string(id))); err != nil {
		b.store.opts.Log.Warn("remove finished multipart upload", "err", err)
	}
	return gofakes3.VersionID(obj.Generation), etag, nil
}

// choose picks the parts that a request to complete names, and makes the ETag
// of the whole: the MD5 of the parts' MD5s and their number.
func choose(have []part, in *gofakes3.CompleteMultipartUploadRequest) ([]part, string, error) {
	if len(in.Parts) == 0 {
		return nil, "", gofakes3.ErrorMessage(gofakes3.ErrMalformedXML, "the list of parts is empty")
	}
	if !sort.SliceIsSorted(in.Parts, func(i, j int) bool { return in.Parts[i].PartNumber < in.Parts[j].PartNumber }) {
		return nil, "", gofakes3.ErrInvalidPartOrder
	}
	byKey := map[string]part{}
	for _, p := range have {
		byKey[fmt.Sprintf("%d-%s", p.number, p.md5)] = p
	}
	var chosen []part
	whole := md5.New() //nolint:gosec // see the import
	for _, want := range in.Parts {
		p, ok := byKey[fmt.Sprintf("%d-%s", want.PartNumber, strings.Trim(want.ETag, `"`))]
		if !ok {
			return nil, "", gofakes3.ErrorMessagef(gofakes3.ErrInvalidPart, "part %d with ETag %s was not uploaded", want.PartNumber, want.ETag)
		}
		sum, err := hex.DecodeString(p.md5)
		if err != nil {
			return nil, "", gofakes3.ErrInvalidPart
		}
		whole.Write(sum)
		chosen = append(chosen, p)
	}
	return chosen, fmt.Sprintf(`"%x-%d"`, whole.Sum(nil), len(chosen)), nil
}

// AbortMultipartUpload implements gofakes3.MultipartBackend.
func (b *s3Backend) AbortMultipartUpload(bucket, name string, id gofakes3.UploadID) error {
	if _, err := b.find(bucket, name, id); err != nil {
		return err
	}
	return b.fail(os.RemoveAll(b.store.path("uploads", string(id))), bucket, name)
}

// ListParts implements gofakes3.MultipartBackend.
func (b *s3Backend) ListParts(bucket, name string, id gofakes3.UploadID, marker int, limit int64) (*gofakes3.ListMultipartUploadPartsResult, error) {
	if _, err := b.find(bucket, name, id); err != nil {
		return nil, err
	}
	parts, err := b.store.parts(id)
	if err != nil {
		return nil, b.fail(err, bucket, name)
	}
	res := &gofakes3.ListMultipartUploadPartsResult{
		Bucket: bucket, Key: name, UploadID: id, MaxParts: limit, PartNumberMarker: marker, StorageClass: gofakes3.StorageStandard,
	}
	for _, p := range parts {
		if p.number <= marker {
			continue
		}
		if int64(len(res.Parts)) >= limit {
			res.IsTruncated = true
			res.NextPartNumberMarker = res.Parts[len(res.Parts)-1].PartNumber
			break
		}
		res.Parts = append(res.Parts, gofakes3.ListMultipartUploadPartItem{
			PartNumber: p.number, ETag: `"` + p.md5 + `"`, Size: p.info.Size(), LastModified: gofakes3.NewContentTime(p.info.ModTime()),
		})
	}
	return res, nil
}

// ListMultipartUploads implements gofakes3.MultipartBackend.
func (b *s3Backend) ListMultipartUploads(bucket string, marker *gofakes3.UploadListMarker, prefix gofakes3.Prefix, limit int64) (*gofakes3.ListMultipartUploadsResult, error) {
	entries, err := os.ReadDir(b.store.path("uploads"))
	if err != nil {
		return nil, b.fail(err, bucket, "")
	}
	res := &gofakes3.ListMultipartUploadsResult{Bucket: bucket, MaxUploads: limit, Prefix: prefix.Prefix, Delimiter: prefix.Delimiter}
	var items []gofakes3.ListMultipartUploadItem
	for _, e := range entries {
		u, err := b.store.readUpload(gofakes3.UploadID(e.Name()))
		if err != nil || u.Bucket != bucket || !prefix.Match(u.Name, nil) {
			continue // finished meanwhile, or not asked for
		}
		items = append(items, gofakes3.ListMultipartUploadItem{
			Key: u.Name, UploadID: gofakes3.UploadID(e.Name()), StorageClass: gofakes3.StorageStandard,
			Initiated: gofakes3.NewContentTime(u.Initiated),
		})
	}
	sort.Slice(items, func(i, j int) bool {
		return items[i].Key < items[j].Key || items[i].Key == items[j].Key && items[i].UploadID < items[j].UploadID
	})
	for _, it := range items {
		if marker != nil && (it.Key < marker.Object || it.Key == marker.Object && it.UploadID <= marker.UploadID) {
			continue
		}
		if int64(len(res.Uploads)) >= limit {
			res.IsTruncated = true
			last := res.Uploads[len(res.Uploads)-1]
			res.NextKeyMarker, res.NextUploadIDMarker = last.Key, last.UploadID
			break
		}
		res.Uploads = append(res.Uploads, it)
	}
	return res, nil
}
