package report

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"
	"unicode/utf8"
)

// States of a commit, which each forge has its own words for.
const (
	statePending   = "pending"
	stateSuccess   = "success"
	stateFailure   = "failure"
	stateError     = "error"
	stateCancelled = "cancelled"
)

// status is what is told about a commit.
type status struct {
	State, Context, Description, URL, Commit, Ref string
}

// Kinds of forges.
const (
	KindGitHub              = "github"
	KindGitLab              = "gitlab"
	KindGitea               = "gitea" // and Forgejo
	KindBitbucket           = "bitbucket"
	KindBitbucketDataCenter = "bitbucket-datacenter"
)

// Forge is where statuses of commits go.
type Forge struct {
	Host  string // of its repositories' locations, "github.com"
	Kind  string // one of the constants
	API   string // address without a slash at the end
	Token string
}

// defaultAPI is where a forge of a kind has its API.
func defaultAPI(kind, host string) string {
	switch {
	case kind == KindGitHub && host == "github.com":
		return "https://api.github.com"
	case kind == KindGitHub:
		return "https://" + host + "/api/v3"
	case kind == KindGitLab:
		return "https://" + host + "/api/v4"
	case kind == KindGitea:
		return "https://" + host + "/api/v1"
	case kind == KindBitbucket:
		return "https://api.bitbucket.org/2.0"
	}
	return "https://" + host
}

// spacing is the pause between two requests to the forge. GitHub takes no more
// than 80 that write in a minute.
func (f Forge) spacing() time.Duration {
	if f.Kind == KindGitHub {
		return 750 * time.Millisecond
	}
	return 0
}

func (f Forge) host() string {
	if u, err := url.Parse(f.API); err == nil {
		return u.Host
	}
	return f.Host
}

// split is the host and the path of a repository's location.
func (f Forge) split(location string) (host, repo string, err error) {
	host, repo, ok := strings.Cut(location, "/")
	if !ok || f.Kind != KindGitLab && f.Kind != KindBitbucketDataCenter && strings.Count(repo, "/") != 1 {
		return "", "", fmt.Errorf("%s is not the location of a repository of a forge of kind %s", location, f.Kind)
	}
	return host, repo, nil
}

// Limits on what forges take, in characters.
const (
	maxDescription = 140 // GitHub
	maxKey         = 40  // Bitbucket
)

// request makes the request that tells a forge of a commit.
func (f Forge) request(ctx context.Context, repo string, s status) (*http.Request, error) {
	escaped := (&url.URL{Path: repo}).EscapedPath()
	description := clip(s.Description, maxDescription)
	switch f.Kind {
	case KindGitHub:
		return f.post(ctx, "/repos/"+escaped+"/statuses/"+s.Commit, map[string]string{
			"state": word(s.State, stateCancelled, stateError), "context": s.Context, "description": description, "target_url": s.URL,
		}, map[string]string{"Authorization": "Bearer " + f.Token, "Accept": "application/vnd.github+json", "X-GitHub-Api-Version": "2022-11-28"})
	case KindGitLab:
		short := strings.TrimPrefix(strings.TrimPrefix(s.Ref, "refs/heads/"), "refs/tags/")
		return f.post(ctx, "/projects/"+url.PathEscape(repo)+"/statuses/"+s.Commit, map[string]string{
			"state": word(s.State, statePending, "running", stateCancelled, "canceled", stateFailure, "failed", stateError, "failed"),
			"name":  s.Context, "description": description, "target_url": s.URL, "ref": short,
		}, map[string]string{"PRIVATE-TOKEN": f.Token})
	case KindGitea:
		return f.post(ctx, "/repos/"+escaped+"/statuses/"+s.Commit, map[string]string{
			"state": word(s.State, stateCancelled, "warning"), "context": s.Context, "description": description, "target_url": s.URL,
		}, map[string]string{"Authorization": "token " + f.Token})
	case KindBitbucket:
		return f.post(ctx, "/repositories/"+escaped+"/commit/"+s.Commit+"/statuses/build", map[string]string{
			"state": bitbucketWord(s.State), "key": key(s.Context), "name": s.Context, "description": description, "url": s.URL,
			"refname": strings.TrimPrefix(strings.TrimPrefix(s.Ref, "refs/heads/"), "refs/tags/"),
		}, map[string]string{"Authorization": "Bearer " + f.Token})
	case KindBitbucketDataCenter:
		return f.post(ctx, "/rest/build-status/1.0/commits/"+s.Commit, map[string]string{
			"state": word(bitbucketWord(s.State), "STOPPED", "FAILED"), "key": key(s.Context), "name": s.Context, "description": description, "url": s.URL,
		}, map[string]string{"Authorization": "Bearer " + f.Token})
	}
	return nil, fmt.Errorf("forge of unknown kind %q", f.Kind)
}

// word replaces a state by the forge's own word; pairs are ours and theirs.
func word(state string, pairs ...string) string {
	for i := 0; i+1 < len(pairs); i += 2 {
		if pairs[i] == state {
			return pairs[i+1]
		}
	}
	return state
}

func bitbucketWord(state string) string {
	return word(state, statePending, "INPROGRESS", stateSuccess, "SUCCESSFUL", stateFailure, "FAILED", stateError, "FAILED", stateCancelled, "STOPPED")
}

// key is the context, shortened so that different ones stay different.
func key(context string) string {
	if len(context) <= maxKey {
		return context
	}
	sum := sha256.Sum256([]byte(context))
	return context[:maxKey-9] + "-" + hex.EncodeToString(sum[:4])
}

// clip shortens text to a number of characters, in one line.
func clip(s string, limit int) string {
	s = strings.Join(strings.Fields(s), " ")
	if utf8.RuneCountInString(s) <= limit {
		return s
	}
	return string([]rune(s)[:limit-1]) + "…"
}

// post makes a request with JSON.
func (f Forge) post(ctx context.Context, path string, body map[string]string, header map[string]string) (*http.Request, error) {
	for name, value := range body {
		if value == "" {
			delete(body, name)
		}
	}
	data, err := json.Marshal(body)
	if err != nil {
		return nil, err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, f.API+path, bytes.NewReader(data))
	if err != nil {
		return nil, err
	}
	req.Header.Set("Content-Type", "application/json")
	for name, value := range header {
		req.Header.Set(name, value)
	}
	return req, nil
}
