// Package registry is the OCI registry of the one-machine stack, kept in a
// directory, and a small client that checks digests, moves tags and pulls
// images back to prove that they are there.
package registry

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"strings"

	"github.com/distribution/distribution/v3/configuration"
	"github.com/distribution/distribution/v3/registry/handlers"
	_ "github.com/distribution/distribution/v3/registry/storage/driver/filesystem" // the only way to hand the library a driver
	"github.com/sirupsen/logrus"                                                   //nolint:depguard // to silence it: the library logs through its global
)

// Server serves the distribution API under /v2/. Blobs, manifests and tags
// live in its directory and are as they were after a restart.
type Server struct {
	app  *handlers.App
	stop context.CancelCauseFunc
}

// Open opens the registry in dir, making it if there is none. The library it
// stands on logs through the process-wide logrus logger; Open sends that one's
// warnings to log and drops the rest. Close ends what Open started.
func Open(ctx context.Context, dir string, log *slog.Logger) (s *Server, err error) {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("open registry: %w", err)
	}
	secret := make([]byte, 32)
	if _, err := rand.Read(secret); err != nil {
		return nil, fmt.Errorf("open registry: %w", err)
	}
	logrus.SetFormatter(&logrus.JSONFormatter{})
	logrus.SetLevel(logrus.WarnLevel)
	logrus.SetOutput(logWriter{log})
	config := &configuration.Configuration{
		Log: configuration.Log{AccessLog: configuration.AccessLog{Disabled: true}},
		Storage: configuration.Storage{
			"filesystem": configuration.Parameters{"rootdirectory": dir},
			"delete":     configuration.Parameters{"enabled": true},
			"redirect":   configuration.Parameters{"disable": true},
		},
		Catalog: configuration.Catalog{MaxEntries: 1000},
		Tags:    configuration.Tags{MaxTags: 1000},
	}
	config.HTTP.Secret = hex.EncodeToString(secret)
	config.HTTP.RelativeURLs = true // correct behind any address the stack is reached by
	ctx, stop := context.WithCancelCause(ctx)
	defer func() {
		// The library panics where others return an error.
		if p := recover(); p != nil {
			stop(nil)
			s, err = nil, fmt.Errorf("open registry in %s: %v", dir, p)
		}
	}()
	return &Server{app: handlers.NewApp(ctx, config), stop: stop}, nil
}

// ServeHTTP implements http.Handler for paths under /v2/.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) { s.app.ServeHTTP(w, r) }

// Close ends the registry's own work. Requests must have ended before.
func (s *Server) Close() error {
	defer s.stop(errors.New("the registry was closed"))
	if err := s.app.Shutdown(); err != nil {
		return fmt.Errorf("close registry: %w", err)
	}
	return nil
}

// logWriter passes logrus' JSON lines on to slog.
type logWriter struct{ log *slog.Logger }

// Write implements io.Writer; it never fails.
func (w logWriter) Write(p []byte) (int, error) {
	lines := bufio.NewScanner(bytes.NewReader(p))
	for lines.Scan() {
		var entry struct {
			Msg    string `json:"msg"`
			Error  string `json:"error"`
			Detail string `json:"err.detail"`
			Status int    `json:"http.response.status"`
		}
		if err := json.Unmarshal(lines.Bytes(), &entry); err != nil {
			entry.Msg = lines.Text()
		}
		// That a client asked for what is not there is no news, nor that a
		// finished upload is closed twice.
		if entry.Status > 0 && entry.Status < http.StatusInternalServerError || strings.HasSuffix(entry.Msg, "already closed") {
			continue
		}
		w.log.Warn("registry", "text", strings.TrimSpace(entry.Msg+" "+entry.Error+" "+entry.Detail))
	}
	return len(p), nil
}
