package source

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"time"

	"github.com/kilnhook/kiln/executor/internal/transport"
)

// smallTries is how often a small file is asked for, and smallWait the wait
// before the second time.
const (
	smallTries = 4
	smallWait  = 500 * time.Millisecond
)

// GetSmall gets a file of at most limit bytes, a Dockerfile for example, by
// http or https. The error does not quote the URL.
func GetSmall(ctx context.Context, rawURL string, limit int64, userAgent string) ([]byte, error) {
	client := &http.Client{Transport: transport.New(transport.Options{Proxy: http.ProxyFromEnvironment, UserAgent: userAgent, Header: time.Minute})}
	client.CheckRedirect = func(req *http.Request, via []*http.Request) error {
		if len(via) >= 10 || req.URL.Scheme == "http" && via[0].URL.Scheme == "https" {
			return errors.New("refused to follow too many redirects, or one to plain http")
		}
		return nil
	}
	for try := 0; ; try++ {
		content, again, err := getSmall(ctx, client, rawURL, limit)
		if err == nil || !again || try == smallTries-1 {
			return content, err
		}
		select {
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		case <-time.After(smallWait << try):
		}
	}
}

func getSmall(ctx context.Context, client *http.Client, rawURL string, limit int64) (content []byte, again bool, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, rawURL, http.NoBody)
	if err != nil {
		return nil, false, errors.New("not a valid URL")
	}
	resp, err := client.Do(req)
	if err != nil {
		var bad *url.Error
		if errors.As(err, &bad) { // it quotes the URL, which may hold secrets
			err = bad.Err
		}
		return nil, !errors.Is(err, transport.ErrLinkLocal), err
	}
	defer func() { _ = resp.Body.Close() }()
	if resp.StatusCode != http.StatusOK {
		return nil, resp.StatusCode >= 500 || resp.StatusCode == http.StatusTooManyRequests, fmt.Errorf("the server answered %s", resp.Status)
	}
	content, err = io.ReadAll(io.LimitReader(resp.Body, limit+1))
	if err != nil {
		return nil, true, err
	}
	if int64(len(content)) > limit {
		return nil, false, fmt.Errorf("it is larger than %d KiB", limit>>10)
	}
	return content, false, nil
}
