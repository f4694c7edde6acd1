package local

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/kilnhook/kiln/functions/record"
	"github.com/kilnhook/kiln/infra/local/api"
)

// Bounds beyond which the doctor has something to say.
const (
	lowSpace  = 2 << 30 // bytes
	longQueue = 100     // builds
	doctorAge = 10 * time.Second
)

func (s *Stack) serveDoctor(w http.ResponseWriter, r *http.Request) error {
	ctx, cancel := context.WithTimeoutCause(r.Context(), doctorAge, errors.New("it takes too long"))
	defer cancel()
	writeJSON(w, http.StatusOK, s.diagnose(ctx))
	return nil
}

// diagnose looks whether everything a build needs is in order.
func (s *Stack) diagnose(ctx context.Context) []api.Check {
	return []api.Check{
		s.checkExecutor(ctx), s.checkSpace(), s.checkLedger(ctx), s.checkRegistry(ctx), s.checkGit(ctx),
		s.checkQueue(), s.checkSweep(ctx), s.checkDeadLetters(ctx), s.checkSubscribers(),
	}
}

// finding makes a check of what went wrong, if something did.
func finding(name, detail string, err error, advice string) api.Check {
	if err != nil {
		return api.Check{Name: name, Detail: err.Error(), Advice: advice}
	}
	return api.Check{Name: name, OK: true, Detail: detail}
}

func (s *Stack) checkExecutor(ctx context.Context) api.Check {
	args := append(append([]string{}, s.cfg.Executor[1:]...), "version")
	cmd := exec.CommandContext(ctx, s.cfg.Executor[0], args...)
	cmd.Env = s.cfg.Env
	out, err := cmd.CombinedOutput()
	if _, ran := errors.AsType[*exec.ExitError](err); ran {
		err = nil // it runs; what it makes of the word is its own business
	}
	first, _, _ := strings.Cut(string(out), "\n")
	return finding("executor", s.cfg.Executor[0]+": "+first, err, "name a program that runs with --executor")
}

func (s *Stack) checkSpace() api.Check {
	var st unix.Statfs_t
	err := unix.Statfs(s.cfg.Dir, &st)
	free := int64(st.Bavail) * st.Bsize
	if err == nil && free < lowSpace {
		err = fmt.Errorf("%d MiB are free on the disk of %s", free>>20, s.cfg.Dir)
	}
	return finding("disk", fmt.Sprintf("%d GiB are free on the disk of %s", free>>30, s.cfg.Dir), err, "free some, or let older builds go with --keep and --keep-size")
}

func (s *Stack) checkLedger(ctx context.Context) api.Check {
	const key = "doctor/check"
	err := s.ledger.Delete(ctx, key)
	if err == nil {
		_, err = s.ledger.Create(ctx, key, []byte("ok"))
	}
	if err == nil {
		_, _, err = s.ledger.Get(ctx, key)
	}
	return finding("ledger", "can be written and read", errors.Join(err, s.ledger.Delete(ctx, key)), "look at the disk and the owner of "+s.path("ledger"))
}

func (s *Stack) checkRegistry(ctx context.Context) api.Check {
	var err error
	if !s.client.Reachable(ctx, s.URL()+"/v2/") {
		err = fmt.Errorf("nothing answers at %s/v2/", s.URL())
	}
	return finding("registry", "answers at "+s.Registry(), err, "see the log of kiln up")
}

func (s *Stack) checkGit(ctx context.Context) api.Check {
	out, err := exec.CommandContext(ctx, "git", "version").Output()
	first, _, _ := strings.Cut(string(out), "\n")
	return finding("git", first, err, "install git")
}

func (s *Stack) checkQueue() api.Check {
	queued, running := s.launcher.Load()
	detail := fmt.Sprintf("%d builds wait, %d run", queued, running)
	var err error
	if queued > longQueue {
		err = errors.New(detail)
	}
	return finding("queue", detail, err, "raise --max-parallel, or look who sends so much with kiln builds")
}

func (s *Stack) checkSweep(ctx context.Context) api.Check {
	return finding("sweep", "went through", s.Sweep(ctx), "what it says is tried again; see the log of kiln up")
}

func (s *Stack) checkDeadLetters(ctx context.Context) api.Check {
	keys, err := s.ledger.List(ctx, record.PoisonPrefix, "", 100)
	if err == nil && len(keys) > 0 {
		err = fmt.Errorf("%d requests could not be understood", len(keys))
	}
	return finding("dead letters", "there are none", err, "see kiln deadletters")
}

func (s *Stack) checkSubscribers() api.Check {
	refused, err := filepath.Glob(s.path("bus", "dead", "*.json"))
	if err == nil && len(refused) > 0 {
		err = fmt.Errorf("%d events were refused by webhooks for good", len(refused))
	}
	return finding("webhooks", fmt.Sprintf("%d get events, none refused one", len(s.cfg.Webhooks)), err, "see "+s.path("bus", "dead"))
}
