package cmd

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/kilnhook/kiln/functions/dispatch"
)

func (a *app) rebuild() *cobra.Command {
	var key string
	cmd := &cobra.Command{
		Use: "rebuild BUILD", ValidArgsFunction: a.completeBuilds(1), Short: "build once more what a build built", Args: oneArg("the build's id or its beginning"),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := a.client(cmd.Context())
			if err != nil {
				return err
			}
			b, err := c.Build(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			decision, err := c.Rebuild(cmd.Context(), b.ID, key)
			if err != nil {
				return err
			}
			return a.sayDecisions([]dispatch.Decision{decision})
		},
	}
	cmd.Flags().StringVar(&key, "key", "", "whoever asks twice with the same key gets the same build (default: another each time)")
	return cmd
}

// sayDecisions tells what became of a change.
func (a *app) sayDecisions(decisions []dispatch.Decision) error {
	if a.json() {
		return a.printJSON(decisions)
	}
	s := a.screen()
	if len(decisions) == 0 {
		s.Line("nothing is built")
	}
	for _, d := range decisions {
		if d.BuildID == "" {
			s.Line("trigger %s builds nothing: %s", d.Trigger, d.Reason)
			continue
		}
		s.Line("build %s (%s): follow with: %s logs -f %s", d.BuildID, d.Status, a.self(), d.BuildID[:min(8, len(d.BuildID))])
	}
	return s.Err()
}

func (a *app) deadLetters() *cobra.Command {
	var limit int
	var after string
	cmd := &cobra.Command{
		Use: "deadletters", Short: "list requests that could not be understood", Args: noArgs,
		Long: "List requests that could not be understood: who sent them was checked, but what they say is no event that Kiln knows.\n" +
			"An update may understand them; replaying one is safe, since what was built before is not built again.",
		RunE: func(cmd *cobra.Command, _ []string) error {
			if limit < 1 {
				return &usageError{fmt.Errorf("--limit is %d, and must be 1 or more", limit)}
			}
			c, err := a.client(cmd.Context())
			if err != nil {
				return err
			}
			letters, next, err := c.DeadLetters(cmd.Context(), limit, after)
			if err != nil {
				return err
			}
			if a.json() {
				return a.printJSON(map[string]any{"deadLetters": letters, "next": next})
			}
			s := a.screen()
			for _, l := range letters {
				s.Line("%s  %s  %s  %d bytes\n  %s", l.Key, l.At.Format("2006-01-02 15:04:05"), l.Door, len(l.Body), l.Reason)
			}
			switch {
			case next != "":
				s.Line("more: %s deadletters --after %s", a.self(), next)
			case len(letters) == 0 && after == "":
				s.Line("there are none")
			}
			return s.Err()
		},
	}
	cmd.Flags().IntVar(&limit, "limit", 50, "number of them")
	cmd.Flags().StringVar(&after, "after", "", "where the page before ended")
	cmd.AddCommand(a.replay(), a.forget())
	return cmd
}

func (a *app) replay() *cobra.Command {
	return &cobra.Command{
		Use: "replay KEY", Short: "read one again, and build what it asks for", Args: oneArg("a key from kiln deadletters"),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := a.client(cmd.Context())
			if err != nil {
				return err
			}
			decisions, err := c.Replay(cmd.Context(), strings.TrimPrefix(args[0], "poison/"))
			if err != nil {
				return err
			}
			return a.sayDecisions(decisions)
		},
	}
}

func (a *app) forget() *cobra.Command {
	return &cobra.Command{
		Use: "rm KEY", Short: "remove one", Args: oneArg("a key from kiln deadletters"),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := a.client(cmd.Context())
			if err != nil {
				return err
			}
			return c.Forget(cmd.Context(), strings.TrimPrefix(args[0], "poison/"))
		},
	}
}
