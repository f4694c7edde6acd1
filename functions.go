// Package kiln is what Google's builder for Cloud Functions looks at: exported
// functions in the root of the source that is deployed. From the root of a clone:
//
//	gcloud functions deploy kiln-bucket-upload --gen2 --runtime=go126 --source=. --entry-point=BucketUpload …
//
// docs/functions.md has the whole commands. What the functions do is in package
// functions/gcf; everything else of Kiln is in programs and packages below.
package kiln

import (
	"context"
	"log/slog"
	"net/http"
	"os"
	"sync"
	"time"

	"github.com/cloudevents/sdk-go/v2/event"

	"github.com/kilnhook/kiln/functions/gcf"
)

// functions are made when the first call comes. A function has no main of ours
// that could make them before and hold them.
//
//nolint:gochecknoglobals // the builder calls exported functions of a package, which can be given nothing
var functions = sync.OnceValues(func() (*gcf.Functions, error) {
	log := slog.New(slog.NewJSONHandler(os.Stderr, nil))           //nolint:forbidigo // as main would
	return gcf.New(context.Background(), os.Getenv, time.Now, log) //nolint:forbidigo // as main would
})

// BucketUpload takes the event of an object that arrived in a bucket of Cloud
// Storage, from Eventarc or from a bucket's notification, and passes it on.
func BucketUpload(ctx context.Context, e event.Event) error {
	f, err := functions()
	if err != nil {
		return err
	}
	return f.BucketUpload(ctx, e)
}

// GitPush takes webhooks of git forges and passes them on.
func GitPush(w http.ResponseWriter, r *http.Request) {
	f, err := functions()
	if err != nil {
		slog.Default().Error("configure the function", "err", err)
		http.Error(w, "the function is not configured; see its log", http.StatusServiceUnavailable)
		return
	}
	f.GitPush(w, r)
}

// BuildFinished takes the event of a build that ended and posts it to the address
// that is configured.
func BuildFinished(ctx context.Context, e event.Event) error {
	f, err := functions()
	if err != nil {
		return err
	}
	return f.BuildFinished(ctx, e)
}
