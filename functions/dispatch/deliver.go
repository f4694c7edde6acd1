package dispatch

import (
	"context"
	"errors"
	"net/http"

	"github.com/kilnhook/kiln/events"
	"github.com/kilnhook/kiln/events/source"
	"github.com/kilnhook/kiln/events/source/s3"
)

// Doors of messages that are fetched, and so come from whom they should.
const (
	DoorPubSub = "pull:pubsub" // messages of a subscription, in the envelope of a push
	DoorSQS    = "pull:sqs"    // messages of a queue: notifications of S3, of SNS and EventBridge
)

// Deliver handles a message that was fetched. When it returns nil the message
// may be acknowledged: every build is durably accepted, there is nothing to
// build, or it cannot be understood and was put aside. Otherwise the message must
// come again.
func (d *Dispatcher) Deliver(ctx context.Context, door string, h http.Header, body []byte) error {
	parse := parseEvent
	if door == DoorSQS {
		parse = s3.Parse
	}
	changes, err := parse(h, body)
	var ignored *source.IgnoredError
	switch {
	case errors.As(err, &ignored):
		d.cfg.Log.Info("message ignored", "door", door, "reason", ignored.Reason)
		return nil
	case err != nil:
		return d.putAside(ctx, door, h, body, err)
	}
	trace := traceOf(h, body)
	for _, c := range changes {
		_, err := d.handle(ctx, c, delivery{traceParent: trace})
		var malformed *source.MalformedError
		if errors.As(err, &malformed) {
			err = d.putAside(ctx, door, h, body, err)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// putAside keeps a message that no repetition can mend.
func (d *Dispatcher) putAside(ctx context.Context, door string, h http.Header, body []byte, why error) error {
	d.cfg.Log.Warn("message cannot be understood", "door", door, "err", why)
	return d.keepPoison(ctx, door, h, body, events.CleanText(why.Error(), events.MaxMessage))
}
