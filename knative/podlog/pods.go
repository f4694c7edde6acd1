package podlog

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/kilnhook/kiln/functions/record"
	"github.com/kilnhook/kiln/infra/wait"
	"github.com/kilnhook/kiln/knative/launch"
)

const (
	// look is between two looks at pods of which nothing is read; it grows to slowest as
	// long as nobody reads the log and nothing is told of the build.
	look = time.Second
	// decideEvery is how often it is asked whether the outcome of a build is known,
	// where nobody says so.
	decideEvery = 5 * time.Second
	// lastWords is how long a log is followed when the outcome is known already: a
	// cancelled executor has half a minute to tidy up.
	lastWords = time.Minute
	// tries is how often the log of an executor that has ended is asked for.
	tries = 4
	// slowest is how long is waited at most until a log, or a pod, is asked for again.
	slowest = 15 * time.Second
)

// errUnused is why a tape ends that nobody reads any more.
var errUnused = errors.New("nobody reads the log any more")

// record fills a tape: with what is in the ledger, or else with what pods say until
// the outcome of the build is known. The error wraps fs.ErrNotExist if there are no
// pods and nobody has said that there were.
func (k *Keeper) record(ctx context.Context, t *tape) error {
	err := k.fetch(ctx, t)
	if err == nil {
		t.stored()
		return nil
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	r := reader{k: k, t: t, w: &writer{t: t, limit: k.cfg.MaxLog}, pods: map[string]*cursor{}}
	asked, pause := k.cfg.Now(), look
	for {
		before := t.length()
		decided := t.isDecided()
		over, err := r.round(ctx)
		if err != nil {
			return err
		}
		switch {
		case over && decided:
			return r.close()
		case t.unused(k.cfg.Now()):
			return errUnused
		case !decided && k.cfg.Now().Sub(asked) >= decideEvery:
			asked = k.cfg.Now()
			if err := k.decide(ctx, t); err != nil {
				k.cfg.Log.Warn("look for the end of a build; trying again", "build", t.id, "err", err)
			}
		}
		if pause = min(2*pause, slowest); t.isRead() || t.length() > before {
			pause = look
		}
		select {
		case <-time.After(pause):
		case <-t.poked:
			pause = look
		case <-r.news(decided):
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// decide finds out whether the outcome of a tape's build is known, or that of the build
// it is a part of: an executor that said nothing before will not then.
func (k *Keeper) decide(ctx context.Context, t *tape) error {
	for _, id := range slices.Compact([]string{t.id, t.whole}) {
		found, err := k.cfg.Ledger.List(ctx, record.ResultKey(id), "", 1)
		if err != nil {
			return err
		}
		if len(found) > 0 {
			t.mu.Lock()
			t.decide()
			t.mu.Unlock()
		}
	}
	return nil
}

// reader reads the pods of one Job, one after the other, onto a tape.
type reader struct {
	k    *Keeper
	t    *tape
	w    *writer
	pods map[string]*cursor // by name
}

// cursor is how far the log of a pod was read.
type cursor struct {
	last  time.Time // of the last line
	same  int       // lines of that time
	taken int       // lines
	whole bool      // the last time anything was read, it was read to its end
	done  bool
}

// news is closed when the outcome of the build becomes known; nil if it is.
func (r *reader) news(decided bool) <-chan struct{} {
	if decided {
		return nil
	}
	return r.t.decided
}

// round reads what the pods that there are have said. over says that each of them has
// said its last word.
func (r *reader) round(ctx context.Context) (over bool, err error) {
	list, err := r.k.cfg.Client.CoreV1().Pods(r.k.cfg.Namespace).List(ctx, metav1.ListOptions{LabelSelector: r.t.selector})
	if err != nil {
		r.k.cfg.Log.Warn("list pods of a build; trying again", "build", r.t.id, "err", err)
		return false, nil
	}
	if len(list.Items) == 0 && len(r.pods) == 0 && !r.t.isWanted() {
		return false, fmt.Errorf("build %s has no pod: %w", r.t.id, fs.ErrNotExist)
	}
	r.t.begin()
	slices.SortStableFunc(list.Items, func(a, b corev1.Pod) int {
		return cmp.Compare(a.CreationTimestamp.UnixNano(), b.CreationTimestamp.UnixNano())
	})
	over = true
	for i := range list.Items {
		p := &list.Items[i]
		c := r.pods[p.Name]
		if c == nil {
			c = &cursor{}
			r.pods[p.Name] = c
		}
		if c.done {
			continue
		}
		if err := r.pod(ctx, p, c); err != nil {
			return false, err
		}
		over = over && c.done
		if !c.done {
			break // what a later pod says comes after this one's words
		}
	}
	return over, nil
}

// pod reads the log of one pod, to its end if its executor has begun.
func (r *reader) pod(ctx context.Context, p *corev1.Pod, c *cursor) error {
	for failed := 0; ; {
		begun, ended := Phase(p)
		switch {
		case !begun && (ended || r.t.isDecided()):
			c.done = true
			return nil
		case !begun:
			return nil
		}
		before := c.taken
		tried, readErr, err := r.turn(ctx, p.Name, c, ended)
		if err != nil {
			return err
		}
		if ended && readErr == nil {
			c.done = true
			return nil
		}
		if failed++; readErr == nil || c.taken > before {
			failed = 0
		}
		now, err := r.k.cfg.Client.CoreV1().Pods(r.k.cfg.Namespace).Get(ctx, p.Name, metav1.GetOptions{})
		switch {
		case apierrors.IsNotFound(err):
			c.done = true
			if !c.whole {
				return r.gap(p.Name, "it was deleted before all was read")
			}
			return nil
		case err == nil:
			p = now
		}
		if failed >= tries && (ended || r.t.isDecided()) {
			c.done = true
			return r.gap(p.Name, fmt.Sprint(readErr))
		}
		if r.t.unused(r.k.cfg.Now()) {
			return errUnused
		}
		if !tried {
			continue // it has waited for its turn
		}
		if err := wait.For(ctx, min(look/2<<min(failed, 10), slowest)); err != nil {
			return err
		}
	}
}

// turn reads a log once, from the cursor on, when it is its turn; without tried it was
// not. readErr is why it was not read to its end.
func (r *reader) turn(ctx context.Context, pod string, c *cursor, ended bool) (tried bool, readErr, err error) {
	release, err := r.slot(ctx, ended)
	if err != nil || release == nil {
		return false, nil, err
	}
	defer release()
	before := c.taken
	readErr = r.read(ctx, pod, c, !ended)
	c.whole = readErr == nil || c.whole && c.taken == before
	if ctx.Err() != nil {
		return true, nil, context.Cause(ctx)
	}
	if own, ok := errors.AsType[*tapeError](readErr); ok {
		return true, nil, own
	}
	return true, readErr, nil
}

// gap says in the log that some of it is missing.
func (r *reader) gap(pod, why string) error {
	return r.w.note(r.k.cfg.Now(), fmt.Sprintf("the log of pod %s is not whole: %s", pod, why))
}

// close says so if there is nothing to say.
func (r *reader) close() error {
	if r.t.size == 0 {
		return r.w.note(r.k.cfg.Now(), noLog)
	}
	return nil
}

// Phase says whether the executor of a pod has begun, and whether it has ended.
func Phase(p *corev1.Pod) (begun, ended bool) {
	ended = p.Status.Phase == corev1.PodSucceeded || p.Status.Phase == corev1.PodFailed
	for _, c := range p.Status.ContainerStatuses {
		if c.Name != launch.Container {
			continue
		}
		if c.State.Terminated != nil {
			return !c.State.Terminated.StartedAt.IsZero(), true
		}
		return c.State.Running != nil, ended
	}
	return false, ended
}

// slot waits until one more log may be read; release makes room for the next. Logs of
// executors that have ended wait for each other only. Of those that run so many are
// followed and no more, but for those that somebody reads; for the others it returns no
// release after some time, or when something is told of the build: then it is seen
// whether the executor has ended.
func (r *reader) slot(ctx context.Context, ended bool) (release func(), err error) {
	slots, full := r.k.live, time.After(slowest)
	if ended {
		slots, full = r.k.ended, nil
	}
	select {
	case slots <- struct{}{}:
		return func() { <-slots }, nil
	default:
	}
	if !ended && r.t.isRead() {
		return func() {}, nil
	}
	var told, decided <-chan struct{}
	if !ended {
		told, decided = r.t.poked, r.news(r.t.isDecided())
	}
	select {
	case slots <- struct{}{}:
		return func() { <-slots }, nil
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	case <-full:
	case <-told:
	case <-decided:
	}
	return nil, nil // there is no error: it is not its turn
}

// read reads a log from the cursor on, onto the tape. With follow it goes on until the
// executor ends; without, what there is is all.
func (r *reader) read(ctx context.Context, pod string, c *cursor, follow bool) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	if follow {
		stop := make(chan struct{})
		defer close(stop)
		go r.watch(stop, cancel)
	}
	opts := &corev1.PodLogOptions{Container: launch.Container, Follow: follow, Timestamps: true}
	if !c.last.IsZero() {
		since := metav1.NewTime(c.last.Truncate(time.Second)) // no finer in the API
		opts.SinceTime = &since
	}
	body, err := r.k.cfg.Client.CoreV1().Pods(r.k.cfg.Namespace).GetLogs(pod, opts).Stream(ctx)
	if err != nil {
		return fmt.Errorf("read log of pod %s: %w", pod, err)
	}
	defer body.Close()
	if err := c.lines(body, !follow, r.w); err != nil {
		return fmt.Errorf("read log of pod %s: %w", pod, errors.Join(err, context.Cause(ctx)))
	}
	return nil
}

// watch ends the following of a log that nobody reads any more, or whose executor does
// not end though the outcome of its build is known, until stop is closed.
func (r *reader) watch(stop <-chan struct{}, cancel context.CancelCauseFunc) {
	ticker := time.NewTicker(idle / 2)
	defer ticker.Stop()
	var late <-chan time.Time
	decided := r.t.decided
	for {
		select {
		case <-decided:
			decided, late = nil, time.After(lastWords)
		case <-late:
			cancel(errors.New("the executor did not end"))
			return
		case <-ticker.C:
			if r.t.unused(r.k.cfg.Now()) {
				cancel(errUnused)
				return
			}
		case <-stop:
			return
		}
	}
}

// lines takes the lines of a log that were not taken before. Only with whole does one
// count that does not end.
func (c *cursor) lines(log io.Reader, whole bool, w *writer) error {
	again := c.same // lines of c.last that come once more
	in := newLineReader(log)
	for {
		line, ended, err := in.next()
		if len(line) > 0 && (ended || whole) {
			at, text := stamped(line)
			switch {
			case at.Before(c.last) && !at.IsZero():
			case at.Equal(c.last) && again > 0:
				again--
			default:
				if err := w.take(at, text); err != nil {
					return err
				}
				if !at.Equal(c.last) {
					c.last, c.same, again = at, 0, 0
				}
				c.same++
				c.taken++
			}
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}
