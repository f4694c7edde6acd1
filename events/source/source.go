// Package source holds what the parsers of foreign events share: the kinds of
// their errors, bearer tokens, and the change that Kiln's own parts send.
//
// A parser takes the header and the raw body of one request and returns the
// changes in it. It does no input or output, trusts nothing it reads, and
// verifies, where its sender signs, over the raw bytes before it looks at them.
package source

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"

	"github.com/cloudevents/sdk-go/v2/event"

	"github.com/kilnhook/kiln/events"
)

// ErrUnauthorised is the error for a request whose signature or token is
// missing or wrong. It is answered with 401 and never with a success.
var ErrUnauthorised = errors.New("signature or token is missing or wrong")

// MalformedError is the error for a request that no retry can make right.
type MalformedError struct {
	What string // what was read, such as "GitHub push"
	Err  error  // what is wrong with it
}

func (e *MalformedError) Error() string { return fmt.Sprintf("read %s: %v", e.What, e.Err) }

// Unwrap returns what is wrong.
func (e *MalformedError) Unwrap() error { return e.Err }

// Malformed returns a MalformedError about what was read.
func Malformed(what, format string, args ...any) error {
	return &MalformedError{What: what, Err: fmt.Errorf(format, args...)}
}

// IgnoredError is the error for a request that is in order and means no
// change. It is answered with success.
type IgnoredError struct {
	Reason string // why, for people
	Notice string // what an operator has to do about it, for the log; empty for nothing
}

func (e *IgnoredError) Error() string { return "ignored: " + e.Reason }

// Ignored returns an IgnoredError with a reason.
func Ignored(format string, args ...any) error {
	return &IgnoredError{Reason: events.CleanText(fmt.Sprintf(format, args...), events.MaxReason)}
}

// VerifyBearer reports ErrUnauthorised unless the header Authorization carries
// one of the tokens as "Bearer <token>". It takes the same time for every
// wrong token. No tokens let nothing pass.
func VerifyBearer(tokens []string, h http.Header) error {
	scheme, given, _ := strings.Cut(h.Get("Authorization"), " ")
	err := VerifyToken(tokens, strings.TrimSpace(given))
	if !strings.EqualFold(scheme, "Bearer") {
		return ErrUnauthorised
	}
	return err
}

// changed is the data of a TypeSourceChanged event; repo and ref are another
// spelling of location and name that a plain hook script may use.
type changed struct {
	events.Change
	Repo string `json:"repo"`
	Ref  string `json:"ref"`
}

// ChangeOf returns the change that a TypeSourceChanged event carries, checked.
// Its delivery and time are those of the event where the data does not say.
// The error is a *MalformedError, or an *IgnoredError for another type of event.
func ChangeOf(e event.Event) (events.Change, error) {
	const what = "source.changed event"
	if e.Type() != events.TypeSourceChanged {
		return events.Change{}, Ignored("event is of type %s, not %s", e.Type(), events.TypeSourceChanged)
	}
	var data changed
	if err := json.Unmarshal(e.Data(), &data); err != nil {
		return events.Change{}, Malformed(what, "%w", err)
	}
	c := data.Change
	if data.Repo != "" && c.Location == "" {
		c.Kind, c.Location, c.Name = events.KindGit, data.Repo, data.Ref
	}
	if c.Kind == events.KindGit {
		location, err := events.RepoLocation(c.Location)
		if err != nil {
			return events.Change{}, Malformed(what, "%w", err)
		}
		c.Location = location
		c.Before, c.After = strings.ToLower(c.Before), strings.ToLower(c.After)
	}
	if c.Delivery == "" {
		c.Delivery = e.ID()
	}
	if c.Time.IsZero() {
		c.Time = e.Time()
	}
	if err := c.Validate(); err != nil {
		return events.Change{}, Malformed(what, "%w", err)
	}
	return c, nil
}

// Decimal is a whole number that a sender wrote as a JSON number or as a JSON
// string. It is kept as written, as it may be larger than any of Go's numbers.
type Decimal string

// UnmarshalJSON accepts digits, bare or in quotes, and null for none.
func (d *Decimal) UnmarshalJSON(data []byte) error {
	text := string(data)
	if text == "null" {
		*d = ""
		return nil
	}
	if len(text) >= 2 && text[0] == '"' {
		text = text[1 : len(text)-1]
	}
	if text == "" || len(text) > 40 || strings.Trim(text, "0123456789") != "" {
		return fmt.Errorf("%q is not a whole number", events.CleanText(text, 40))
	}
	*d = Decimal(text)
	return nil
}
