package gcf

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/cloudevents/sdk-go/v2/event"
	"google.golang.org/api/idtoken"

	"github.com/kilnhook/kiln/events"
	"github.com/kilnhook/kiln/events/source/bitbucket"
	"github.com/kilnhook/kiln/events/source/gitlab"
	"github.com/kilnhook/kiln/infra/bus"
	"github.com/kilnhook/kiln/infra/bus/pubsub"
)

// postTime is how long an address may take to answer.
const postTime = 10 * time.Second

// clock tells the time.
type clock func() time.Time

// New returns the functions as variables of the environment configure them:
//
//	KILN_CHANGES           where changes go: pubsub://PROJECT/TOPIC, or the URL of a
//	                       dispatcher's door /events/in; K_SINK if it is not set
//	KILN_CHANGES_AUDIENCE  audience of an OIDC token that the dispatcher wants
//	KILN_TOKEN             or its bearer token
//	KILN_INSTALL           name of the installation, in the source of events
//	KILN_GITHUB_SECRET, KILN_GITLAB_SECRET, KILN_GITEA_SECRET, KILN_BITBUCKET_SECRET
//	                       secrets of webhooks, several in lines while they change
//	KILN_BITBUCKET_URL     address of a Bitbucket Data Center
//	KILN_NOTIFY_URL        whom BuildFinished posts to
//	KILN_NOTIFY_SECRET     signs what it posts
//	PUBSUB_EMULATOR_HOST   a server that stands for Pub/Sub
//
// What a function lacks it says when it is called. ctx must live as long as they
// are used.
func New(ctx context.Context, getenv func(string) string, now func() time.Time, log *slog.Logger) (*Functions, error) {
	f := &Functions{
		install: getenv("KILN_INSTALL"), now: now, log: log,
		bitbucket:      bitbucket.Config{Server: getenv("KILN_BITBUCKET_URL"), Secrets: secrets(getenv("KILN_BITBUCKET_SECRET"))},
		githubSecrets:  secrets(getenv("KILN_GITHUB_SECRET")),
		giteaSecrets:   secrets(getenv("KILN_GITEA_SECRET")),
		changesMissing: errors.New("there is nowhere to pass changes on to: set KILN_CHANGES to pubsub://PROJECT/TOPIC or to the URL of a dispatcher's /events/in"),
		notifyAbsent:   errors.New("there is nobody to notify: set KILN_NOTIFY_URL"),
	}
	if f.install == "" {
		f.install = "default"
	}
	var err error
	if f.gitlabSecrets, err = gitlab.ParseSecrets(lines(getenv("KILN_GITLAB_SECRET"))); err != nil {
		return nil, fmt.Errorf("secrets of GitLab: %w", err)
	}
	if f.changes, err = f.openChanges(ctx, getenv); err != nil {
		return nil, fmt.Errorf("KILN_CHANGES: %w", err)
	}
	if f.notify, err = f.openNotify(getenv); err != nil {
		return nil, fmt.Errorf("KILN_NOTIFY_URL: %w", err)
	}
	return f, nil
}

// openChanges opens where changes go.
func (f *Functions) openChanges(ctx context.Context, getenv func(string) string) (Publisher, error) {
	to := getenv("KILN_CHANGES")
	if to == "" {
		to = getenv("K_SINK")
	}
	if to == "" {
		return nil, nil
	}
	u, err := url.Parse(to)
	if err != nil {
		return nil, errors.New("it is not a URL")
	}
	if u.Scheme == "pubsub" {
		return pubsub.Open(ctx, pubsub.Options{
			Project: u.Host, Topic: strings.Trim(u.Path, "/"), Address: getenv("PUBSUB_EMULATOR_HOST"), Keep: tooLarge,
		})
	}
	client, err := f.client(ctx, getenv)
	if err != nil {
		return nil, err
	}
	extensions, err := bus.ParseOverrides(getenv("K_CE_OVERRIDES"))
	if err != nil {
		return nil, err
	}
	return bus.NewSink(bus.Subscriber{Name: "changes", URL: to, Extensions: extensions},
		bus.WebhookOptions{Now: f.now, Client: client, Log: f.log}, refused)
}

// openNotify opens who is told of the end of builds.
func (f *Functions) openNotify(getenv func(string) string) (Publisher, error) {
	to := getenv("KILN_NOTIFY_URL")
	if to == "" {
		return nil, nil
	}
	sub := bus.Subscriber{Name: "notify", URL: to}
	if text := strings.TrimSpace(getenv("KILN_NOTIFY_SECRET")); text != "" {
		var err error
		if sub.Secret, err = bus.ParseSecret(text); err != nil {
			return nil, err
		}
	}
	return bus.NewSink(sub, bus.WebhookOptions{Now: f.now, Log: f.log}, refused)
}

// client makes requests to the dispatcher, with what it knows us by.
func (f *Functions) client(ctx context.Context, getenv func(string) string) (*http.Client, error) {
	if audience := getenv("KILN_CHANGES_AUDIENCE"); audience != "" {
		client, err := idtoken.NewClient(ctx, audience)
		if err != nil {
			return nil, fmt.Errorf("get OIDC tokens for %s: %w", audience, err)
		}
		client.Timeout = postTime
		return client, nil
	}
	return &http.Client{
		Timeout: postTime, Transport: bearer(strings.TrimSpace(getenv("KILN_TOKEN"))),
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}, nil
}

// bearer sends a token with every request, unless it is empty.
type bearer string

// RoundTrip implements http.RoundTripper.
func (b bearer) RoundTrip(r *http.Request) (*http.Response, error) {
	if b != "" {
		r = r.Clone(r.Context())
		r.Header.Set("Authorization", "Bearer "+string(b))
	}
	return http.DefaultTransport.RoundTrip(r)
}

// refused makes an error of a refusal: whoever sent the event keeps it.
func refused(_ context.Context, _ event.Event, status int, answer string) error {
	return fmt.Errorf("refused with status %d: %s", status, events.CleanText(answer, events.MaxReason))
}

// tooLarge refuses what no change can be: they are small.
func tooLarge(context.Context, event.Event) (string, error) {
	return "", fmt.Errorf("a change is larger than %d bytes", pubsub.MaxMessage)
}

// secrets are the lines of a text as bytes.
func secrets(text string) [][]byte {
	var all [][]byte
	for _, line := range lines(text) {
		all = append(all, []byte(line))
	}
	return all
}

// lines are the lines of a text that have something in them.
func lines(text string) []string {
	var all []string
	for line := range strings.Lines(text) {
		if line = strings.TrimSpace(line); line != "" {
			all = append(all, line)
		}
	}
	return all
}
