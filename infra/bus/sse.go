package bus

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"
)

// SSEHandler streams events to browsers and programs as server-sent events:
// the id is the event's place, the event its type, and the data the CloudEvent
// as structured JSON. A request that says where it was, in the header
// Last-Event-ID or the parameter lastEventId, gets all that came after; "0" is
// everything that is kept. One that does not gets what comes from now on. The
// parameter type, given once or several times or as a list with commas, selects
// event types. Silence is broken by comments, so that both sides notice a
// connection that is gone.
func (b *Bus) SSEHandler() http.Handler {
	return http.HandlerFunc(b.serveSSE)
}

func (b *Bus) serveSSE(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		w.Header().Set("Allow", "GET, HEAD")
		http.Error(w, "only GET", http.StatusMethodNotAllowed)
		return
	}
	after, err := b.startOf(r)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	w.Header().Set("Content-Type", "text/event-stream")
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("X-Accel-Buffering", "no")
	w.WriteHeader(http.StatusOK)
	if r.Method == http.MethodHead {
		return
	}
	s := stream{bus: b, w: w, flush: http.NewResponseController(w).Flush, types: selectedTypes(r), after: after}
	err = s.run(r.Context())
	if err != nil && !errors.Is(err, ErrClosed) && r.Context().Err() == nil {
		b.opts.Log.Warn("stream events", "err", err)
	}
}

// startOf is the place after which a stream begins. A place the spool has not
// reached is one of an earlier spool: all of this one is new to that client.
func (b *Bus) startOf(r *http.Request) (uint64, error) {
	last := b.Last()
	text := r.Header.Get("Last-Event-ID")
	if text == "" {
		text = r.URL.Query().Get("lastEventId")
	}
	if text == "" {
		return last, nil
	}
	after, err := strconv.ParseUint(text, 10, 64)
	if err != nil {
		return 0, fmt.Errorf("last event id %q is not a number this stream gave out", text)
	}
	if after > last {
		return 0, nil
	}
	return after, nil
}

// selectedTypes are the event types a request asks for; none is all.
func selectedTypes(r *http.Request) []string {
	var types []string
	for _, list := range r.URL.Query()["type"] {
		for name := range strings.SplitSeq(list, ",") {
			if name = strings.TrimSpace(name); name != "" {
				types = append(types, name)
			}
		}
	}
	return types
}

// stream is one client's.
type stream struct {
	bus   *Bus
	w     io.Writer
	flush func() error
	types []string
	after uint64
}

// run writes events until the client or the bus goes away.
func (s *stream) run(ctx context.Context) error {
	heartbeat := time.NewTicker(s.bus.opts.Heartbeat)
	defer heartbeat.Stop()
	if err := s.write("retry: 2000\n\n"); err != nil {
		return err
	}
	for {
		growth := s.bus.growth()
		records, err := s.bus.read(s.after, batch)
		if err != nil {
			return err
		}
		if err := s.send(records); err != nil {
			return err
		}
		if len(records) > 0 {
			continue
		}
		select {
		case <-growth:
		case <-heartbeat.C:
			if err := s.write(": still here\n\n"); err != nil {
				return err
			}
		case <-s.bus.closed:
			return ErrClosed
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// send writes the records that were asked for.
func (s *stream) send(records []record) error {
	var text strings.Builder
	for _, r := range records {
		var e struct {
			Type string `json:"type"`
		}
		if err := json.Unmarshal(r.raw, &e); err != nil {
			return fmt.Errorf("read event %d: %w", r.seq, err)
		}
		s.after = r.seq
		if len(s.types) == 0 || slices.Contains(s.types, e.Type) {
			fmt.Fprintf(&text, "id: %d\nevent: %s\ndata: %s\n\n", r.seq, oneLine(e.Type), r.raw)
		}
	}
	if text.Len() == 0 {
		return nil
	}
	return s.write(text.String())
}

// oneLine keeps a type from ending its field.
func oneLine(s string) string { return strings.NewReplacer("\n", " ", "\r", " ").Replace(s) }

func (s *stream) write(text string) error {
	if _, err := io.WriteString(s.w, text); err != nil {
		return err
	}
	return s.flush()
}
