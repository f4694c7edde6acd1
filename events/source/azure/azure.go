// Package azure reads what Azure Event Grid says about blobs, in the CloudEvents
// schema.
//
// Event Grid does not sign. Who may post is the business of a bearer token,
// which a subscription can be told to send, or of the platform in front.
package azure

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/cloudevents/sdk-go/v2/event"

	"github.com/kilnhook/kiln/events"
	"github.com/kilnhook/kiln/events/source"
)

const what = "Event Grid event"

// Types of event.
const (
	TypePrefix      = "Microsoft.Storage."
	TypeBlobCreated = TypePrefix + "BlobCreated"
)

// blob is the data of an event as far as it matters.
type blob struct {
	API           string         `json:"api"`
	ETag          string         `json:"eTag"`
	ContentType   string         `json:"contentType"`
	ContentLength source.Decimal `json:"contentLength"`
	URL           string         `json:"url"`
	Sequencer     string         `json:"sequencer"`
}

// Parse returns the one change of a request. Its location is the address of the
// container, so that location and name are the blob's own address. The error is
// a *source.IgnoredError for other events, an empty blob, and a blob that is
// not yet whole, and a *source.MalformedError for what is no such event.
func Parse(h http.Header, body []byte) ([]events.Change, error) {
	e, err := events.DecodeHTTP(h, body)
	if err != nil {
		return nil, source.Malformed(what, "%w", err)
	}
	if typ := e.Type(); typ != TypeBlobCreated {
		if strings.HasPrefix(typ, TypePrefix) {
			return nil, source.Ignored("event is %s, not %s", typ, TypeBlobCreated)
		}
		return nil, source.Malformed(what, "type is %s", events.CleanText(typ, 100))
	}
	var b blob
	if err := json.Unmarshal(e.Data(), &b); err != nil {
		return nil, source.Malformed(what, "%w", err)
	}
	if b.API == "" {
		return nil, source.Malformed(what, "data does not say which api wrote the blob")
	}
	if !b.whole() {
		return nil, source.Ignored("blob was touched by %s, after which it need not be whole", b.API)
	}
	c, err := b.change(e)
	if err != nil {
		return nil, source.Malformed(what, "%w", err)
	}
	if c.Size == 0 {
		return nil, source.Ignored("blob %s/%s is empty", c.Location, c.Name)
	}
	return []events.Change{c}, nil
}

// whole reports whether the operation leaves a finished blob. Where there is a
// hierarchical namespace, a file is created empty, grows, and is whole after
// FlushWithClose only; over SFTP after SftpCommit.
func (b blob) whole() bool {
	return slices.Contains([]string{"PutBlob", "PutBlockList", "CopyBlob", "FlushWithClose", "SftpCommit"}, b.API)
}

// change makes a change of the blob that an event is about.
func (b blob) change(e event.Event) (events.Change, error) {
	container, name, err := splitSubject(e.Subject())
	if err != nil {
		return events.Change{}, err
	}
	base, err := b.account()
	if err != nil {
		return events.Change{}, err
	}
	var size int64
	if b.ContentLength != "" {
		if size, err = strconv.ParseInt(string(b.ContentLength), 10, 64); err != nil {
			return events.Change{}, fmt.Errorf("contentLength %s is too large", b.ContentLength)
		}
	}
	c := events.Change{
		Kind: events.KindObject, Location: base + "/" + container, Name: name,
		Generation: strings.Trim(b.ETag, `"`), Order: b.order(), Size: size,
		ContentType: b.ContentType, Delivery: e.ID(), Time: e.Time(),
	}
	return c, c.Validate()
}

// order is the sequencer if it is one.
func (b blob) order() string {
	if strings.Trim(strings.ToLower(b.Sequencer), "0123456789abcdef") != "" {
		return ""
	}
	return b.Sequencer
}

// splitSubject takes container and blob from
// "/blobServices/default/containers/<container>/blobs/<name>".
func splitSubject(subject string) (container, name string, err error) {
	rest, ok := strings.CutPrefix(subject, "/blobServices/default/containers/")
	container, name, found := strings.Cut(rest, "/blobs/")
	if !ok || !found || container == "" || strings.Contains(container, "/") || name == "" {
		return "", "", fmt.Errorf("subject %q names no blob of a container", events.CleanText(subject, events.MaxReason))
	}
	return container, name, nil
}

// account is the address of the storage account's blobs. A blob written through
// the file system endpoint is the same blob.
func (b blob) account() (string, error) {
	u, err := url.Parse(b.URL)
	if err != nil || u.Scheme != "https" && u.Scheme != "http" || u.Host == "" || u.User != nil {
		return "", fmt.Errorf("url %q is not the address of a blob", events.CleanText(b.URL, events.MaxReason))
	}
	return u.Scheme + "://" + strings.Replace(strings.ToLower(u.Host), ".dfs.", ".blob.", 1), nil
}
