package events

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"mime"
	"strings"
	"time"

	"github.com/cloudevents/sdk-go/v2/event"
)

// The media types of a CloudEvent in structured mode, and of several.
const (
	structuredType = "application/cloudevents+json"
	batchType      = "application/cloudevents-batch+json"
)

// EncodeHTTP writes an event in binary mode: attributes as headers with names
// in canonical form ("Ce-Id"), the data as the body. Attribute values are
// percent-encoded as the HTTP protocol binding of CloudEvents 1.0.2 says in
// section 3.1.3.2, so none can break out of its header.
func EncodeHTTP(e event.Event) (header map[string][]string, body []byte, err error) {
	if err := e.Validate(); err != nil {
		return nil, nil, fmt.Errorf("encode event %s: %w", e.ID(), err)
	}
	header = map[string][]string{}
	for name, value := range Attributes(e) {
		header["Ce-"+strings.ToUpper(name[:1])+name[1:]] = []string{percentEncode(value)}
	}
	if ct := e.DataContentType(); ct != "" {
		header["Content-Type"] = []string{ct}
	}
	return header, e.Data(), nil
}

// Attributes returns the attributes of an event that have a value, extensions
// among them, as text under their names. The content type of the data is not one
// of them: every protocol has a place of its own for it.
func Attributes(e event.Event) map[string]string {
	all := map[string]string{
		"specversion": e.SpecVersion(), "id": e.ID(), "source": e.Source(), "type": e.Type(),
		"subject": e.Subject(), "dataschema": e.DataSchema(),
	}
	if !e.Time().IsZero() {
		all["time"] = e.Time().Format(time.RFC3339Nano)
	}
	for name, value := range e.Extensions() {
		all[name] = attributeText(value)
	}
	maps.DeleteFunc(all, func(_, value string) bool { return value == "" })
	return all
}

// attributeText is the text form of an attribute's value.
func attributeText(value any) string {
	switch v := value.(type) {
	case string:
		return v
	case fmt.Stringer:
		return v.String()
	}
	return fmt.Sprint(value)
}

// IsCloudEvent reports whether a request with this header carries a CloudEvent
// in binary or structured mode.
func IsCloudEvent(header map[string][]string) bool {
	return mediaType(header) == structuredType || headerValue(header, "ce-specversion") != ""
}

// DecodeHTTP reads an event in binary or structured mode. The names in header
// may be of any case. The error says what is wrong with the request.
func DecodeHTTP(header map[string][]string, body []byte) (event.Event, error) {
	switch mediaType(header) {
	case structuredType:
		return decodeStructured(body)
	case batchType:
		return event.Event{}, errors.New("a batch of CloudEvents is not accepted; send them one by one")
	}
	e, err := decodeBinary(header)
	if err != nil {
		return event.Event{}, err
	}
	if len(body) > 0 {
		e.DataEncoded = body
	}
	return checked(e)
}

// decodeStructured reads an event that is all JSON.
func decodeStructured(body []byte) (e event.Event, err error) {
	if !json.Valid(body) {
		return event.Event{}, errors.New("body is not JSON")
	}
	if err := json.Unmarshal(body, &e); err != nil {
		return event.Event{}, fmt.Errorf("read structured CloudEvent: %w", err)
	}
	return checked(e)
}

// decodeBinary reads the attributes from headers.
func decodeBinary(header map[string][]string) (event.Event, error) {
	if v := headerValue(header, "ce-specversion"); v != event.CloudEventsVersionV1 {
		return event.Event{}, fmt.Errorf("ce-specversion is %q, not %s", v, event.CloudEventsVersionV1)
	}
	e := event.New(event.CloudEventsVersionV1)
	for name, values := range header {
		name, isAttribute := strings.CutPrefix(strings.ToLower(name), "ce-")
		if !isAttribute || len(values) == 0 || name == "specversion" {
			continue
		}
		value, err := percentDecode(values[0])
		if err != nil {
			return event.Event{}, fmt.Errorf("ce-%s: %w", name, err)
		}
		if err := setAttribute(&e, name, value); err != nil {
			return event.Event{}, fmt.Errorf("ce-%s: %w", name, err)
		}
	}
	if ct := headerValue(header, "content-type"); ct != "" {
		e.SetDataContentType(ct)
	}
	return e, nil
}

// setAttribute sets the attribute of a name, an extension if it is not one of
// the specification's own.
func setAttribute(e *event.Event, name, value string) error {
	switch name {
	case "id":
		e.SetID(value)
	case "source":
		e.SetSource(value)
	case "type":
		e.SetType(value)
	case "subject":
		e.SetSubject(value)
	case "dataschema":
		e.SetDataSchema(value)
	case "time":
		at, err := time.Parse(time.RFC3339Nano, value)
		if err != nil {
			return errors.New("is not an RFC 3339 time")
		}
		e.SetTime(at)
	default:
		e.SetExtension(name, value)
	}
	return nil
}

// checked returns the event if it is valid. Its text must be valid UTF-8, as
// all that follows is JSON.
func checked(e event.Event) (event.Event, error) {
	if err := e.Validate(); err != nil {
		return event.Event{}, fmt.Errorf("not a valid CloudEvent: %w", err)
	}
	return e, nil
}

// mediaType is the content type without its parameters.
func mediaType(header map[string][]string) string {
	mt, _, err := mime.ParseMediaType(headerValue(header, "content-type"))
	if err != nil {
		return ""
	}
	return mt
}

// headerValue is the first value of a header, whatever the case of its name.
func headerValue(header map[string][]string, name string) string {
	for k, values := range header {
		if len(values) > 0 && strings.EqualFold(k, name) {
			return values[0]
		}
	}
	return ""
}

// percentEncode encodes what section 3.1.3.2 names: anything that is not
// printable ASCII, the space, the double quote and the percent sign.
func percentEncode(s string) string {
	const hex = "0123456789ABCDEF"
	var b strings.Builder
	for i := range len(s) {
		if c := s[i]; c > 0x20 && c < 0x7f && c != '"' && c != '%' {
			b.WriteByte(c)
		} else {
			b.WriteByte('%')
			b.WriteByte(hex[c>>4])
			b.WriteByte(hex[c&15])
		}
	}
	return b.String()
}

// percentDecode undoes percentEncode, and one pair of double quotes around the
// whole, which the binding allows. A percent sign that begins no encoding is
// one that a sender forgot to encode, and stands for itself.
func percentDecode(s string) (string, error) {
	if len(s) >= 2 && s[0] == '"' && s[len(s)-1] == '"' {
		s = strings.NewReplacer(`\"`, `"`, `\\`, `\`).Replace(s[1 : len(s)-1])
	}
	if !strings.Contains(s, "%") {
		return validText(s)
	}
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '%' && i+2 < len(s) && isHex(s[i+1]) && isHex(s[i+2]) {
			b.WriteByte(unhex(s[i+1])<<4 | unhex(s[i+2]))
			i += 2
			continue
		}
		b.WriteByte(s[i])
	}
	return validText(b.String())
}

// validText refuses what is not text.
func validText(s string) (string, error) {
	if strings.ToValidUTF8(s, "") != s {
		return "", errors.New("is not valid UTF-8")
	}
	return s, nil
}

func isHex(c byte) bool {
	return c >= '0' && c <= '9' || c >= 'a' && c <= 'f' || c >= 'A' && c <= 'F'
}

func unhex(c byte) byte {
	switch {
	case c <= '9':
		return c - '0'
	case c >= 'a':
		return c - 'a' + 10
	}
	return c - 'A' + 10
}
