package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"time"

	"github.com/kilnhook/kiln/executor/internal/source"
	"github.com/kilnhook/kiln/executor/internal/transport"
)

// writeOutput writes what a flag like --digest-file asks for: into a file, or
// by PUT to a URL.
func writeOutput(ctx context.Context, where string, content []byte, userAgent string) error {
	if _, ok := urlName(where); !ok {
		return writeFile(where, content)
	}
	client := &http.Client{
		Transport: transport.New(transport.Options{Proxy: http.ProxyFromEnvironment, UserAgent: userAgent, Header: time.Minute}),
		// The URL may be signed for this host alone.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	wait := 200 * time.Millisecond
	for try := 1; ; try++ {
		again, err := put(ctx, client, where, content)
		if err == nil {
			return nil
		}
		if !again || try == sendTries {
			return fmt.Errorf("PUT %s: %w", source.Redact(where), err)
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(wait):
		}
		wait *= 3
	}
}

// put sends content once; again says whether another try may help.
func put(ctx context.Context, client *http.Client, where string, content []byte) (again bool, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPut, where, bytes.NewReader(content))
	if err != nil {
		return false, errors.New("not a valid URL")
	}
	req.Header.Set("Content-Type", "text/plain")
	resp, err := client.Do(req)
	if err != nil {
		var bad *url.Error
		if errors.As(err, &bad) { // it quotes the URL, which may hold secrets
			err = bad.Err
		}
		return !errors.Is(err, transport.ErrLinkLocal), err
	}
	_ = resp.Body.Close()
	if resp.StatusCode/100 == 2 {
		return false, nil
	}
	return resp.StatusCode >= 500 || resp.StatusCode == http.StatusTooManyRequests, fmt.Errorf("the server answered %s", resp.Status)
}

// writeFile writes in place: the file may be /dev/termination-log, which
// cannot be replaced.
func writeFile(path string, content []byte) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	return os.WriteFile(path, content, 0o644)
}
