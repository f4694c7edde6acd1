package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/kilnhook/kiln/functions/retain"
)

// retainEvery is how often it is looked for what is old.
const retainEvery = time.Hour

// keepFlags say how long builds are kept; their environment is read where they are
// defined.
type keepFlags struct{ age, logs, builds string }

// define adds the flags to a set.
func (f *keepFlags) define(fs *flag.FlagSet, p process) {
	or := func(value string) string {
		if value == "" {
			return "0"
		}
		return value
	}
	days := fmt.Sprintf("%d days", retain.Window/(24*time.Hour))
	fs.StringVar(&f.age, "keep", or(p.getenv("KILN_KEEP")), "how long builds that have ended and their logs stay, as 2160h; their records stay "+days+" at least, in which a change may be delivered again; 0 is for ever (KILN_KEEP)")
	fs.StringVar(&f.logs, "keep-logs", or(p.getenv("KILN_KEEP_LOGS")), "how long logs stay, if not as long as builds; 0 is as long (KILN_KEEP_LOGS)")
	fs.StringVar(&f.builds, "keep-builds", or(p.getenv("KILN_KEEP_BUILDS")), "how many builds stay, the newest, with their logs; records of the others stay "+days+"; 0 is all (KILN_KEEP_BUILDS)")
}

// rules reads the flags.
func (f keepFlags) rules() (retain.Rules, error) {
	var r retain.Rules
	for name, v := range map[string]struct {
		text string
		into *time.Duration
	}{"--keep": {f.age, &r.Age}, "--keep-logs": {f.logs, &r.Logs}} {
		d, err := time.ParseDuration(v.text)
		if err != nil || d < 0 || d > 0 && d < time.Hour {
			return r, fmt.Errorf("%s is %q, and may be 0 or a time of an hour or more, as 720h", name, v.text)
		}
		*v.into = d
	}
	var err error
	if r.Builds, err = strconv.Atoi(f.builds); err != nil || r.Builds < 0 {
		return r, fmt.Errorf("--keep-builds is %q, and may be a number from 0 on", f.builds)
	}
	if r.Age > 0 && r.Logs > r.Age {
		return r, errors.New("--keep-logs is longer than --keep: a log goes with its build")
	}
	return r, nil
}

// openRetention opens what removes old builds.
func (s *service) openRetention(context.Context) error {
	cfg := retain.Config{Ledger: s.ledger, Rules: s.cfg.keep, Now: s.cfg.now, Log: s.cfg.log}
	if s.local != nil {
		cfg.Forget = func(id string) error {
			if _, live := s.local.Status(id); live {
				return fmt.Errorf("build %s still runs", id)
			}
			return os.RemoveAll(filepath.Join(s.cfg.data, "builds", id))
		}
	}
	keeper, err := retain.New(cfg)
	if err != nil {
		return err
	}
	s.retain = keeper.Retain
	return nil
}
