package source

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"time"

	"github.com/kilnhook/kiln/executor/internal/cloud"
)

// fetchS3 fetches an archive from S3 or what speaks its protocol:
// "bucket/key", "bucket" for its context.tar.gz, and "?versionId=id" after it
// for one version.
func fetchS3(ctx context.Context, rest string, opt *Options) (*Context, error) {
	bucket, key, err := splitBucket(rest)
	if err != nil {
		return nil, err
	}
	s := &s3{bucket: bucket, keys: cloud.NewAWS(cloudOptions(opt)), now: opt.Now}
	version := ""
	if i := strings.LastIndex(key, "?versionId="); i > 0 {
		key, version = key[:i], key[i+len("?versionId="):]
	}
	s.key = key
	if s.region, err = s.keys.Region(); err != nil {
		return nil, err
	}
	if s.region == "" {
		s.region = "us-east-1" // which tells where else a bucket is
	}
	if err := s.place(opt); err != nil {
		return nil, err
	}
	u := s.url()
	if version != "" {
		u.RawQuery = "versionId=" + cloud.EscapeAWS(version, true)
	}
	return fromStore(ctx, u, s, opt)
}

// s3 is S3 or a server that speaks its protocol.
type s3 struct {
	bucket, key string
	region      string
	endpoint    *url.URL // nil: Amazon's
	pathStyle   bool
	keys        *cloud.AWS
	used        *cloud.AWSKey // nil: none
	now         func() time.Time
}

// place reads S3_ENDPOINT and S3_FORCE_PATH_STYLE.
func (s *s3) place(opt *Options) error {
	s.pathStyle = strings.Contains(s.bucket, ".") // which no wildcard certificate covers
	raw := opt.Env("S3_ENDPOINT")
	if raw == "" {
		return nil
	}
	if !strings.Contains(raw, "://") {
		raw = "https://" + raw
	}
	u, err := url.Parse(raw)
	if err != nil || u.Hostname() == "" || u.Scheme != "https" && u.Scheme != "http" {
		return errors.New("S3_ENDPOINT is not valid: want https://host")
	}
	_, ip := netip.ParseAddr(u.Hostname())
	s.endpoint = &url.URL{Scheme: u.Scheme, Host: u.Host, Path: strings.TrimSuffix(u.Path, "/")}
	s.pathStyle = ip == nil || strings.EqualFold(opt.Env("S3_FORCE_PATH_STYLE"), "true")
	return nil
}

// url is where the object is.
func (s *s3) url() *url.URL {
	u := url.URL{Scheme: "https", Host: "s3." + s.region + "." + cloud.AWSDomain(s.region)}
	if s.endpoint != nil {
		u = *s.endpoint
	}
	path := "/" + s.key
	if s.pathStyle {
		path = "/" + s.bucket + path
	} else {
		u.Host = s.bucket + "." + u.Host
	}
	u.Path += path
	u.RawPath = cloud.EscapeAWS(u.Path, false)
	return &u
}

func (s *s3) sign(ctx context.Context, req *http.Request) error {
	var err error
	if s.used, err = s.keys.Key(ctx); err != nil {
		return err
	}
	if s.used != nil {
		cloud.SignAWS(req, *s.used, "s3", s.region, s.now())
	}
	return nil
}

func (*s3) pin(resp *http.Response, u *url.URL) (string, http.Header) {
	etag := resp.Header.Get("ETag")
	var same http.Header
	if etag != "" {
		same = http.Header{"If-Match": {etag}}
	}
	if id := resp.Header.Get("X-Amz-Version-Id"); id != "" && id != "null" {
		u.RawQuery = "versionId=" + cloud.EscapeAWS(id, true)
		return "version:" + id, same
	}
	if etag == "" {
		return "", nil
	}
	return "etag:" + strings.Trim(etag, `"`), same
}

// elsewhere follows a bucket to its region.
func (s *s3) elsewhere(resp *http.Response, u *url.URL) bool {
	region := resp.Header.Get("X-Amz-Bucket-Region")
	if s.endpoint != nil || region == "" || region == s.region {
		return false
	}
	s.region = region
	query := u.RawQuery
	*u = *s.url()
	u.RawQuery = query
	return true
}

func (s *s3) explain(status int) string {
	where := fmt.Sprintf("s3://%s/%s in region %s", s.bucket, s.key, s.region)
	if s.endpoint != nil {
		where += " at S3_ENDPOINT " + s.endpoint.Host
	}
	if s.used == nil {
		return "no AWS credentials were found, so it was asked for without: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, AWS_PROFILE, or give the machine or pod a role; asked for " + where
	}
	who := "asked with " + s.used.From
	switch status {
	case http.StatusNotFound:
		return who + ": check that there is " + where
	case http.StatusMovedPermanently, http.StatusTemporaryRedirect, http.StatusBadRequest:
		return who + ": check AWS_REGION; asked for " + where
	}
	return who + ": check the key and that it has s3:GetObject (and s3:ListBucket, without which a missing object is forbidden) on " + where
}
