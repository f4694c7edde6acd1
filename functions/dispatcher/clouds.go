package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/url"
	"path/filepath"
	"strings"

	"github.com/cloudevents/sdk-go/v2/event"

	"github.com/kilnhook/kiln/functions/dispatch"
	"github.com/kilnhook/kiln/functions/record"
	"github.com/kilnhook/kiln/infra/bus"
	buspubsub "github.com/kilnhook/kiln/infra/bus/pubsub"
	"github.com/kilnhook/kiln/infra/ledger"
	"github.com/kilnhook/kiln/infra/ledger/gcs"
	"github.com/kilnhook/kiln/infra/ledger/object"
	"github.com/kilnhook/kiln/infra/ledger/s3"
	"github.com/kilnhook/kiln/infra/oidc"
	pullpubsub "github.com/kilnhook/kiln/infra/pull/pubsub"
	"github.com/kilnhook/kiln/infra/pull/sqs"
)

// The ways events go out, as --bus names them.
const (
	busSpool  = "spool"
	busSink   = "sink"
	busPubSub = "pubsub"
)

// clouds is what of the configuration is about services of a cloud.
type clouds struct {
	bus            string     // one of the constants
	project, topic string     // of busPubSub
	cdevents       bool       // mirror build events
	pulls          []*url.URL // pubsub://PROJECT/SUBSCRIPTION or https://QUEUE
	oidc           oidc.Config

	storageHost, pubsubHost string // servers that stand for Google's
	s3Endpoint              string
	s3PathStyle             bool
}

// apply checks the flags that are about clouds.
func (f cloudFlags) apply(p process, cfg *config) error {
	c := &cfg.clouds
	c.cdevents = f.cdevents
	c.storageHost, c.pubsubHost = p.getenv("STORAGE_EMULATOR_HOST"), p.getenv("PUBSUB_EMULATOR_HOST")
	if c.storageHost != "" && !strings.Contains(c.storageHost, "://") {
		c.storageHost = "http://" + c.storageHost
	}
	c.s3Endpoint, c.s3PathStyle = p.getenv("S3_ENDPOINT"), p.getenv("S3_FORCE_PATH_STYLE") == "true"
	if err := f.applyBus(c); err != nil {
		return err
	}
	if c.bus == busSink && cfg.sink == nil {
		return errors.New("--bus=sink posts to a sink: name it with --sink or K_SINK")
	}
	if c.bus == busPubSub && cfg.sink != nil {
		return errors.New("with --bus=pubsub://… nothing is posted to a sink: subscribe it to the topic, or leave --sink and K_SINK out")
	}
	pulls := f.pulls
	if len(pulls) == 0 {
		pulls = strings.Fields(p.getenv("KILN_PULL"))
	}
	for _, text := range pulls {
		u, err := url.Parse(text)
		if err != nil || !(u.Scheme == "pubsub" && u.Host != "" && len(u.Path) > 1) && (u.Scheme != "https" && u.Scheme != "http" || len(u.Path) < 2) {
			return fmt.Errorf("--pull %s is neither pubsub://PROJECT/SUBSCRIPTION nor the https:// URL of a queue of SQS", text)
		}
		c.pulls = append(c.pulls, u)
	}
	c.oidc = oidc.Config{Audience: f.oidcAudience, Issuer: f.oidcIssuer, Keys: f.oidcKeys, Now: p.now, Emails: f.oidcEmails}
	if len(c.oidc.Emails) == 0 {
		c.oidc.Emails = strings.Fields(p.getenv("KILN_OIDC_EMAIL"))
	}
	if (c.oidc.Audience == "") != (len(c.oidc.Emails) == 0) {
		return errors.New("--oidc-audience and --oidc-email go together")
	}
	return nil
}

// applyBus reads --bus.
func (f cloudFlags) applyBus(c *clouds) error {
	switch f.bus {
	case busSpool, busSink:
		c.bus = f.bus
		return nil
	}
	u, err := url.Parse(f.bus)
	if err != nil || u.Scheme != busPubSub || u.Host == "" || len(u.Path) < 2 || strings.Contains(u.Path[1:], "/") {
		return fmt.Errorf("--bus %s is none of spool, sink and pubsub://PROJECT/TOPIC", f.bus)
	}
	c.bus, c.project, c.topic = busPubSub, u.Host, u.Path[1:]
	return nil
}

// store is a ledger that is open.
type store interface {
	dispatch.Ledger
	io.Closer
}

// bucketStore is a ledger that there is nothing to close of.
type bucketStore struct{ *object.Store }

// Close implements io.Closer.
func (bucketStore) Close() error { return nil }

