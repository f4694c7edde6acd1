package cmd

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/kilnhook/kiln/events"
	"github.com/kilnhook/kiln/events/trigger"
	"github.com/kilnhook/kiln/executor/view"
	"github.com/kilnhook/kiln/infra/kiln/internal/client"
	"github.com/kilnhook/kiln/infra/kiln/internal/pack"
	"github.com/kilnhook/kiln/infra/kiln/internal/show"
	"github.com/kilnhook/kiln/infra/local/api"
	"github.com/kilnhook/kiln/infra/local/bucket"
	"github.com/kilnhook/kiln/infra/local/buildlog"
	"github.com/kilnhook/kiln/infra/wait"
)

// submission is what kiln submit is asked to do.
type submission struct {
	dir, name, dockerfile, trigger, progress string
	follow                                   bool
}

func (a *app) submit() *cobra.Command {
	var sub submission
	cmd := &cobra.Command{
		Use: "submit DIR", Short: "send a directory to be built, and follow the build", Args: oneArg("the directory to build"),
		Long: "Send a directory, without what its .dockerignore names, and follow the build to its digest.\n" +
			"The exit status is 0 if the build succeeded, 1 if not, 2 if the command line makes no sense.",
		RunE: func(cmd *cobra.Command, args []string) error {
			sub.dir = args[0]
			return a.runSubmit(cmd.Context(), sub)
		},
	}
	cmd.Flags().StringVar(&sub.name, "name", "", "name of the app, which names its image (default: the directory's name)")
	cmd.Flags().StringVarP(&sub.dockerfile, "file", "f", "", "the Dockerfile, sent as Dockerfile (default: DIR/Dockerfile)")
	cmd.Flags().StringVar(&sub.trigger, "trigger", "", "run only the trigger of this name")
	cmd.Flags().BoolVar(&sub.follow, "follow", true, "follow the build to its end")
	progressFlag(cmd, &sub.progress, "auto")
	return cmd
}

// progressFlag defines how a build is shown.
func progressFlag(cmd *cobra.Command, mode *string, usual string) {
	cmd.Flags().StringVar(mode, "progress", usual, "how the build is shown: auto, tty, plain or json; auto is a live tree on a terminal, plain elsewhere")
}

func (a *app) runSubmit(ctx context.Context, sub submission) error {
	if !slices.Contains(view.Modes(), sub.progress) {
		return &usageError{fmt.Errorf("--progress is %q, and may be %s", sub.progress, strings.Join(view.Modes(), ", "))}
	}
	c, err := a.client(ctx)
	if err != nil {
		return err
	}
	if sub.name == "" {
		abs, err := filepath.Abs(sub.dir)
		if err != nil {
			return fmt.Errorf("find the directory's name: %w", err)
		}
		sub.name = trigger.Slug(filepath.Base(abs))
	}
	if strings.Contains(sub.name, "/") || trigger.Slug(sub.name) != sub.name {
		return &usageError{fmt.Errorf("--name %q cannot name an image; %q can", sub.name, trigger.Slug(sub.name))}
	}
	s := a.screenBeside(sub.progress)
	defer s.Clear()
	obj, err := send(ctx, c, s, sub)
	if err != nil {
		return err
	}
	builds, err := c.BuildsOf(ctx, obj.Name, obj.Generation)
	if err != nil {
		return err
	}
	if len(builds) == 0 {
		return fmt.Errorf("uploaded %s, but no trigger is for it: see the triggers that kiln up was given", obj.Name)
	}
	failed := false
	for _, b := range builds {
		if b, err = a.follow(ctx, c, s, b, sub); err != nil {
			return err
		}
		failed = failed || b.Finished() && b.Result.Outcome != events.OutcomeSuccess
	}
	if failed {
		return errQuiet
	}
	return s.Err()
}

// send uploads the directory with a bar.
func send(ctx context.Context, c *client.Client, s *show.Screen, sub submission) (bucket.Object, error) {
	files, err := pack.Scan(ctx, sub.dir, sub.dockerfile)
	if err != nil {
		return bucket.Object{}, err
	}
	for _, name := range files.Skipped {
		s.Line("left out %s: it is neither file, directory nor link", buildlog.Clean(name))
	}
	s.Line("sending %s, %s", buildlog.Count(files.Files, "file"), buildlog.Bytes(files.Bytes))
	meta := map[string]string{}
	if sub.trigger != "" {
		meta[trigger.MetaTrigger] = sub.trigger
	}
	obj, err := c.Upload(ctx, sub.name+"/context.tar.gz", meta, func(w io.Writer) error {
		return files.Write(ctx, w, func(n int64) { s.Bar("sending", n, files.Bytes) })
	})
	s.Clear()
	var refused *client.StatusError
	if errors.As(err, &refused) && refused.Status == http.StatusServiceUnavailable {
		return obj, fmt.Errorf("the upload is stored, but its build did not start yet: %w", err)
	}
	return obj, err
}

// follow shows a build to its end, or only names it.
func (a *app) follow(ctx context.Context, c *client.Client, s *show.Screen, b api.Build, sub submission) (api.Build, error) {
	id := b.ID
	s.Line("build %s  %s/builds/%s", buildlog.Short(id), c.URL, id)
	if sub.follow {
		err := a.showLog(ctx, c, s, id, true, sub.progress)
		if err != nil && ctx.Err() != nil {
			s.Line("the build goes on: kiln logs -f %s, or kiln cancel %s", buildlog.Short(id), buildlog.Short(id))
		}
		if err == nil {
			b, err = finished(ctx, c, id)
		}
		if err != nil {
			return b, err
		}
		show.Verdict(s, b)
	}
	if a.json() {
		return b, a.printJSON(b)
	}
	return b, s.Err()
}

// screenBeside is the screen for what is not progress: JSON has standard output
// for itself.
func (a *app) screenBeside(progress string) *show.Screen {
	if progress == "json" {
		return show.New(a.Stderr, show.Terminal{}, a.Now)
	}
	return a.screen()
}

// showLog shows the log of a build, or all that there is of it.
func (a *app) showLog(ctx context.Context, c *client.Client, s *show.Screen, id string, follow bool, mode string) error {
	if mode == "json" {
		s = show.New(a.Stdout, show.Terminal{}, a.Now)
	}
	log, err := show.NewLog(s, mode)
	if err != nil {
		return &usageError{err}
	}
	return errors.Join(c.Log(ctx, id, follow, log.Add), log.Close())
}

// finished waits until a build whose log has ended has its outcome told.
func finished(ctx context.Context, c *client.Client, id string) (api.Build, error) {
	for {
		b, err := c.Build(ctx, id)
		if err != nil || b.Finished() {
			return b, err
		}
		if err := wait.For(ctx, 100*time.Millisecond); err != nil {
			return b, err
		}
	}
}
