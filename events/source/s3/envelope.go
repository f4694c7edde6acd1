package s3

import (
	"net/url"
	"strings"
	"time"

	"github.com/kilnhook/kiln/events"
	"github.com/kilnhook/kiln/events/source"
)

// envelope is what SNS puts around a message.
type envelope struct {
	Type         string `json:"Type"`
	Message      string `json:"Message"`
	TopicARN     string `json:"TopicArn"`
	SubscribeURL string `json:"SubscribeURL"`
}

// open returns the message in the envelope.
func (e envelope) open() (string, error) {
	switch e.Type {
	case "Notification":
		return e.Message, nil
	case "SubscriptionConfirmation":
		if !isSNS(e.SubscribeURL) {
			return "", source.Malformed(what, "SNS asks to confirm a subscription at an address that is not its own")
		}
		return "", &source.IgnoredError{
			Reason: events.CleanText("SNS asks to confirm the subscription of "+e.TopicARN, events.MaxReason),
			Notice: "to confirm the subscription, open " + events.CleanText(e.SubscribeURL, events.MaxMessage),
		}
	case "UnsubscribeConfirmation":
		return "", &source.IgnoredError{
			Reason: events.CleanText("the subscription of "+e.TopicARN+" was ended", events.MaxReason),
			Notice: "nothing more will come from this topic; subscribe again if that was not meant",
		}
	}
	return "", source.Malformed(what, "envelope of SNS has type %q", events.CleanText(e.Type, 40))
}

// isSNS reports whether an address is one of SNS, to which an operator may be
// sent.
func isSNS(address string) bool {
	u, err := url.Parse(address)
	if err != nil || u.Scheme != "https" || u.User != nil || u.Port() != "" {
		return false
	}
	region, ok := strings.CutPrefix(u.Hostname(), "sns.")
	if !ok {
		return false
	}
	for _, domain := range []string{".amazonaws.com", ".amazonaws.com.cn"} {
		if name, ok := strings.CutSuffix(region, domain); ok && name != "" && !strings.Contains(name, ".") {
			return true
		}
	}
	return false
}

// bridged is an event that S3 sends to EventBridge.
type bridged struct {
	DetailType string    `json:"detail-type"`
	Source     string    `json:"source"`
	ID         string    `json:"id"`
	Time       time.Time `json:"time"`
	Detail     struct {
		Bucket struct {
			Name string `json:"name"`
		} `json:"bucket"`
		Object struct {
			Key       string         `json:"key"` // not encoded
			Size      source.Decimal `json:"size"`
			ETag      string         `json:"etag"`
			VersionID string         `json:"version-id"`
			Sequencer string         `json:"sequencer"`
		} `json:"object"`
	} `json:"detail"`
}

// parse makes a change of the one object that an event is about.
func (b bridged) parse() ([]events.Change, error) {
	const what = "EventBridge event"
	if b.Source != "aws.s3" {
		return nil, source.Malformed(what, "source is %q, not aws.s3", events.CleanText(b.Source, 100))
	}
	if b.DetailType != "Object Created" {
		return nil, source.Ignored("event is %s", b.DetailType)
	}
	if b.Detail.Bucket.Name == "" {
		return nil, source.Malformed(what, "bucket is missing")
	}
	o := object{
		Key: b.Detail.Object.Key, Size: b.Detail.Object.Size, ETag: b.Detail.Object.ETag,
		VersionID: b.Detail.Object.VersionID, Sequencer: b.Detail.Object.Sequencer,
	}
	size, err := o.size()
	if err != nil {
		return nil, source.Malformed(what, "%w", err)
	}
	c := events.Change{
		Kind: events.KindObject, Location: "s3://" + b.Detail.Bucket.Name, Name: o.Key,
		Generation: o.generation(), Order: order(o.Sequencer), Size: size, Delivery: b.ID, Time: b.Time,
	}
	if err := c.Validate(); err != nil {
		return nil, source.Malformed(what, "%w", err)
	}
	if c.Size == 0 {
		return nil, source.Ignored("object %s/%s is empty", c.Location, c.Name)
	}
	return []events.Change{c}, nil
}
