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
