package client

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"

	"github.com/kilnhook/kiln/functions/dispatch"
	"github.com/kilnhook/kiln/infra/local/api"
)

// Rebuild builds once more what a build built. Whoever gives the same key
// again gets the same build; an empty key is another every time.
func (c *Client) Rebuild(ctx context.Context, id, key string) (dispatch.Decision, error) {
	header := http.Header{}
	if key != "" {
		header.Set("Idempotency-Key", key)
	}
	decisions, err := c.decisions(ctx, "/v1/builds/"+url.PathEscape(id)+"/rebuild", header)
	if err != nil {
		return dispatch.Decision{}, fmt.Errorf("rebuild: %w", err)
	}
	if len(decisions) != 1 {
		return dispatch.Decision{}, fmt.Errorf("rebuild: kiln answered with %d builds", len(decisions))
	}
	return decisions[0], nil
}

// DeadLetters lists requests that could not be understood.
func (c *Client) DeadLetters(ctx context.Context, limit int, after string) (letters []dispatch.DeadLetter, next string, err error) {
	var page struct {
		DeadLetters []dispatch.DeadLetter `json:"deadLetters"`
		Next        string                `json:"next"`
	}
	path := fmt.Sprintf("/v1/deadletters?limit=%d&after=%s", limit, url.QueryEscape(after))
	if err := c.json(ctx, http.MethodGet, path, nil, &page); err != nil {
		return nil, "", fmt.Errorf("list dead letters: %w", err)
	}
	return page.DeadLetters, page.Next, nil
}

// Replay reads a dead letter again.
func (c *Client) Replay(ctx context.Context, key string) ([]dispatch.Decision, error) {
	decisions, err := c.decisions(ctx, "/v1/deadletters/"+key, nil)
	if err != nil {
		return nil, fmt.Errorf("replay: %w", err)
	}
	return decisions, nil
}

// Doctor looks whether everything is in order.
func (c *Client) Doctor(ctx context.Context) ([]api.Check, error) {
	var checks []api.Check
	if err := c.json(ctx, http.MethodGet, "/api/doctor", nil, &checks); err != nil {
		return nil, fmt.Errorf("ask the doctor: %w", err)
	}
	return checks, nil
}

// Forget removes a dead letter.
func (c *Client) Forget(ctx context.Context, key string) error {
	var none struct{}
	if err := c.json(ctx, http.MethodDelete, "/v1/deadletters/"+key, nil, &none); err != nil {
		return fmt.Errorf("remove dead letter: %w", err)
	}
	return nil
}

// decisions posts and reads what became of it.
func (c *Client) decisions(ctx context.Context, path string, header http.Header) ([]dispatch.Decision, error) {
	var a struct {
		Builds []dispatch.Decision `json:"builds"`
	}
	err := c.json(ctx, http.MethodPost, path, header, &a)
	return a.Builds, err
}

// json sends a request and reads its JSON answer into v.
func (c *Client) json(ctx context.Context, method, path string, header http.Header, v any) error {
	resp, err := c.do(ctx, method, path, nil, header)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if err := json.NewDecoder(resp.Body).Decode(v); err != nil {
		return fmt.Errorf("read answer of kiln: %w", err)
	}
	return nil
}

// Start says what is to be built: a ref, or an object.
type Start struct {
	Trigger    string `json:"trigger,omitempty"`
	Repo       string `json:"repo,omitempty"`
	Ref        string `json:"ref,omitempty"`
	Commit     string `json:"commit,omitempty"`
	Bucket     string `json:"bucket,omitempty"`
	Object     string `json:"object,omitempty"`
	Generation string `json:"generation,omitempty"`
}

// Start asks for a build.
func (c *Client) Start(ctx context.Context, s Start) ([]dispatch.Decision, error) {
	body, err := json.Marshal(s)
	if err != nil {
		return nil, fmt.Errorf("start build: %w", err)
	}
	resp, err := c.do(ctx, http.MethodPost, "/v1/builds", bytes.NewReader(body), http.Header{"Content-Type": {"application/json"}})
	if err != nil {
		return nil, fmt.Errorf("start build: %w", err)
	}
	defer resp.Body.Close()
	var a struct {
		Builds []dispatch.Decision `json:"builds"`
	}
	if err := json.NewDecoder(resp.Body).Decode(&a); err != nil {
		return nil, fmt.Errorf("start build: read answer of kiln: %w", err)
	}
	return a.Builds, nil
}
