package gitd

import (
	"context"
	"crypto/subtle"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/kilnhook/kiln/events"
	"github.com/kilnhook/kiln/infra/local/durable"
)

// reportedName is a file in a repository: the refs as they were last reported,
// "<id> <ref>" a line.
const reportedName = "kiln-reported"

// errNotOurs means that a report is about a repository elsewhere.
var errNotOurs = errors.New("not a repository of this server")

// Location is how changes name a repository of this server.
func Location(repo string) string { return "localhost/" + repo }

// RepoAt is the inverse of Location.
func RepoAt(location string) (repo string, ok bool) {
	repo, ok = strings.CutPrefix(location, "localhost/")
	return repo, ok && validRepo(repo)
}

// ReportHandler takes the hook's reports. It answers 200 and the lines for the
// pusher once every moved ref was accepted, 403 without this start's token,
// and 503 if something was not accepted.
func (s *Server) ReportHandler() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		given := strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer ")
		if subtle.ConstantTimeCompare([]byte(given), []byte(s.token)) != 1 {
			http.Error(w, "only the hook of this start may report", http.StatusForbidden)
			return
		}
		var rep report
		if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, 16<<20)).Decode(&rep); err != nil {
			http.Error(w, "not a report: "+err.Error(), http.StatusBadRequest)
			return
		}
		// The pusher may go away; what git took is reported all the same.
		lines, err := s.take(context.WithoutCancel(r.Context()), rep)
		if err != nil {
			s.cfg.Log.Warn("report of a push not accepted", "err", err)
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
			return
		}
		for _, line := range lines {
			if _, err := fmt.Fprintln(w, line); err != nil {
				return // the hook is gone; the report is taken
			}
		}
	})
}

// take tells of every ref in a report and notes it as reported.
func (s *Server) take(ctx context.Context, rep report) ([]string, error) {
	rel, err := filepath.Rel(s.realDir(), rep.Dir)
	repo, ok := strings.CutSuffix(filepath.ToSlash(rel), ".git")
	if err != nil || !ok || !validRepo(repo) {
		return nil, fmt.Errorf("take report of %q: %w", rep.Dir, errNotOurs)
	}
	var lines []string
	for _, m := range rep.Refs {
		told, err := s.cfg.OnChange(ctx, s.change(ctx, repo, m, rep.Options))
		if err != nil {
			return nil, fmt.Errorf("tell of %s in %s: %w", m.Ref, repo, err)
		}
		lines = append(lines, told...)
		if err := s.note(repo, m); err != nil {
			return nil, err
		}
	}
	return lines, nil
}

// realDir is the directory of repositories as pwd -P shows it.
func (s *Server) realDir() string {
	if dir, err := filepath.EvalSymlinks(s.cfg.Dir); err == nil {
		return dir
	}
	return s.cfg.Dir
}

func (s *Server) change(ctx context.Context, repo string, m move, options []string) events.Change {
	c := events.Change{
		Kind: events.KindGit, Location: Location(repo), Name: m.Ref, Before: m.Before, After: m.After,
		Time: s.cfg.Now().UTC(), PushOptions: options,
		Delivery: repo + " " + m.Ref + " " + m.Before + " " + m.After,
	}
	if s.cfg.CloneURL != nil {
		c.CloneURL = s.cfg.CloneURL(repo)
	}
	if !c.Deleted() {
		id, err := s.run(ctx, "-C", s.repoDir(repo), "rev-parse", "--verify", "--quiet", m.After+"^{commit}")
		if err == nil {
			if id = strings.TrimSpace(id); id != m.After {
				c.Commit = id
			}
		}
	}
	return c
}

// note remembers that a ref was reported at its new id.
func (s *Server) note(repo string, m move) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	refs, err := s.reported(repo)
	if err != nil {
		return err
	}
	if events.IsZeroID(m.After) {
		delete(refs, m.Ref)
	} else {
		refs[m.Ref] = m.After
	}
	lines := make([]string, 0, len(refs))
	for ref, id := range refs {
		lines = append(lines, id+" "+ref+"\n")
	}
	slices.Sort(lines)
	return durable.WriteFile(filepath.Join(s.repoDir(repo), reportedName), []byte(strings.Join(lines, "")), 0o600)
}

