package dispatch

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"net/http"
	"slices"
	"strings"

	"github.com/kilnhook/kiln/events"
	"github.com/kilnhook/kiln/events/source"
	"github.com/kilnhook/kiln/events/source/azure"
	"github.com/kilnhook/kiln/events/source/bitbucket"
	"github.com/kilnhook/kiln/events/source/cdevents"
	"github.com/kilnhook/kiln/events/source/gcs"
	"github.com/kilnhook/kiln/events/source/git"
	"github.com/kilnhook/kiln/events/source/gitea"
	"github.com/kilnhook/kiln/events/source/github"
	"github.com/kilnhook/kiln/events/source/gitlab"
	"github.com/kilnhook/kiln/events/source/knative"
	"github.com/kilnhook/kiln/events/source/pubsub"
	"github.com/kilnhook/kiln/events/source/put"
	"github.com/kilnhook/kiln/events/source/registry"
	"github.com/kilnhook/kiln/events/source/s3"
)

// Paths of the doors.
const (
	DoorGitHub    = "/hooks/github"
	DoorGitLab    = "/hooks/gitlab"
	DoorGitea     = "/hooks/gitea"
	DoorBitbucket = "/hooks/bitbucket"
	DoorGit       = "/hooks/git"
	DoorS3        = "/hooks/s3"
	DoorRegistry  = "/hooks/registry"
	DoorEvents    = "/events/in"
)

// parser reads the changes in a request.
type parser func(h http.Header, body []byte) ([]events.Change, error)

// doors are the parsers of requests by the paths on which they come.
func (d *Dispatcher) doors() map[string]parser {
	return map[string]parser{
		DoorGitHub: func(h http.Header, body []byte) ([]events.Change, error) {
			return github.Parse(d.cfg.GitHubSecrets, h, body)
		},
		DoorGitLab: func(h http.Header, body []byte) ([]events.Change, error) {
			return gitlab.Parse(d.cfg.GitLabSecrets, d.cfg.Now(), h, body)
		},
		DoorGitea: func(h http.Header, body []byte) ([]events.Change, error) {
			return gitea.Parse(d.cfg.GiteaSecrets, h, body)
		},
		DoorBitbucket: func(h http.Header, body []byte) ([]events.Change, error) {
			return bitbucket.Parse(d.cfg.Bitbucket, h, body)
		},
		DoorGit:      git.Parse,
		DoorS3:       s3.Parse,
		DoorRegistry: registry.Parse,
		DoorEvents:   parseEvent,
	}
}

// Doors lists the paths on which changes come.
func Doors() []string {
	var paths []string
	for path := range (&Dispatcher{}).doors() {
		paths = append(paths, path)
	}
	slices.Sort(paths)
	return paths
}

// guardedDoors are the doors whose senders do not sign: they are let in by a
// token or an identity.
func guardedDoors() []string { return []string{DoorGit, DoorS3, DoorRegistry, DoorEvents} }

// parseEvent reads an event, in a message of Pub/Sub or alone.
func parseEvent(h http.Header, body []byte) ([]events.Change, error) {
	if !events.IsCloudEvent(h) && registry.IsArtifactRegistry(body) {
		return registry.ParseArtifactRegistry(h, body)
	}
	return pubsub.Parse(parseByType, h, body)
}

// parseByType reads an event by its type.
func parseByType(h http.Header, body []byte) ([]events.Change, error) {
	if !events.IsCloudEvent(h) {
		return gcs.Parse(h, body)
	}
	e, err := events.DecodeHTTP(h, body)
	if err != nil {
		return nil, source.Malformed("CloudEvent", "%w", err)
	}
	switch typ := e.Type(); {
	case typ == events.TypeSourceChanged:
		c, err := source.ChangeOf(e)
		if err != nil {
			return nil, err
		}
		switch c.Kind {
		case events.KindGit:
			return git.Parse(h, body)
		case events.KindImage:
			return []events.Change{c}, nil
		}
		return put.Parse(h, body)
	case strings.HasPrefix(typ, "google.cloud."):
		return gcs.Parse(h, body)
	case knative.Knows(typ):
		return knative.Parse(h, body)
	case strings.HasPrefix(typ, azure.TypePrefix):
		return azure.Parse(h, body)
	case strings.HasPrefix(typ, cdevents.TypePrefix):
		return cdevents.Parse(h, body)
	default:
		return nil, source.Ignored("nothing is built for events of type %s", typ)
	}
}

// Trusted reads the changes in a request whose signature or token somebody
// checked before, or that nobody acts on: what it reads is explained, or was
// kept as a dead letter after it was verified. door is one of Doors. The errors
// are those of package source.
func Trusted(door string, bitbucketServer string, h http.Header, body []byte) ([]events.Change, error) {
	const key = "trusted"
	d := &Dispatcher{cfg: Config{
		GitHubSecrets: [][]byte{[]byte(key)}, GiteaSecrets: [][]byte{[]byte(key)},
		Bitbucket: bitbucket.Config{Secrets: [][]byte{[]byte(key)}, Server: bitbucketServer},
	}}
	switch door {
	case DoorPubSub:
		door = DoorEvents
	case DoorSQS:
		door = DoorS3
	}
	parse, ok := d.doors()[door]
	if !ok {
		return nil, source.Malformed("request", "there is no door %s; there are %s", door, strings.Join(Doors(), ", "))
	}
	if door == DoorGitLab {
		return gitlab.ParsePush(h.Get("X-Gitlab-Event-Uuid"), body)
	}
	mac := hmac.New(sha256.New, []byte(key))
	mac.Write(body)
	sum := hex.EncodeToString(mac.Sum(nil))
	h = h.Clone()
	h.Set("X-Hub-Signature-256", "sha256="+sum)
	h.Set("X-Hub-Signature", "sha256="+sum)
	h.Set("X-Gitea-Signature", sum)
	if h.Get("X-Forgejo-Event") != "" {
		h.Set("X-Forgejo-Signature", sum)
	}
	return parse(h, body)
}

// DoorOf guesses through which door a request is meant to come, by its headers.
func DoorOf(h http.Header) string {
	for _, known := range []struct{ header, door string }{
		{"X-Gitea-Event", DoorGitea}, {"X-Forgejo-Event", DoorGitea}, {"X-Github-Event", DoorGitHub},
		{"X-Gitlab-Event", DoorGitLab}, {"X-Event-Key", DoorBitbucket},
		{git.HeaderRepository, DoorGit}, {"X-Amz-Sns-Message-Type", DoorS3}, {"X-Minio-Deployment-Id", DoorS3},
	} {
		if h.Get(known.header) != "" {
			return known.door
		}
	}
	if strings.HasPrefix(h.Get("Content-Type"), "application/vnd.docker.distribution.events") {
		return DoorRegistry
	}
	return DoorEvents
}
