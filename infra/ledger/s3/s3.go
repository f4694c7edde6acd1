// Package s3 is a ledger in a bucket of Amazon S3 or a server that speaks its
// protocol. An object is stored only if its etag is the one that was seen
// (If-Match), or if there is none (If-None-Match: *). A server that ignores
// those headers cannot keep a ledger.
package s3

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/aws/retry"
	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"
	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/smithy-go"

	"github.com/kilnhook/kiln/infra/ledger"
	"github.com/kilnhook/kiln/infra/ledger/object"
)

// writerKey is the metadata that says which call stored an object.
const writerKey = "kiln-writer"

// Options says where the ledger is.
type Options struct {
	Bucket string // required
	object.Options
	// Region of the bucket; empty is what the environment says.
	Region string
	// Endpoint is the address of a server that is not Amazon's; empty is
	// Amazon's, or what the environment says.
	Endpoint string
	// PathStyle puts the bucket into the path and not into the host's name.
	PathStyle bool
	// Credentials; nil is what Amazon's own tools find.
	Credentials aws.CredentialsProvider
	// Client makes the requests; nil is the library's own.
	Client *http.Client
	// PageSize is how many keys a list asks for at a time; 0 is the server's
	// limit, 1,000.
	PageSize int
}

// Open returns the ledger in a bucket, which must exist. ctx is for finding
// credentials.
func Open(ctx context.Context, o Options) (*object.Store, error) {
	load := []func(*config.LoadOptions) error{
		// Attempts are counted in one place, the package object.
		config.WithRetryer(func() aws.Retryer { return aws.NopRetryer{} }),
	}
	if o.Region != "" {
		load = append(load, config.WithRegion(o.Region))
	}
	if o.Credentials != nil {
		load = append(load, config.WithCredentialsProvider(o.Credentials))
	}
	cfg, err := config.LoadDefaultConfig(ctx, load...)
	if err != nil {
		return nil, fmt.Errorf("open ledger in s3://%s: %w", o.Bucket, err)
	}
	if cfg.Region == "" {
		return nil, fmt.Errorf("open ledger in s3://%s: its region is not known; set AWS_REGION", o.Bucket)
	}
	client := s3.NewFromConfig(cfg, func(opts *s3.Options) {
		opts.UsePathStyle = o.PathStyle
		if o.Endpoint != "" {
			opts.BaseEndpoint = aws.String(o.Endpoint)
		}
		if o.Client != nil {
			opts.HTTPClient = o.Client
		}
	})
	return object.New(bucket{client: client, name: o.Bucket, page: o.PageSize}, transient, o.Options)
}

// bucket is a bucket as the package object wants one.
type bucket struct {
	client *s3.Client
	name   string
	page   int
}

// Get implements object.Bucket.
func (b bucket) Get(ctx context.Context, name string) (data []byte, version string, err error) {
	out, err := b.client.GetObject(ctx, &s3.GetObjectInput{Bucket: &b.name, Key: &name})
	if err != nil {
		return nil, "", known(err)
	}
	defer out.Body.Close()
	data, err = io.ReadAll(io.LimitReader(out.Body, ledger.MaxValue+1))
	if err != nil {
		return nil, "", fmt.Errorf("%w: %w", object.ErrBroken, err)
	}
	return data, aws.ToString(out.ETag), ledger.CheckValue(name, data)
}

// Writer implements object.Bucket.
func (b bucket) Writer(ctx context.Context, name string) (writer, version string, err error) {
	out, err := b.client.HeadObject(ctx, &s3.HeadObjectInput{Bucket: &b.name, Key: &name})
	if err != nil {
		return "", "", known(err)
	}
	return out.Metadata[writerKey], aws.ToString(out.ETag), nil
}

// Put implements object.Bucket.
func (b bucket) Put(ctx context.Context, name, writer string, data []byte, c object.Condition) (version string, err error) {
	in := &s3.PutObjectInput{
		Bucket: &b.name, Key: &name, Body: bytes.NewReader(data), ContentLength: aws.Int64(int64(len(data))),
		ContentType: aws.String("application/json"), Metadata: map[string]string{writerKey: writer},
	}
	if c.Version == "" {
		in.IfNoneMatch = aws.String("*")
	} else {
		in.IfMatch = &c.Version
	}
	out, err := b.client.PutObject(ctx, in)
	if err != nil {
		return "", known(err)
	}
	return aws.ToString(out.ETag), nil
}

// Delete implements object.Bucket.
func (b bucket) Delete(ctx context.Context, name string) error {
	_, err := b.client.DeleteObject(ctx, &s3.DeleteObjectInput{Bucket: &b.name, Key: &name})
	return known(err)
}

// List implements object.Bucket.
func (b bucket) List(ctx context.Context, prefix, after string, limit int) ([]string, error) {
	in := &s3.ListObjectsV2Input{Bucket: &b.name, Prefix: &prefix}
	if after != "" {
		in.StartAfter = &after
	}
	switch {
	case limit > 0 && (b.page == 0 || limit < b.page):
		in.MaxKeys = aws.Int32(int32(min(limit, 1000)))
	case b.page > 0:
		in.MaxKeys = aws.Int32(int32(b.page))
	}
	out, err := b.client.ListObjectsV2(ctx, in)
	if err != nil {
		return nil, known(err)
	}
	var names []string
	for _, found := range out.Contents {
		names = append(names, aws.ToString(found.Key))
	}
	return names, nil
}

// transient reports whether what an error tells of may pass. S3 answers 409 when
// two conditional writes of one key meet: neither is done then.
func transient(err error) bool {
	switch status(err) {
	case http.StatusConflict, http.StatusTooManyRequests, http.StatusRequestTimeout:
		return true
	}
	return status(err) >= http.StatusInternalServerError || retry.IsErrorRetryables(retry.DefaultRetryables).IsErrorRetryable(err) == aws.TrueTernary
}

// status is the HTTP status that an error tells of, or 0.
func status(err error) int {
	var response *awshttp.ResponseError
	if errors.As(err, &response) {
		return response.HTTPStatusCode()
	}
	return 0
}

// known turns what the server says of an object into the errors of the package
// object.
func known(err error) error {
	var api smithy.APIError
	switch code := status(err); {
	case errors.As(err, &api) && api.ErrorCode() == "NoSuchBucket":
		return errors.New("there is no such bucket; make it first")
	case code == http.StatusNotFound:
		return fs.ErrNotExist
	case code == http.StatusPreconditionFailed:
		return object.ErrPrecondition
	}
	return err
}
