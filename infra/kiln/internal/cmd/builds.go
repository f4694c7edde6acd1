package cmd

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/kilnhook/kiln/infra/kiln/internal/show"
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
			c, err := a.client()
			if err != nil {
				return err
			}
			l, err := c.Builds(cmd.Context(), limit, after)
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
				_, err = fmt.Fprintf(a.Stdout, "older ones: kiln builds --after %s\n", l.Next)
			}
			return err
		},
	}
	cmd.Flags().IntVar(&limit, "limit", 20, "number of builds")
	cmd.Flags().StringVar(&after, "after", "", "where the page before ended")
	return cmd
}

func (a *app) cancel() *cobra.Command {
	return &cobra.Command{
		Use: "cancel BUILD", Short: "cancel a build", Args: oneArg("the build's id or its beginning"),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := a.client()
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
		Use: "logs BUILD", Short: "print the log of a build", Args: oneArg("the build's id or its beginning"),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := a.client()
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
