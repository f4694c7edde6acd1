package source

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"strings"

	"github.com/kilnhook/kiln/executor/internal/cloud"
)

// gcsScope is all that reading an object takes.
const gcsScope = "https://www.googleapis.com/auth/devstorage.read_only"

// fetchGCS fetches an archive from Google Cloud Storage: "bucket/object",
// "bucket" for its context.tar.gz, and "#generation" after it for one
// generation, as gsutil writes it.
func fetchGCS(ctx context.Context, rest string, opt *Options) (*Context, error) {
	bucket, object, err := splitBucket(rest)
	if err != nil {
		return nil, err
	}
	s := &gcs{name: "gs://" + bucket + "/" + object}
	query := "alt=media"
	if i := strings.LastIndexByte(object, '#'); i > 0 && i < len(object)-1 && strings.Trim(object[i+1:], "0123456789") == "" {
		query += "&generation=" + object[i+1:]
		object = object[:i]
	}
	base := "https://storage.googleapis.com"
	if host := opt.Env("STORAGE_EMULATOR_HOST"); host != "" {
		base = strings.TrimSuffix(host, "/")
		if !strings.Contains(base, "://") {
			base = "http://" + base
		}
	} else {
		s.tokens = cloud.NewGoogle(gcsScope, cloudOptions(opt))
	}
	u, err := url.Parse(base + "/storage/v1/b/" + cloud.EscapeAWS(bucket, true) + "/o/" + cloud.EscapeAWS(object, true) + "?" + query)
	if err != nil {
		return nil, fmt.Errorf("STORAGE_EMULATOR_HOST is not valid: %w", err)
	}
	return fromStore(ctx, u, s, opt)
}

// gcs is Google Cloud Storage.
type gcs struct {
	name   string
	tokens *cloud.Google // nil: an emulator
	used   *cloud.Token  // nil: none
}

func (g *gcs) sign(ctx context.Context, req *http.Request) error {
	// An object that is stored compressed arrives as it is stored, and so can
	// be resumed.
	req.Header.Set("Accept-Encoding", "gzip")
	if g.tokens == nil {
		return nil
	}
	var err error
	if g.used, err = g.tokens.Token(ctx); err != nil {
		return err
	}
	if g.used != nil {
		req.Header.Set("Authorization", "Bearer "+g.used.Value)
	}
	return nil
}

func (g *gcs) pin(resp *http.Response, u *url.URL) (string, http.Header) {
	generation := resp.Header.Get("X-Goog-Generation")
	if generation == "" {
		return "", nil
	}
	q := u.Query()
	q.Set("generation", generation)
	u.RawQuery = q.Encode()
	return "generation:" + generation, http.Header{}
}

func (*gcs) elsewhere(*http.Response, *url.URL) bool { return false }

func (g *gcs) explain(status int) string {
	who := "no Google credentials were found: set GOOGLE_APPLICATION_CREDENTIALS, run gcloud auth application-default login, or give the machine or pod a service account"
	if g.tokens == nil {
		who = "STORAGE_EMULATOR_HOST is asked without credentials"
	}
	if g.used != nil {
		who = "asked as " + g.used.From
		switch status {
		case http.StatusForbidden, http.StatusNotFound:
			who += ": check that it has storage.objects.get (role Storage Object Viewer) on the bucket"
		case http.StatusUnauthorized:
			who += ": its token was refused"
		}
	}
	if status == http.StatusNotFound {
		who += ", and that " + g.name + " exists"
	}
	return who
}
