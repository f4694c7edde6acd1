package cmd

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/kilnhook/kiln/infra/kiln/internal/client"
	"github.com/kilnhook/kiln/infra/kiln/internal/show"
	"github.com/kilnhook/kiln/infra/local/api"
	"github.com/kilnhook/kiln/infra/local/buildlog"
)

func (a *app) builds() *cobra.Command {
	var limit int
	var after string
	cmd := &cobra.Command{
		Use: "builds", Short: "list builds, newest first", Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if limit < 1 {
				return &usageError{fmt.Errorf("--limit is %d, and must be 1 or more", limit)}
			}
			c, err := a.client(cmd.Context())
			if err != nil {
				return err
			}
			filter := map[string]string{}
			for _, f := range buildFilters() {
				v, err := cmd.Flags().GetString(f.name)
				if err != nil {
					return err
				}
				if known := flagValues()[f.name]; v != "" && known != nil && !slices.Contains(known, v) {
					return &usageError{fmt.Errorf("--%s is %q, and may be %s", f.name, v, strings.Join(known, ", "))}
				}
				filter[f.name] = v
			}
			l, err := c.Builds(cmd.Context(), limit, after, filter)
			if err != nil {
				return err
			}
			if a.json() {
				return a.printJSON(l)
			}
			if err := show.Builds(a.Stdout, l.Builds, a.Now()); err != nil {
				return err
			}
			if l.Next != "" {
				_, err = fmt.Fprintf(a.Stdout, "older ones: %s builds --after %s\n", a.self(), l.Next)
			}
			return err
		},
	}
	cmd.Flags().IntVar(&limit, "limit", 20, "number of builds")
	cmd.Flags().StringVar(&after, "after", "", "where the page before ended")
	for _, f := range buildFilters() {
		cmd.Flags().String(f.name, "", f.usage)
	}
	return cmd
}

// buildFilter is a filter of the API, and a flag.
type buildFilter struct{ name, usage string }

func buildFilters() []buildFilter {
	return []buildFilter{
		{"state", "only builds that are queued, running, finishing, pending or finished"},
		{"outcome", "only builds that ended with success, failed, cancelled or error"},
		{"trigger", "only builds of this trigger"},
		{"tenant", "only builds of this tenant"},
		{"image", "only builds of this image, without a tag"},
		{"name", "only builds of this branch, tag or object"},
		{"revision", "only builds of this commit or generation of an object"},
	}
}

// described is a build with what its log tells.
type described struct {
	api.Build
	show.Story
}

func (a *app) build() *cobra.Command {
	var event bool
	cmd := &cobra.Command{
		Use: "build BUILD", ValidArgsFunction: a.completeBuilds(1), Short: "describe one build: its steps, layers, outcome and event", Args: oneArg("the build's id or its beginning"),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := a.client(cmd.Context())
			if err != nil {
				return err
			}
			d := described{}
			if d.Build, err = c.Build(cmd.Context(), args[0]); err != nil {
				return err
			}
			if event {
				return a.printEventOf(d.Build)
			}
			// A dispatcher whose builds run elsewhere has no logs.
			err = c.Log(cmd.Context(), d.ID, false, d.Add)
			if refused, ok := errors.AsType[*client.StatusError](err); err != nil && (!ok || refused.Status != http.StatusNotFound) {
				return err
			}
			if a.json() {
				return a.printJSON(d)
			}
			return show.Build(a.Stdout, d.Build, d.Story, a.Now())
		},
	}
	cmd.Flags().BoolVar(&event, "event", false, "print the event that told the build's end, as JSON, and nothing else")
	return cmd
}

func (a *app) printEventOf(b api.Build) error {
	if b.Event == nil {
		return fmt.Errorf("build %s has no event: it is %s, or its event is not kept here", buildlog.Short(b.ID), b.State)
	}
	var out bytes.Buffer
	if err := json.Indent(&out, *b.Event, "", "  "); err != nil {
		return fmt.Errorf("read event of build %s: %w", b.ID, err)
	}
	_, err := fmt.Fprintln(a.Stdout, out.String())
	return err
}

func (a *app) cancel() *cobra.Command {
	return &cobra.Command{
		Use: "cancel BUILD", ValidArgsFunction: a.completeBuilds(1), Short: "cancel a build", Args: oneArg("the build's id or its beginning"),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := a.client(cmd.Context())
			if err != nil {
				return err
			}
			b, err := c.Cancel(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			if a.json() {
				return a.printJSON(b)
			}
			s := a.screen()
			if b.Result != nil {
				show.Verdict(s, b)
			} else {
				s.Line("build %s is being cancelled", b.ID)
			}
			return s.Err()
		},
	}
}

func (a *app) logs() *cobra.Command {
	var follow bool
	var mode string
	cmd := &cobra.Command{
		Use: "logs BUILD", ValidArgsFunction: a.completeBuilds(1), Short: "print the log of a build", Args: oneArg("the build's id or its beginning"),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := a.client(cmd.Context())
			if err != nil {
				return err
			}
			if a.json() {
				return c.Log(cmd.Context(), args[0], follow, func(line []byte) error {
					_, err := fmt.Fprintf(a.Stdout, "%s\n", line)
					return err
				})
			}
			s := a.screenBeside(mode)
			defer s.Clear()
			if err := a.showLog(cmd.Context(), c, s, args[0], follow, mode); err != nil {
				return err
			}
			if b, err := c.Build(cmd.Context(), args[0]); err == nil && b.Finished() {
				show.Verdict(s, b)
			}
			return s.Err()
		},
	}
	progressFlag(cmd, &mode, "plain")
	cmd.Flags().BoolVarP(&follow, "follow", "f", false, "wait for more until the build has ended")
	return cmd
}
