package cmd

import (
	"encoding/json"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/kilnhook/kiln/events"
	"github.com/kilnhook/kiln/infra/kiln/internal/client"
	"github.com/kilnhook/kiln/infra/local/buildlog"
)

func (a *app) events() *cobra.Command {
	var follow bool
	var after uint64
	var types []string
	cmd := &cobra.Command{
		Use: "events", Short: "print events, or follow them as they come", Args: noArgs,
		Long: "Print the events that are kept, or with -f those that come from now on.\n" +
			"With --after both begin after that place; --after 0 is everything that is kept.",
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := a.client(cmd.Context())
			if err != nil {
				return err
			}
			for i, t := range types {
				if types[i], err = fullType(t); err != nil {
					return err
				}
			}
			if !follow {
				return c.Events(cmd.Context(), after, types, a.printEvent)
			}
			var from *uint64
			if cmd.Flags().Changed("after") {
				from = &after
			}
			return c.Follow(cmd.Context(), from, types, a.printEvent)
		},
	}
	cmd.Flags().BoolVarP(&follow, "follow", "f", false, "wait for more")
	cmd.Flags().Uint64Var(&after, "after", 0, "begin after this place")
	cmd.Flags().StringSliceVar(&types, "type", nil, "only these types, as build.finished")
	return cmd
}

// fullType completes a type such as build.finished. Types of CDEvents are left as they are.
func fullType(t string) (string, error) {
	var known []string
	for _, full := range events.Types() {
		name := strings.TrimPrefix(full, "dev.kilnhook.")
		brief := strings.TrimSuffix(name, ".v1")
		if t == full || t == name || t == brief {
			return full, nil
		}
		known = append(known, brief)
	}
	if strings.HasPrefix(t, "dev.cdevents.") {
		return t, nil
	}
	return "", &usageError{fmt.Errorf("--type is %q, and may be %s, or a type of CDEvents", t, strings.Join(known, ", "))}
}

// printEvent writes one event: as it is, or what matters of it on one line.
func (a *app) printEvent(e client.Event) error {
	if a.json() {
		_, err := fmt.Fprintf(a.Stdout, "%s\n", e.Data)
		return err
	}
	var ce struct {
		Time, Subject, BuildID, Outcome string
		Data                            struct{ Reason, Message string }
	}
	if err := json.Unmarshal(e.Data, &ce); err != nil {
		return fmt.Errorf("read event %d: %w", e.Seq, err)
	}
	kind := strings.TrimSuffix(strings.TrimPrefix(e.Type, "dev.kilnhook."), ".v1")
	words := []string{fmt.Sprintf("%d", e.Seq), ce.Time, kind}
	for _, w := range []string{buildlog.Short(ce.BuildID), ce.Outcome, ce.Subject} {
		if w != "" {
			words = append(words, w)
		}
	}
	why := ce.Data.Message
	if why == "" {
		why = ce.Data.Reason
	}
	if ce.Outcome != "" && ce.Outcome != string(events.OutcomeSuccess) && why != "" {
		words = append(words, "("+why+")")
	}
	_, err := fmt.Fprintln(a.Stdout, buildlog.Clean(strings.ReplaceAll(strings.Join(words, "  "), "\n", " ")))
	return err
}