func (s *Server) reported(repo string) (map[string]string, error) {
	data, err := os.ReadFile(filepath.Join(s.repoDir(repo), reportedName))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("read reported refs: %w", err)
	}
	return parseRefs(string(data)), nil
}

// parseRefs reads "<id> <ref>" lines.
func parseRefs(text string) map[string]string {
	refs := map[string]string{}
	for line := range strings.Lines(text) {
		if id, ref, ok := strings.Cut(strings.TrimSuffix(line, "\n"), " "); ok {
			refs[ref] = id
		}
	}
	return refs
}

// compareEvery is how often Sweep asks every repository for its refs at most.
const compareEvery = 10 * time.Minute

// Sweep delivers the reports that wait in the spool, and then, the first time
// and every ten minutes, tells of every ref that is not where it was last
// reported to be. It goes on after an error and returns all of them joined.
func (s *Server) Sweep(ctx context.Context) error {
	spooled, err := filepath.Glob(filepath.Join(s.cfg.Hooks, spoolName, "*.push"))
	if err != nil {
		return fmt.Errorf("sweep git: %w", err)
	}
	var errs []error
	for _, path := range spooled {
		errs = append(errs, s.sweepSpooled(ctx, path))
	}
	if err := errors.Join(errs...); err != nil || !s.compareNow() {
		return err
	}
	repos, err := s.Repos()
	errs = append(errs, err)
	for _, repo := range repos {
		if ctx.Err() != nil {
			return errors.Join(append(errs, context.Cause(ctx))...)
		}
		errs = append(errs, s.reconcile(ctx, repo))
	}
	if err = errors.Join(errs...); err != nil {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.compared = time.Time{} // not all of it: again with the next sweep
	}
	return err
}

// compareNow reports whether it is time to ask every repository.
func (s *Server) compareNow() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.cfg.Now()
	if !s.compared.IsZero() && now.Sub(s.compared) < compareEvery {
		return false
	}
	s.compared = now
	return true
}

func (s *Server) sweepSpooled(ctx context.Context, path string) error {
	rep, err := readSpool(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil // its hook was faster
	}
	if err != nil {
		s.cfg.Log.Warn("drop a spooled push that cannot be read; its refs are compared instead", "err", err)
		return durable.Remove(path)
	}
	if _, err := s.take(ctx, rep); errors.Is(err, errNotOurs) {
		s.cfg.Log.Warn("drop a spooled push: the data directory was moved; its refs are compared instead", "err", err)
	} else if err != nil {
		return err
	}
	return durable.Remove(path)
}

// reconcile tells of the refs of one repository that moved unreported.
func (s *Server) reconcile(ctx context.Context, repo string) error {
	before, err := s.reported(repo)
	if err != nil {
		return err
	}
	out, err := s.run(ctx, "-C", s.repoDir(repo), "for-each-ref", "--format=%(objectname) %(refname)", "refs/heads", "refs/tags")
	if err != nil {
		return err
	}
	rep := report{Dir: filepath.Join(s.realDir(), filepath.FromSlash(repo)+".git")}
	now := parseRefs(out)
	for ref, id := range now {
		if before[ref] != id {
			rep.Refs = append(rep.Refs, move{Before: orZero(before[ref], id), After: id, Ref: ref})
		}
	}
	for ref, id := range before {
		if now[ref] == "" && (strings.HasPrefix(ref, "refs/heads/") || strings.HasPrefix(ref, "refs/tags/")) {
			rep.Refs = append(rep.Refs, move{Before: id, After: orZero("", id), Ref: ref})
		}
	}
	if len(rep.Refs) == 0 {
		return nil
	}
	slices.SortFunc(rep.Refs, func(a, b move) int { return strings.Compare(a.Ref, b.Ref) })
	_, err = s.take(ctx, rep)
	return err
}

// orZero is id, or as many zeros as like has digits if id is empty.
func orZero(id, like string) string {
	if id == "" {
		return strings.Repeat("0", len(like))
	}
	return id
}
