package source

import (
	"encoding/json"
	"encoding/xml"
	"errors"
	"io"
	"net/http"
	"strings"

	"github.com/kilnhook/kiln/executor/internal/cloud"
)

// defaultObject is the object of a bucket whose URL names none.
const defaultObject = "context.tar.gz"

// splitBucket splits "bucket/object".
func splitBucket(rest string) (bucket, object string, err error) {
	bucket, object, _ = strings.Cut(rest, "/")
	if bucket == "" || strings.ContainsAny(bucket, "@:?#%\\ ") {
		return "", "", errors.New("not a bucket's URL: want bucket/object")
	}
	if object == "" {
		object = defaultObject
	}
	return bucket, object, nil
}

// cloudOptions are for looking up credentials, through the proxy if there is
// one. What is on this machine and its network is asked directly.
func cloudOptions(opt *Options) cloud.Options {
	return cloud.Options{Env: opt.Env, Transport: newClient(opt, false).Transport, Now: opt.Now, Wait: opt.RetryWait}
}

// storeReason is what a store says about an answer that is not a success, in
// its XML or JSON: " (Code: message)" or "".
func storeReason(resp *http.Response) string {
	body, err := io.ReadAll(io.LimitReader(resp.Body, 16<<10))
	if err != nil {
		return ""
	}
	code, message := resp.Header.Get("X-Ms-Error-Code"), ""
	var x struct{ Code, Message string }
	var j struct {
		Error struct {
			Message string `json:"message"`
		} `json:"error"`
	}
	switch {
	case xml.Unmarshal(body, &x) == nil:
		code, message = x.Code, x.Message
	case json.Unmarshal(body, &j) == nil:
		message = j.Error.Message
	}
	message, _, _ = strings.Cut(message, "\n")
	switch {
	case code != "" && message != "":
		return " (" + code + ": " + message + ")"
	case code+message != "":
		return " (" + code + message + ")"
	}
	return ""
}
