package local

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"

	"github.com/kilnhook/kiln/events"
	"github.com/kilnhook/kiln/functions/dispatch"
	"github.com/kilnhook/kiln/functions/record"
	"github.com/kilnhook/kiln/infra/local/durable"
)

// A stack may be started at another address. Images are named by it, so what
// was asked for at an older address goes on as follows: what has been pushed is
// verified and tagged in the registry where it is, whatever that is called now;
// what has not is cancelled and built again for the new address.

// readAddresses reads the addresses that the registry has had, and notes the
// present one.
func (s *Stack) readAddresses() error {
	path := s.path("registries")
	data, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("read addresses of the registry: %w", err)
	}
	s.addresses = strings.Fields(string(data))
	if slices.Contains(s.addresses, s.Registry()) {
		return nil
	}
	s.addresses = append(s.addresses, s.Registry())
	return durable.WriteFile(path, []byte(strings.Join(s.addresses, "\n")+"\n"), 0o600)
}

// elsewhere reports whether a repository is named by an older address of ours.
func (s *Stack) elsewhere(repository string) bool {
	host, _, _ := strings.Cut(repository, "/")
	return host != s.Registry() && slices.Contains(s.addresses, host)
}

// here is a repository as it is to be reached now.
func (s *Stack) here(repository string) string {
	if !s.elsewhere(repository) {
		return repository
	}
	_, path, _ := strings.Cut(repository, "/")
	return s.Registry() + "/" + path
}

func (s *Stack) checkDigest(ctx context.Context, repository, digest string) error {
	return s.client.CheckDigest(ctx, s.here(repository), digest)
}

func (s *Stack) moveTags(ctx context.Context, repository, digest string, tags []string) error {
	return s.client.MoveTags(ctx, s.here(repository), digest, tags)
}

func (s *Stack) pushIndex(ctx context.Context, repository string, platforms []events.PlatformInfo) (digest, mediaType string, err error) {
	return s.client.PushIndex(ctx, s.here(repository), platforms)
}

// sweepMoved builds again, for the present address, what was to go to an older
// one and has no outcome yet.
func (s *Stack) sweepMoved(ctx context.Context) error {
	if len(s.addresses) < 2 {
		return nil
	}
	keys, err := s.ledger.List(ctx, record.OpenPrefix, "", 0)
	if err != nil {
		return fmt.Errorf("look for builds for an older address: %w", err)
	}
	var errs []error
	for _, key := range keys {
		var open record.Open
		if _, err := record.Load(ctx, s.ledger, key, &open); err != nil || !s.elsewhere(open.Request.Image) {
			continue // finished meanwhile, or to be swept as any other
		}
		// A file of triggers that names the older address itself would only
		// name it again.
		if t, ok := s.set.Named(open.Request.Trigger); !ok || s.elsewhere(t.Again(open.Request.Change).Request.Image) {
			continue
		}
		errs = append(errs, s.moveBuild(ctx, open.Request.BuildID))
	}
	return errors.Join(errs...)
}

func (s *Stack) moveBuild(ctx context.Context, id string) error {
	if _, _, err := s.ledger.Get(ctx, record.ResultKey(id)); !errors.Is(err, fs.ErrNotExist) {
		return err // what is done is done there
	}
	cause := "the stack moved to " + s.Registry()
	decision, err := s.dispatcher.Rebuild(ctx, id, cause+" "+id)
	if err != nil && !errors.Is(err, dispatch.ErrOutdated) {
		return err
	}
	err = s.dispatcher.Cancel(ctx, id, cause)
	if err != nil && !errors.Is(err, dispatch.ErrFinished) && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	s.cfg.Log.Warn("a build is made again for the new address", "build", id, "again", decision.BuildID)
	return nil
}
