package cmd

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/kilnhook/kiln/events"
	"github.com/kilnhook/kiln/events/source"
	"github.com/kilnhook/kiln/events/trigger"
	"github.com/kilnhook/kiln/functions/dispatch"
	"github.com/kilnhook/kiln/infra/kiln/internal/request"
)

func (a *app) triggers() *cobra.Command {
	cmd := &cobra.Command{
		Use: "triggers", Short: "check and explain the file that says what is built", Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(a.checkTriggers(), a.explainTriggers())
	return cmd
}

func (a *app) checkTriggers() *cobra.Command {
	var narrowing bool
	cmd := &cobra.Command{
		Use: "check FILE", Short: "say what is wrong with a kiln.yaml", Args: oneArg("a kiln.yaml"),
		RunE: func(_ *cobra.Command, args []string) error {
			data, err := os.ReadFile(args[0])
			if err != nil {
				return fmt.Errorf("read triggers: %w", err)
			}
			if narrowing {
				if _, err := trigger.ParseNarrowing(args[0], data); err != nil {
					return fmt.Errorf("faults:\n%w", err)
				}
				_, err = fmt.Fprintf(a.Stdout, "%s narrows triggers and is in order\n", args[0])
				return err
			}
			set, err := trigger.Parse(args[0], data)
			if err != nil {
				return fmt.Errorf("faults:\n%w", err)
			}
			if a.json() {
				return a.printJSON(set.All())
			}
			for _, t := range set.All() {
				if _, err := fmt.Fprintf(a.Stdout, "%s:%d: trigger %s of tenant %s\n", args[0], t.Line, t.Name, t.Tenant); err != nil {
					return err
				}
			}
			return nil
		},
	}
	cmd.Flags().BoolVar(&narrowing, "narrowing", false, "FILE is one in a repository that narrows triggers")
	return cmd
}

// explainFlags are the flags of kiln triggers explain.
type explainFlags struct {
	file, door, bitbucketURL string
	sequence                 uint64
}

func (a *app) explainTriggers() *cobra.Command {
	var f explainFlags
	cmd := &cobra.Command{
		Use: "explain EVENT", Short: "say what a webhook or event would build, and why not", Args: oneArg("a file with a request"),
		Long: "Say of every trigger whether a webhook or event is for it, and which build it makes, or field by field why not.\n" +
			"EVENT is a file with a request: headers, an empty line and the body as they were sent, or JSON\n" +
			`{"path": "/hooks/github", "headers": {"X-GitHub-Event": "push", …}, "body": {…}}, or the JSON body alone.` + "\n" +
			"Signatures and tokens are not looked at, and nothing is built.",
		RunE: func(_ *cobra.Command, args []string) error { return a.runExplain(args[0], f) },
	}
	fl := cmd.Flags()
	fl.StringVar(&f.file, "triggers", "kiln.yaml", "the file that says what is built")
	fl.StringVar(&f.door, "door", "", "path that the request was sent to; one of "+strings.Join(dispatch.Doors(), ", ")+" (default: by its headers)")
	fl.StringVar(&f.bitbucketURL, "bitbucket-url", "", "address of a Bitbucket Data Center whose webhooks do not say it")
	fl.Uint64Var(&f.sequence, "sequence", 1, "number of the change among those of its ref, which is part of a build's id")
	return cmd
}

// explained is what is said about one change.
type explained struct {
	Change   events.Change         `json:"change"`
	Triggers []trigger.Explanation `json:"triggers"`
	Builds   []events.Request      `json:"builds"`
}

func (a *app) runExplain(file string, f explainFlags) error {
	data, err := os.ReadFile(f.file)
	if err != nil {
		return fmt.Errorf("read triggers; name the file with --triggers: %w", err)
	}
	set, err := trigger.Parse(f.file, data)
	if err != nil {
		return fmt.Errorf("read triggers:\n%w", err)
	}
	if data, err = os.ReadFile(file); err != nil {
		return fmt.Errorf("read event: %w", err)
	}
	req, err := request.Parse(data)
	if err != nil {
		return fmt.Errorf("read event %s: %w", file, err)
	}
	if f.door != "" {
		req.Path = f.door
	}
	changes, err := dispatch.Trusted(req.Path, f.bitbucketURL, req.Header, req.Body)
	if ignored, ok := errors.AsType[*source.IgnoredError](err); ok {
		if a.json() {
			return a.printJSON(map[string]string{"door": req.Path, "ignored": ignored.Reason})
		}
		_, err := fmt.Fprintf(a.Stdout, "%s: nothing is built: %s\n", req.Path, ignored.Reason)
		return err
	}
	if err != nil {
		return fmt.Errorf("%s would refuse this: %w", req.Path, err)
	}
	for _, c := range changes {
		e := explained{Change: c, Triggers: set.Explain(c), Builds: []events.Request{}}
		for _, t := range e.Triggers {
			if t.Match != nil && !c.Deleted() {
				e.Builds = append(e.Builds, wouldBuild(*t.Match, f.sequence))
			}
		}
		if a.json() {
			err = a.printJSON(e)
		} else {
			err = a.explainChange(req.Path, e, f.sequence)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// wouldBuild is the request of a match as the given number of its ref.
func wouldBuild(m trigger.Match, sequence uint64) events.Request {
	req := m.Request
	req.Sequence = sequence
	req.BuildID = req.DeriveBuildID()
	return req
}

// explainChange writes what is said about a change for people.
func (a *app) explainChange(door string, e explained, sequence uint64) error {
	var b strings.Builder
	c := e.Change
	switch c.Kind {
	case events.KindGit:
		fmt.Fprintf(&b, "%s: %s of %s moved from %.12s to %.12s\n", door, c.Name, c.Location, c.Before, c.After)
	case events.KindImage:
		fmt.Fprintf(&b, "%s: image %s:%s is now %s; builds that stand on it run again\n", door, c.Location, c.Name, c.Generation)
	default:
		fmt.Fprintf(&b, "%s: object %s/%s was stored as generation %s\n", door, c.Location, c.Name, c.Generation)
	}
	for _, t := range e.Triggers {
		verdict := "does not match"
		if t.Matched {
			verdict = "matches"
		}
		fmt.Fprintf(&b, "\ntrigger %s (line %d) %s\n", t.Trigger, t.Line, verdict)
		if t.Reason != "" {
			fmt.Fprintf(&b, "  no: %s\n", t.Reason)
		}
		for n, checks := range t.Sources {
			for _, k := range checks {
				mark := "yes"
				if !k.OK {
					mark = "no "
				}
				fmt.Fprintf(&b, "  %s on[%d] %s wants %s, and got %s\n", mark, n, strings.TrimPrefix(k.Field, "on."), k.Want, events.CleanText(k.Got, 200))
			}
		}
		if t.Match != nil {
			describe(&b, *t.Match, sequence)
		}
	}
	_, err := fmt.Fprint(a.Stdout, b.String())
	return err
}

// describe writes what a match builds.
func describe(b *strings.Builder, m trigger.Match, sequence uint64) {
	c := m.Request.Change
	switch {
	case c.Kind == events.KindImage:
		return
	case c.Deleted():
		fmt.Fprintf(b, "  the ref is gone: its builds are cancelled\n")
		return
	case m.Err != nil:
		fmt.Fprintf(b, "  cannot be built: %v\n", m.Err)
		return
	}
	req := wouldBuild(m, sequence)
	line := func(name, value string) {
		if value != "" {
			fmt.Fprintf(b, "  %-11s %s\n", name, value)
		}
	}
	id := req.BuildID
	if c.Kind == events.KindGit {
		id += fmt.Sprintf(" as change %d of the ref", sequence)
	}
	line("build", id)
	line("image", req.Image)
	line("tags", strings.Join(req.Tags, ", "))
	line("context", req.ContextSubPath)
	line("dockerfile", req.Dockerfile)
	line("target", req.Target)
	for _, k := range slices.Sorted(maps.Keys(req.Args)) {
		line("arg", k+"="+req.Args[k])
	}
	for _, k := range slices.Sorted(maps.Keys(req.Labels)) {
		line("label", k+"="+req.Labels[k])
	}
	line("platform", req.Platform)
	line("platforms", strings.Join(req.Platforms, ", "))
	line("group", req.Group)
	line("supersede", req.Supersede)
	line("priority", req.Priority)
	if req.Timeout > 0 {
		line("timeout", req.Timeout.String())
	}
	if res, err := json.Marshal(req.Resources); err == nil && string(res) != "{}" {
		line("resources", string(res))
	}
	if m.NeedsFiles() {
		line("paths", pathVerdict(m))
	}
	if name := m.NarrowedBy(); name != "" {
		line("narrowed by", name+" in the repository, if it is there")
	}
}

// pathVerdict says what the path filter will do, as far as the event tells.
func pathVerdict(m trigger.Match) string {
	c := m.Request.Change
	switch file, ok := m.MatchesFiles(c.Files); {
	case c.Created():
		return m.Filters() + ": the first push of a ref is always built"
	case c.Files == nil:
		return m.Filters() + ": the difference to what was built last decides"
	case ok:
		return m.Filters() + ": " + file + " was touched"
	}
	return m.Filters() + ": none of the files in the event; if the repository says so too, it is not built"
}
