package bucket

import (
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"github.com/johannesboyne/gofakes3"
)

// isPartCopy reports whether r is an UploadPartCopy, which the S3 library does
// not know: a part that is taken from another object instead of the body.
func isPartCopy(r *http.Request) bool {
	q := r.URL.Query()
	return r.Method == http.MethodPut && q.Get("uploadId") != "" && r.Header.Get("X-Amz-Copy-Source") != ""
}

// copyPartResult is the answer to UploadPartCopy.
type copyPartResult struct {
	XMLName      xml.Name             `xml:"CopyPartResult"`
	ETag         string               `xml:"ETag"`
	LastModified gofakes3.ContentTime `xml:"LastModified"`
}

func (b *s3Backend) servePartCopy(w http.ResponseWriter, r *http.Request) {
	etag, err := b.copyPart(r) //nolint:contextcheck // the S3 library passes none
	var answer any = copyPartResult{ETag: etag, LastModified: gofakes3.NewContentTime(b.store.opts.Now())}
	status := http.StatusOK
	if err != nil {
		var s3err gofakes3.Error
		if !errors.As(err, &s3err) {
			s3err = gofakes3.ErrInternal
		}
		status = s3err.ErrorCode().Status()
		answer = gofakes3.ErrorResponse{Code: s3err.ErrorCode(), Message: err.Error()}
	}
	w.Header().Set("Content-Type", "application/xml")
	w.WriteHeader(status)
	if err := xml.NewEncoder(w).Encode(answer); err != nil {
		b.store.opts.Log.Debug("answer part copy", "err", err)
	}
}

func (b *s3Backend) copyPart(r *http.Request) (etag string, err error) {
	q := r.URL.Query()
	number, err := strconv.Atoi(q.Get("partNumber"))
	if err != nil || number < 1 || number > gofakes3.MaxUploadPartNumber {
		return "", gofakes3.ErrInvalidPart
	}
	bucket, name, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, "/"), "/")
	source, err := url.PathUnescape(r.Header.Get("X-Amz-Copy-Source"))
	if err != nil {
		return "", gofakes3.ErrInvalidArgument
	}
	source, version, _ := strings.Cut(source, "?versionId=")
	fromBucket, from, _ := strings.Cut(strings.TrimPrefix(source, "/"), "/")
	o, f, err := b.store.Open(fromBucket, from, version)
	if err != nil {
		return "", b.fail(err, fromBucket, from)
	}
	defer f.Close()
	start, length := int64(0), o.Size
	if text := r.Header.Get("X-Amz-Copy-Source-Range"); text != "" {
		var end int64
		if _, err := fmt.Sscanf(text, "bytes=%d-%d", &start, &end); err != nil || start < 0 || end < start || end >= o.Size {
			return "", gofakes3.ErrInvalidRange
		}
		length = end - start + 1
	}
	return b.UploadPart(bucket, name, gofakes3.UploadID(q.Get("uploadId")), number, length, io.NewSectionReader(f, start, length))
}
