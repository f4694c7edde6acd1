package source

import (
	"mime"
	"net/http"
	"strings"
)

// Names of values in the metadata of a change that a forge tells of.
const (
	MetaDefaultBranch = "defaultBranch" // short name of the repository's default branch
	MetaPusher        = "pusher"        // user name
)

// PushMetadata is the metadata of a push, without what is empty.
func PushMetadata(defaultBranch, pusher string) map[string]string {
	m := map[string]string{}
	for name, value := range map[string]string{MetaDefaultBranch: defaultBranch, MetaPusher: pusher} {
		if value != "" {
			m[name] = value
		}
	}
	return m
}

// Limits on the files that are taken from a push: beyond them they count as
// not known, so that a change stays small.
const (
	maxFiles     = 500
	maxFileBytes = 16 << 10
)

// Commit is what a push says about one of its commits.
type Commit struct {
	Added    []string `json:"added"`
	Modified []string `json:"modified"`
	Removed  []string `json:"removed"`
}

// PushFiles are the files that the commits of a push touch, each once, or nil
// if it does not have all of them: forges leave commits out of long pushes,
// which complete tells, and a commit without a file says nothing (a merge, or
// a list that was cut). It is of use only where the forge says that history was
// not rewritten: what a forced push takes away is in no commit. GitLab and Gitea
// do not say it.
func PushFiles(commits []Commit, complete bool) []string {
	if !complete || len(commits) == 0 {
		return nil
	}
	var files []string
	seen, size := map[string]bool{}, 0
	for _, c := range commits {
		if len(c.Added)+len(c.Modified)+len(c.Removed) == 0 {
			return nil
		}
		for _, list := range [][]string{c.Added, c.Modified, c.Removed} {
			for _, f := range list {
				if seen[f] {
					continue
				}
				if size += len(f); size > maxFileBytes || len(files) == maxFiles {
					return nil
				}
				seen[f] = true
				files = append(files, f)
			}
		}
	}
	return files
}

// ZeroID is the object id that stands for none beside another id: zeros, as
// many as the other has digits and never fewer than SHA-1's.
func ZeroID(beside string) string { return strings.Repeat("0", max(len(beside), 40)) }

// RequireJSON reports a *MalformedError unless the body is said to be
// application/json. A forge's webhook may be configured to send a form.
func RequireJSON(what string, h http.Header) error {
	mediaType, _, err := mime.ParseMediaType(h.Get("Content-Type"))
	if err != nil || mediaType != "application/json" {
		return Malformed(what, "content type is not application/json: set it in the settings of the webhook")
	}
	return nil
}
