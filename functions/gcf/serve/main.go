// Command serve runs one of Kiln's Cloud Functions on this machine, as Google's
// builder would serve it:
//
//	FUNCTION_TARGET=BucketUpload KILN_CHANGES=http://127.0.0.1:8766/events/in go run ./functions/gcf/serve
//
// FUNCTION_TARGET is BucketUpload, GitPush or BuildFinished, PORT is 8080 if it
// is not set. Other variables are those of the functions, see package gcf.
package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"syscall"

	"github.com/GoogleCloudPlatform/functions-framework-go/funcframework"

	"github.com/kilnhook/kiln"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := serve(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "serve:", err)
		os.Exit(1)
	}
}

// serve serves the function that the environment names until the context ends.
func serve(ctx context.Context) error {
	target := os.Getenv("FUNCTION_TARGET")
	var err error
	switch target {
	case "BucketUpload":
		err = funcframework.RegisterCloudEventFunctionContext(ctx, "/", kiln.BucketUpload)
	case "GitPush":
		err = funcframework.RegisterHTTPFunctionContext(ctx, "/", kiln.GitPush)
	case "BuildFinished":
		err = funcframework.RegisterCloudEventFunctionContext(ctx, "/", kiln.BuildFinished)
	default:
		return fmt.Errorf("FUNCTION_TARGET is %q: set it to BucketUpload, GitPush or BuildFinished", target)
	}
	if err != nil {
		return err
	}
	port := os.Getenv("PORT")
	if port == "" {
		port = "8080"
	}
	slog.New(slog.NewTextHandler(os.Stderr, nil)).Info("serving", "function", target, "port", port)
	served := make(chan error, 1)
	go func() { served <- funcframework.StartHostPort("127.0.0.1", port) }()
	select {
	case err := <-served:
		return errors.Join(errors.New("the server ended"), err)
	case <-ctx.Done():
		return nil // requests that run now come again
	}
}