// openLedger opens the ledger that the configuration names, and returns with it
// the URL below which others find what is in it.
func openLedger(ctx context.Context, cfg config) (store, string, error) {
	u, err := url.Parse(cfg.ledger)
	if err != nil || u.Scheme == "" {
		dir, err := filepath.Abs(cfg.ledger)
		if err != nil {
			return nil, "", fmt.Errorf("find the ledger: %w", err)
		}
		l, err := ledger.OpenDir(dir)
		return l, "file://" + dir, err
	}
	if u.Host == "" || u.RawQuery != "" || u.Fragment != "" || u.User != nil {
		return nil, "", fmt.Errorf("--ledger %s: want a directory, gs://BUCKET/PREFIX or s3://BUCKET/PREFIX", cfg.ledger)
	}
	at, opts := strings.TrimSuffix(cfg.ledger, "/"), object.Options{Prefix: u.Path}
	switch u.Scheme {
	case "gs":
		l, err := gcs.Open(ctx, gcs.Options{Bucket: u.Host, Options: opts, Endpoint: cfg.clouds.storageHost})
		return l, at, err
	case "s3":
		l, err := s3.Open(ctx, s3.Options{Bucket: u.Host, Options: opts, Endpoint: cfg.clouds.s3Endpoint, PathStyle: cfg.clouds.s3PathStyle})
		if err != nil {
			return nil, "", err
		}
		return bucketStore{l}, at, nil
	}
	return nil, "", fmt.Errorf("--ledger %s: want a directory, gs://BUCKET/PREFIX or s3://BUCKET/PREFIX", cfg.ledger)
}

// openBus opens the way out that the configuration names. Reports and traces are
// made of the spool: where one is wanted there is one, whatever the way out.
func (s *service) openBus(ctx context.Context) error {
	opts := bus.WebhookOptions{Now: s.cfg.now, Log: s.cfg.log}
	var err error
	switch s.cfg.clouds.bus {
	case busPubSub:
		s.topic, err = buspubsub.Open(ctx, buspubsub.Options{
			Project: s.cfg.clouds.project, Topic: s.cfg.clouds.topic, Address: s.cfg.clouds.pubsubHost, Keep: s.keepData,
		})
		if err != nil {
			return err
		}
		s.out = s.topic.Publish
	case busSink:
		sink, err := bus.NewSink(*s.cfg.sink, opts, s.keepRefused)
		if err != nil {
			return err
		}
		s.out = sink.Publish
	}
	if s.out != nil && !s.cfg.reports.Wanted() && !s.cfg.traces {
		return nil
	}
	if s.bus, err = bus.Open(filepath.Join(s.cfg.data, "bus"), bus.Options{Log: s.cfg.log}); err != nil {
		return err
	}
	if s.out != nil {
		return nil
	}
	if s.cfg.sink != nil {
		opts.Subscribers = []bus.Subscriber{*s.cfg.sink}
	}
	s.webhooks, err = bus.NewWebhooks(s.bus, opts)
	return err
}

// send puts an event in the spool, if there is one, and then where else it goes.
// It may be sent again if that fails, and is then not stored again.
func (s *service) send(ctx context.Context, e event.Event) error {
	var place uint64
	if s.bus != nil {
		var err error
		if place, err = s.bus.Publish(ctx, e); err != nil {
			return err
		}
	}
	if s.out != nil {
		if err := s.out(ctx, e); err != nil {
			return err
		}
	}
	s.metrics.Event(e, place)
	return nil
}

// keepData keeps the data of an event that is too large for a message.
func (s *service) keepData(ctx context.Context, e event.Event) (string, error) {
	key := record.DataKey(e.Data())
	if _, err := s.ledger.Create(ctx, key, e.Data()); err != nil && !errors.Is(err, fs.ErrExist) {
		return "", err
	}
	return s.ledgerURL + "/" + key, nil
}

// keepRefused keeps an event that the sink does not want.
func (s *service) keepRefused(ctx context.Context, e event.Event, status int, answer string) error {
	data, err := record.Encode(record.Refused{At: s.cfg.now().UTC(), Status: status, Answer: answer, Event: e})
	if err != nil {
		return err
	}
	_, err = s.ledger.Create(ctx, record.RefusedKey(e), data)
	if errors.Is(err, fs.ErrExist) {
		return nil
	}
	return err
}

// puller fetches messages until the context ends.
type puller func(ctx context.Context) error

// openPulls opens the subscriptions and queues that messages are fetched from.
func (s *service) openPulls(ctx context.Context) error {
	for _, u := range s.cfg.clouds.pulls {
		if u.Scheme == "pubsub" {
			p, err := pullpubsub.Open(ctx, pullpubsub.Options{
				Project: u.Host, Subscription: strings.Trim(u.Path, "/"), Address: s.cfg.clouds.pubsubHost, Log: s.cfg.log,
				Deliver: s.deliver(dispatch.DoorPubSub),
			})
			if err != nil {
				return err
			}
			s.closers = append(s.closers, p)
			s.pulls = append(s.pulls, p.Run)
			continue
		}
		endpoint := ""
		if !strings.HasSuffix(u.Hostname(), ".amazonaws.com") && !strings.HasSuffix(u.Hostname(), ".amazonaws.com.cn") {
			endpoint = u.Scheme + "://" + u.Host
		}
		p, err := sqs.Open(ctx, sqs.Options{Queue: u.String(), Endpoint: endpoint, Log: s.cfg.log, Deliver: s.deliver(dispatch.DoorSQS)})
		if err != nil {
			return err
		}
		s.pulls = append(s.pulls, p.Run)
	}
	return nil
}
