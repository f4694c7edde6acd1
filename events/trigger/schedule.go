package trigger

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/robfig/cron/v3"
	"gopkg.in/yaml.v3"

	"github.com/kilnhook/kiln/events"
)

// Schedule builds one ref or object again whenever it is time, whether it
// changed or not.
type Schedule struct {
	Cron string // minute, hour, day of month, month, day of week, in UTC; or "@daily" and the like
	// Kind, Location and Name are the ref or object, as in events.Change.
	Kind, Location, Name string

	spec cron.Schedule
}

// Next is the first time after t at which it is time; zero if there is none
// within five years.
func (s *Schedule) Next(t time.Time) time.Time {
	if s.spec == nil {
		return time.Time{}
	}
	return s.spec.Next(t.UTC())
}

func (p *parser) schedule(n *yaml.Node) *Schedule {
	var s Schedule
	spec := func(n *yaml.Node) {
		s.Cron = p.text(n, "on.schedule.cron")
		var err error
		if strings.Contains(s.Cron, "TZ=") || strings.HasPrefix(s.Cron, "@every") {
			err = errors.New("times are in UTC, and @every has no fixed times")
		} else {
			s.spec, err = cron.ParseStandard(s.Cron)
		}
		if err != nil {
			p.fail(n, "on.schedule %q is not five fields such as \"0 3 * * 1\": %v", s.Cron, err)
		}
	}
	if n.Kind == yaml.ScalarNode {
		spec(n)
		return &s
	}
	p.fields(n, "on.schedule", []field{
		{"cron", spec},
		{"ref", func(n *yaml.Node) { s.Kind, s.Name = events.KindGit, fullRef(p.text(n, "on.schedule.ref")) }},
		{"object", func(n *yaml.Node) {
			if s.Kind != "" {
				p.fail(n, "on.schedule has both a ref and an object")
			}
			s.Kind, s.Name = events.KindObject, p.text(n, "on.schedule.object")
		}},
	})
	if s.Cron == "" && n.Kind == yaml.MappingNode {
		p.fail(n, "on.schedule has no cron")
	}
	return &s
}

// placeSchedules finds out what each schedule of the trigger builds: what it
// names in the one repository or bucket that the trigger listens to, or the
// one ref that the trigger is for.
func (t *Trigger) placeSchedules() error {
	for _, s := range t.On {
		if s.Schedule == nil {
			continue
		}
		if err := t.place(s.Schedule); err != nil {
			return err
		}
	}
	return nil
}

func (t *Trigger) place(s *Schedule) error {
	var repos []*Git
	var buckets []string
	for _, o := range t.On {
		if o.Git != nil && !strings.Contains(o.Git.Repo, "*") {
			repos = append(repos, o.Git)
		}
		if o.Object != nil && strings.Contains(o.Object.Bucket, "://") && !strings.Contains(o.Object.Bucket, "*") {
			buckets = append(buckets, o.Object.Bucket)
		}
	}
	if s.Kind == "" {
		if len(repos) != 1 || len(repos[0].Refs) != 1 || strings.ContainsAny(repos[0].Refs[0], "*!") {
			return errors.New("say what to build: {cron: …, ref: main}, or {cron: …, object: app/context.tar.gz}")
		}
		s.Kind, s.Name = events.KindGit, fullRef(repos[0].Refs[0])
	}
	places := buckets
	if s.Kind == events.KindGit {
		places = nil
		for _, g := range repos {
			places = append(places, g.Repo)
		}
	}
	if len(places) != 1 {
		return fmt.Errorf("%s %s could be in any of %d places: the trigger must listen to exactly one repository or bucket by its full name", s.Kind, s.Name, len(places))
	}
	s.Location = places[0]
	c := events.Change{Kind: s.Kind, Location: s.Location, Name: s.Name}
	for _, o := range t.On {
		if o.Object != nil { // its metadata is known once it is there
			plain := *o.Object
			plain.Metadata = nil
			o.Object = &plain
		}
		if o.Schedule == nil && o.matches(c) {
			return nil
		}
	}
	return fmt.Errorf("the trigger does not listen to %s %s, so it has nothing to build again", s.Kind, s.Name)
}
