// Package gcf is the Cloud Functions of Kiln: small ends of it that scale to
// nothing. They hold no state and decide nothing about builds.
//
//	BucketUpload   an object arrived: a CloudEvent of Eventarc, or a push of a
//	               bucket's notification
//	GitPush        webhooks of GitHub, GitLab, Gitea, Forgejo and Bitbucket
//	BuildFinished  a build ended: post it to an address, signed
//
// The first two read what came with the parsers of the dispatcher and pass it on
// as a source.changed event: to a topic, from which a dispatcher gets it, or
// straight to one. What came is answered with success only once it is there.
// Registers, triggers and launching stay with the dispatcher, so that they are in
// one place however a change arrives.
package gcf

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"

	"github.com/cloudevents/sdk-go/v2/event"

	"github.com/kilnhook/kiln/events"
	"github.com/kilnhook/kiln/events/source"
	"github.com/kilnhook/kiln/events/source/bitbucket"
	"github.com/kilnhook/kiln/events/source/gcs"
	"github.com/kilnhook/kiln/events/source/gitlab"
	"github.com/kilnhook/kiln/events/source/pubsub"
)

// Publisher passes an event on. A nil error says that it is durable there.
type Publisher interface {
	Publish(ctx context.Context, e event.Event) error
}

// Functions are the functions, ready to be called.
type Functions struct {
	install                      string
	changes                      Publisher // nil if there is nowhere to pass changes on to
	notify                       Publisher // nil if nobody is to be told
	githubSecrets, giteaSecrets  [][]byte
	gitlabSecrets                gitlab.Secrets
	bitbucket                    bitbucket.Config
	now                          clock
	log                          *slog.Logger
	changesMissing, notifyAbsent error // what to configure
}

// BucketUpload takes the event of an object: of Cloud Storage, through Eventarc,
// or of Pub/Sub, with the notification of a bucket in it. An error makes the
// sender repeat it, and put it with the dead letters in the end.
func (f *Functions) BucketUpload(ctx context.Context, e event.Event) error {
	h, body, err := events.EncodeHTTP(e)
	if err != nil {
		return err
	}
	changes, err := pubsub.Parse(gcs.Parse, h, body)
	if err == nil {
		trace, _ := e.Extensions()[events.ExtTraceParent].(string)
		err = f.pass(ctx, changes, trace)
	}
	var ignored *source.IgnoredError
	if errors.As(err, &ignored) {
		f.log.Info("event ignored", "event", e.ID(), "reason", ignored.Reason)
		return nil
	}
	if err != nil {
		f.log.Error("event will come again", "event", e.ID(), "err", err)
	}
	return err
}

// pass sends changes on as events that go on with a trace, if there is one.
func (f *Functions) pass(ctx context.Context, changes []events.Change, trace string) error {
	if f.changes == nil {
		return f.changesMissing
	}
	for _, c := range changes {
		e, err := events.SourceChangedEvent(f.install, "", c)
		if err != nil {
			return err
		}
		if trace != "" && len(trace) <= events.MaxAttribute {
			e.SetExtension(events.ExtTraceParent, trace)
		}
		if err := f.changes.Publish(ctx, e); err != nil {
			return err
		}
		f.log.Info("change passed on", "location", c.Location, "name", c.Name, "delivery", c.Delivery, "event", e.ID())
	}
	return nil
}

// BuildFinished takes the event of a build that ended, as it is or in a message
// of Pub/Sub, and posts it to the address that is to be notified. Other events
// are passed over.
func (f *Functions) BuildFinished(ctx context.Context, e event.Event) error {
	if f.notify == nil {
		return f.notifyAbsent
	}
	inner, err := unwrap(e)
	if err != nil {
		f.log.Error("event cannot be read", "event", e.ID(), "err", err)
		return err
	}
	if inner.Type() != events.TypeBuildFinished {
		f.log.Info("event ignored", "event", inner.ID(), "type", inner.Type())
		return nil
	}
	if err := f.notify.Publish(ctx, inner); err != nil {
		f.log.Error("event will come again", "event", inner.ID(), "err", err)
		return fmt.Errorf("notify of %s: %w", inner.ID(), err)
	}
	f.log.Info("notified", "event", inner.ID(), "outcome", inner.Extensions()[events.ExtOutcome])
	return nil
}

// unwrap takes an event out of the message of Pub/Sub that it came in, if it did.
func unwrap(e event.Event) (event.Event, error) {
	if e.Type() != pubsub.TypeMessagePublished {
		return e, nil
	}
	h, body, err := events.EncodeHTTP(e)
	if err != nil {
		return event.Event{}, err
	}
	var inner event.Event
	_, err = pubsub.Parse(func(h http.Header, body []byte) (_ []events.Change, err error) {
		if !events.IsCloudEvent(h) {
			return nil, source.Malformed("message", "it is not a CloudEvent")
		}
		inner, err = events.DecodeHTTP(h, body)
		return nil, err
	}, h, body)
	return inner, err
}
