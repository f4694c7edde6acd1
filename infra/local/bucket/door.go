package bucket

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
)

// metadataHeader begins the headers of the plain door that become an object's
// metadata: X-Kiln-Meta-Branch: main.
const metadataHeader = "X-Kiln-Meta-"

// Handler is the plain door to the bucket Contexts, for requests whose path
// begins with prefix, which ends in a slash:
//
//	PUT  <prefix><name>   store a new generation; 201 and the object as JSON
//	GET  <prefix><name>   read it, with ranges; ?generation= picks one
//	HEAD, DELETE          as usual
//
// A refusal is plain text that says what to do: 400 for an empty upload, a bad
// name or wrong length or checksum, 404, 412 for If-None-Match: * on an object
// that exists, 413 when too large, 507 when the disk is full. 503 with
// Retry-After means that the object is stored but no build was started yet; it
// will be, and the same upload sent again does not start a second one.
func (s *Store) Handler(prefix string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		name, ok := strings.CutPrefix(r.URL.Path, prefix)
		if !ok {
			http.NotFound(w, r)
			return
		}
		var err error
		switch r.Method {
		case http.MethodPut:
			err = s.servePut(w, r, name)
		case http.MethodGet, http.MethodHead:
			err = s.serveGet(w, r, name)
		case http.MethodDelete:
			if _, err = s.Delete(Contexts, name, ""); err == nil {
				w.WriteHeader(http.StatusNoContent)
			}
		default:
			w.Header().Set("Allow", "GET, HEAD, PUT, DELETE")
			http.Error(w, "use PUT to upload, GET to download", http.StatusMethodNotAllowed)
			return
		}
		if err != nil {
			s.refuse(w, r, err)
		}
	})
}

func (s *Store) servePut(w http.ResponseWriter, r *http.Request, name string) error {
	o := PutOptions{
		Size: r.ContentLength, Unsized: r.ContentLength < 0,
		ContentType: r.Header.Get("Content-Type"),
		Metadata:    metadata(r.Header, metadataHeader),
		CreateOnly:  r.Header.Get("If-None-Match") == "*",
	}
	if text := r.Header.Get("Content-MD5"); text != "" {
		sum, err := base64.StdEncoding.DecodeString(text)
		if err != nil || len(sum) != 16 {
			return fmt.Errorf("%w: the Content-MD5 header is not 16 bytes in base64", ErrCorrupt)
		}
		o.MD5 = sum
	}
	obj, err := s.Put(r.Context(), Contexts, name, r.Body, o)
	if err != nil {
		return err
	}
	data, err := json.Marshal(obj)
	if err != nil {
		return fmt.Errorf("describe %s: %w", name, err)
	}
	setHeaders(w.Header(), obj)
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Content-Length", strconv.Itoa(len(data)+1))
	w.WriteHeader(http.StatusCreated)
	_, err = w.Write(append(data, '\n'))
	if err != nil {
		s.opts.Log.Debug("answer upload", "err", err)
	}
	return nil
}

func (s *Store) serveGet(w http.ResponseWriter, r *http.Request, name string) error {
	obj, f, err := s.Open(Contexts, name, r.URL.Query().Get("generation"))
	if err != nil {
		return err
	}
	defer f.Close()
	setHeaders(w.Header(), obj)
	contentType := obj.ContentType
	if contentType == "" {
		contentType = "application/octet-stream"
	}
	// What somebody uploaded is never shown as a page of ours.
	w.Header().Set("Content-Type", contentType)
	w.Header().Set("Content-Disposition", "attachment")
	w.Header().Set("Content-Security-Policy", "default-src 'none'; sandbox")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	http.ServeContent(w, r, "", obj.Created, f)
	return nil
}

func setHeaders(h http.Header, obj Object) {
	h.Set("ETag", `"`+obj.MD5+`"`)
	h.Set("X-Kiln-Generation", obj.Generation)
	for k, v := range obj.Metadata {
		h.Set(metadataHeader+k, v)
	}
}

// metadata takes the headers that begin with prefix, keyed in lower case
// without it.
func metadata(h http.Header, prefix string) map[string]string {
	m := map[string]string{}
	for k, v := range h {
		if key, ok := strings.CutPrefix(k, prefix); ok && key != "" {
			m[strings.ToLower(key)] = strings.Join(v, ",")
		}
	}
	return m
}

// refuse answers with the status and the words for err.
func (s *Store) refuse(w http.ResponseWriter, r *http.Request, err error) {
	status, text := refusal(err)
	if status >= http.StatusInternalServerError {
		s.opts.Log.Warn("upload not accepted", "status", status, "path", r.URL.Path, "err", err)
	}
	if status == http.StatusServiceUnavailable {
		w.Header().Set("Retry-After", "5")
	}
	if r.ContentLength != 0 && r.Method == http.MethodPut {
		w.Header().Set("Connection", "close") // the rest of the body is not wanted
	}
	http.Error(w, text, status)
}

// refusal is the HTTP status for an error of the store and what to tell the
// client.
func refusal(err error) (status int, text string) {
	text = err.Error()
	switch {
	case errors.Is(err, ErrEmpty):
		return http.StatusBadRequest, text + "\nSend a tar archive of the build context, as in: tar -czf - . | curl -T - URL"
	case errors.Is(err, ErrBadName), errors.Is(err, ErrShort), errors.Is(err, ErrCorrupt):
		return http.StatusBadRequest, text
	case errors.Is(err, ErrNoBucket), errors.Is(err, ErrNoObject):
		return http.StatusNotFound, text
	case errors.Is(err, ErrExists):
		return http.StatusPreconditionFailed, text
	case errors.Is(err, ErrTooLarge):
		return http.StatusRequestEntityTooLarge, text + "\nLeave out what the build does not need (.dockerignore), or start the stack with a larger --max-upload"
	case errors.Is(err, ErrNoSpace):
		return http.StatusInsufficientStorage, text
	case errors.Is(err, context.Canceled):
		return http.StatusServiceUnavailable, "the upload was interrupted, and nothing of it is stored: send it again"
	case errors.Is(err, ErrNotHandled):
		return http.StatusServiceUnavailable, text + "\nIt will be started by itself; sending it again is safe."
	default:
		return http.StatusInternalServerError, text
	}
}
