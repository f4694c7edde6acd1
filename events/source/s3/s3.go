// Package s3 reads the notifications of S3 and of stores that speak like it,
// MinIO among them: as they are, in the envelope of SNS, and as EventBridge
// writes them.
//
// A notification is not signed. MinIO sends a bearer token, which
// source.VerifyBearer checks.
package s3

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/kilnhook/kiln/events"
	"github.com/kilnhook/kiln/events/source"
)

const what = "S3 notification"

// notification is the body of a request. Event stands alone in the message
// that S3 sends when notifications are configured.
type notification struct {
	Event   string   `json:"Event"`
	Records []record `json:"Records"`

	envelope // of SNS
	bridged  // by EventBridge
}

type record struct {
	EventName        string            `json:"eventName"`
	EventTime        time.Time         `json:"eventTime"`
	ResponseElements map[string]string `json:"responseElements"`
	S3               struct {
		Bucket struct {
			Name string `json:"name"`
		} `json:"bucket"`
		Object object `json:"object"`
	} `json:"s3"`
}

type object struct {
	Key          string            `json:"key"` // form-url-encoded
	Size         source.Decimal    `json:"size"`
	ETag         string            `json:"eTag"`
	VersionID    string            `json:"versionId"`
	Sequencer    string            `json:"sequencer"`
	ContentType  string            `json:"contentType"`  // MinIO
	UserMetadata map[string]string `json:"userMetadata"` // MinIO
}

// Parse returns the objects that a notification says were created, in its
// order. The error is a *source.IgnoredError if there is none that matters (a
// test message, a deletion, empty objects), and a *source.MalformedError for
// what is no notification or names an object wrongly.
//
// A subscription that SNS asks to confirm is such an error too, whose Notice
// says where that is done: confirming it is up to an operator.
func Parse(_ http.Header, body []byte) ([]events.Change, error) {
	var n notification
	if err := json.Unmarshal(body, &n); err != nil {
		return nil, source.Malformed(what, "%w", err)
	}
	if n.envelope.Type != "" {
		text, err := n.open()
		if err != nil {
			return nil, err
		}
		n = notification{}
		if err := json.Unmarshal([]byte(text), &n); err != nil {
			return nil, source.Malformed(what, "message of SNS: %w", err)
		}
	}
	if n.bridged.DetailType != "" {
		return n.bridged.parse()
	}
	return n.parse()
}

// parse reads the records.
func (n notification) parse() ([]events.Change, error) {
	if n.Event == "s3:TestEvent" {
		return nil, source.Ignored("S3 tests whether it can reach us")
	}
	if len(n.Records) == 0 {
		return nil, source.Malformed(what, "there are no Records in it")
	}
	var changes []events.Change
	passed := ""
	for i, r := range n.Records {
		if !created(r.EventName) {
			passed = "event is " + r.EventName
			continue
		}
		c, err := r.change()
		if err != nil {
			return nil, source.Malformed(what, "record %d: %w", i, err)
		}
		if c.Size == 0 {
			passed = "object " + c.Location + "/" + c.Name + " is empty"
			continue
		}
		changes = append(changes, c)
	}
	if len(changes) == 0 {
		return nil, source.Ignored("%s", passed)
	}
	return changes, nil
}

// created reports whether an event name says that an object was created: AWS
// writes "ObjectCreated:Put", MinIO puts "s3:" before it.
func created(name string) bool {
	return strings.HasPrefix(strings.TrimPrefix(name, "s3:"), "ObjectCreated:")
}

// change makes a change of a record.
func (r record) change() (events.Change, error) {
	o := r.S3.Object
	key, err := url.QueryUnescape(o.Key)
	if err != nil {
		return events.Change{}, err
	}
	if r.S3.Bucket.Name == "" {
		return events.Change{}, errors.New("bucket is missing")
	}
	size, err := o.size()
	if err != nil {
		return events.Change{}, err
	}
	c := events.Change{
		Kind: events.KindObject, Location: "s3://" + r.S3.Bucket.Name, Name: key,
		Generation: o.generation(), Order: order(o.Sequencer), Size: size, Metadata: metadata(o.UserMetadata),
		ContentType: o.ContentType, Delivery: delivery(r.ResponseElements), Time: r.EventTime,
	}
	return c, c.Validate()
}

// generation pins the object's content: its version, or without versioning
// what it hashes to and when it was written.
func (o object) generation() string {
	if o.VersionID != "" && o.VersionID != "null" {
		return o.VersionID
	}
	etag := strings.Trim(o.ETag, `"`)
	if o.Sequencer == "" {
		return etag
	}
	return etag + "-" + o.Sequencer
}

// order is a sequencer if it is one; what else a store writes there orders nothing.
func order(sequencer string) string {
	if strings.Trim(strings.ToLower(sequencer), "0123456789abcdef") != "" {
		return ""
	}
	return sequencer
}

// metadata takes from MinIO's list what users set, under their names.
func metadata(all map[string]string) map[string]string {
	var own map[string]string
	for name, value := range all {
		if name, ok := strings.CutPrefix(strings.ToLower(name), "x-amz-meta-"); ok {
			if own == nil {
				own = map[string]string{}
			}
			own[name] = value
		}
	}
	return own
}

// delivery is the id that the CloudEvents adapter for S3 gives an event.
func delivery(elements map[string]string) string {
	id, id2 := elements["x-amz-request-id"], elements["x-amz-id-2"]
	if id != "" && id2 != "" {
		return id + "." + id2
	}
	return id + id2
}

// size is the object's size in bytes.
func (o object) size() (int64, error) {
	if o.Size == "" {
		return 0, nil
	}
	n, err := strconv.ParseInt(string(o.Size), 10, 64)
	if err != nil {
		return 0, fmt.Errorf("size %s is too large", o.Size)
	}
	return n, nil
}
