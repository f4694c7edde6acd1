package buildlog

import (
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/kilnhook/kiln/infra/wait"
)

// keepAlive is the time between empty lines on a silent stream.
const keepAlive = 15 * time.Second

// Logs reads what executors said, one events.Progress a line. Log emits whole lines
// from a byte offset on, and returns the offset after the last; with follow it goes on
// until the build has no more to say, as far as is known here. The error wraps
// fs.ErrNotExist if there is no log.
type Logs interface {
	Log(ctx context.Context, id string, offset int64, follow bool, emit func(lines []byte) error) (int64, error)
}

// Server serves logs over HTTP.
type Server struct {
	Logs Logs
	// Over says whether a build has no more to say than it has. begun says that
	// there is a log.
	Over func(ctx context.Context, id string, begun bool) (bool, error)
	// Pause is between two looks for a log that has not begun; 0 is 200 ms.
	Pause time.Duration
	Log   *slog.Logger
}

// Serve streams the log of a build that exists: events.Progress as JSON lines from
// byte ?offset= on, or text with ?format=text. With ?follow=1 it goes on until the
// build has ended; the trailer Kiln-Log: end says that there will be no more.
func (s Server) Serve(w http.ResponseWriter, r *http.Request, id string) {
	q := r.URL.Query()
	offset, err := strconv.ParseInt("0"+q.Get("offset"), 10, 64)
	if err != nil {
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(http.StatusBadRequest)
		_, _ = w.Write([]byte(`{"error":"offset is not a number of bytes"}` + "\n")) // the client has gone
		return
	}
	h := w.Header()
	h.Set("Content-Type", "application/x-ndjson")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Cache-Control", "no-store")
	h.Set("Trailer", "Kiln-Log")
	out := &stream{w: w, flush: http.NewResponseController(w).Flush}
	if q.Get("format") == "text" {
		h.Set("Content-Type", "text/plain; charset=utf-8")
		out.text = &Reader{}
		offset = 0
	}
	w.WriteHeader(http.StatusOK)
	ended, err := s.stream(r.Context(), id, offset, q.Get("follow") == "1", out)
	if err != nil {
		s.Log.Debug("stream log", "build", id, "err", err)
	} else if ended {
		h.Set("Kiln-Log", "end")
	}
}

// stream passes on a log; ended says that the build has no more to say.
func (s Server) stream(ctx context.Context, id string, offset int64, follow bool, out *stream) (ended bool, err error) {
	pause := s.Pause
	if pause <= 0 {
		pause = 200 * time.Millisecond
	}
	for {
		// Before it is read: what is said between is not lost.
		over, err := s.Over(ctx, id, offset > 0)
		if err != nil {
			return false, err
		}
		silent, cancel := context.WithTimeoutCause(ctx, keepAlive, ErrSilent)
		offset, err = s.Logs.Log(silent, id, offset, follow, out.lines)
		cancel()
		switch {
		case errors.Is(err, ErrSilent) && ctx.Err() == nil:
			if err := out.ping(); err != nil {
				return false, err
			}
			continue
		case err != nil && !errors.Is(err, fs.ErrNotExist):
			return false, err
		case over:
			return true, nil
		case err == nil:
			if over, err = s.Over(ctx, id, true); over || err != nil {
				return over, err
			}
		}
		if !follow {
			return false, nil
		}
		// Requested, but not handed to the launcher yet; or one part has ended before
		// the next began.
		if err := wait.For(ctx, pause); err != nil {
			return false, err
		}
	}
}

// ErrSilent is why waiting for a log is interrupted.
var ErrSilent = errors.New("the log is silent")

// stream writes a log to a client as it comes.
type stream struct {
	w     http.ResponseWriter
	flush func() error
	text  *Reader // nil: as it is
}

func (o *stream) lines(p []byte) error {
	if o.text == nil {
		if _, err := o.w.Write(p); err != nil {
			return err
		}
		return o.flush()
	}
	var b strings.Builder
	for line := range strings.Lines(string(p)) {
		for _, text := range o.text.Add(Parse([]byte(line))) {
			b.WriteString(text + "\n")
		}
	}
	if _, err := o.w.Write([]byte(b.String())); err != nil {
		return err
	}
	return o.flush()
}

// ping keeps a silent connection alive. JSON lines may be empty; text is left
// alone.
func (o *stream) ping() error {
	if o.text != nil {
		return nil
	}
	if _, err := o.w.Write([]byte("\n")); err != nil {
		return err
	}
	return o.flush()
}
