package cmd

import (
	"errors"
	"fmt"

	"github.com/spf13/cobra"
)

func (a *app) doctor() *cobra.Command {
	return &cobra.Command{
		Use: "doctor", Short: "look whether everything a build needs is in order", Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := a.client(cmd.Context())
			if err != nil {
				return err
			}
			checks, err := c.Doctor(cmd.Context())
			if err != nil {
				return err
			}
			bad := 0
			s := a.screen()
			for _, k := range checks {
				mark := "ok  "
				if !k.OK {
					mark, bad = "FAIL", bad+1
				}
				if a.json() {
					continue
				}
				s.Line("%s %-13s %s", mark, k.Name, k.Detail)
				if k.Advice != "" {
					s.Line("     %-13s → %s", "", k.Advice)
				}
			}
			if a.json() {
				err = a.printJSON(checks)
			}
			if bad > 0 {
				return errors.Join(err, s.Err(), fmt.Errorf("%d of %d checks failed", bad, len(checks)))
			}
			return errors.Join(err, s.Err())
		},
	}
}
