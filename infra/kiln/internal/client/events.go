package client

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/kilnhook/kiln/infra/wait"
)

// Event is one event of the stack and its place.
type Event struct {
	Seq  uint64          `json:"seq"`
	Type string          `json:"type"`
	Data json.RawMessage `json:"event"` // the CloudEvent as structured JSON
}

// Events passes on the events that are kept after a place, oldest first.
func (c *Client) Events(ctx context.Context, after uint64, types []string, each func(Event) error) error {
	q := url.Values{"after": {strconv.FormatUint(after, 10)}, "type": types}
	resp, err := c.do(ctx, http.MethodGet, "/api/events?"+q.Encode(), nil, nil)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	dec := json.NewDecoder(resp.Body)
	for {
		var e Event
		if err := dec.Decode(&e); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return fmt.Errorf("read events: %w", err)
		}
		if err := each(e); err != nil {
			return err
		}
	}
}

// Follow passes on events as they come, until ctx is done or each returns an
// error: those after the place after, or from now on if it is nil. Lost
// connections are made again where they broke off; only the first must
// succeed at once.
func (c *Client) Follow(ctx context.Context, after *uint64, types []string, each func(Event) error) error {
	f := follower{c: c, types: types, each: each}
	if after != nil {
		f.last, f.known = *after, true
	}
	for connected := false; ; {
		err := f.once(ctx, &connected)
		var own *lineError
		var refused *StatusError
		switch {
		case errors.As(err, &own):
			return own.err
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case errors.As(err, &refused), !connected:
			return err
		}
		if err := wait.For(ctx, time.Second); err != nil {
			return err
		}
	}
}

// follower reads server-sent events.
type follower struct {
	c     *Client
	types []string
	each  func(Event) error
	last  uint64
	known bool // last is the place of something
}

func (f *follower) once(ctx context.Context, connected *bool) error {
	header := http.Header{"Accept": {"text/event-stream"}}
	if f.known {
		header.Set("Last-Event-ID", strconv.FormatUint(f.last, 10))
	}
	path := "/events"
	if len(f.types) > 0 {
		path += "?" + url.Values{"type": f.types}.Encode()
	}
	resp, err := f.c.do(ctx, http.MethodGet, path, nil, header)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	*connected = true
	in := bufio.NewScanner(resp.Body)
	in.Buffer(make([]byte, 64<<10), 4<<20)
	var e Event
	for in.Scan() {
		name, value, _ := strings.Cut(in.Text(), ":")
		value = strings.TrimPrefix(value, " ")
		switch name {
		case "id":
			if e.Seq, err = strconv.ParseUint(value, 10, 64); err != nil {
				return fmt.Errorf("read events: place %q is not a number", value)
			}
		case "event":
			e.Type = value
		case "data":
			e.Data = append(e.Data, value...)
		case "":
			if in.Text() == "" && len(e.Data) > 0 {
				f.last, f.known = e.Seq, true
				if err := f.each(e); err != nil {
					return &lineError{err}
				}
				e = Event{}
			}
		}
	}
	if err := in.Err(); err != nil {
		return fmt.Errorf("read events: %w", err)
	}
	return nil
}
