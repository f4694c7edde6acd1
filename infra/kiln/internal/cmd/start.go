package cmd

import (
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/kilnhook/kiln/infra/kiln/internal/client"
	"github.com/kilnhook/kiln/infra/local/gitd"
)

func (a *app) start() *cobra.Command {
	var s client.Start
	cmd := &cobra.Command{
		Use: "start REPOSITORY REF | start BUCKET OBJECT", Short: "ask for a build of a branch, a tag or an object, as if it had just changed",
		Long: "Ask for a build of what triggers are for, as if it had just changed: a branch or a tag of a repository\n" +
			"(kiln start github.com/acme/shop main; the address of a push for one of the stack itself), or an object (kiln start gs://uploads app.tar.gz --generation 17).\n" +
			"Asking twice is asking once: see kiln rebuild.",
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) != 2 {
				return &usageError{fmt.Errorf("%s takes two arguments: a repository and a ref, or a bucket and an object", cmd.CommandPath())}
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			if strings.Contains(args[0], "://") && !strings.HasPrefix(args[0], "https://") && !strings.HasPrefix(args[0], "http://") && !strings.HasPrefix(args[0], "ssh://") {
				s.Bucket, s.Object = args[0], args[1]
				if s.Generation == "" {
					return &usageError{errors.New("name the object's generation or version with --generation")}
				}
			} else {
				s.Repo, s.Ref = args[0], args[1]
			}
			c, err := a.client(cmd.Context())
			if err != nil {
				return err
			}
			s.Repo = ownRepository(c.URL, s.Repo)
			decisions, err := c.Start(cmd.Context(), s)
			if err != nil {
				return err
			}
			return a.sayDecisions(decisions)
		},
	}
	cmd.Flags().StringVar(&s.Commit, "commit", "", "the commit, which the ref need not be at (default: where it is)")
	cmd.Flags().StringVar(&s.Generation, "generation", "", "generation or version of the object")
	cmd.Flags().StringVar(&s.Trigger, "trigger", "", "only this trigger")
	return cmd
}

// ownRepository is how changes name a repository of the stack at base, given the address
// that it was pushed to. Others are left as they are.
func ownRepository(base, address string) string {
	name, ok := strings.CutPrefix(address, strings.TrimSuffix(base, "/")+"/git/")
	if !ok {
		return address
	}
	return gitd.Location(strings.TrimSuffix(name, ".git"))
}
