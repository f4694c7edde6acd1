package bus

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cloudevents/sdk-go/v2/event"
)

// newEvent is event number n of a source.
func newEvent(t testing.TB, source string, n int) event.Event {
	t.Helper()
	e := event.New()
	e.SetID("id-" + strconv.Itoa(n))
	e.SetSource(source)
	e.SetType("dev.kilnhook.build.finished.v1")
	e.SetTime(time.Unix(1795400000+int64(n), 0))
	e.SetExtension("outcome", "success")
	if err := e.SetData("application/json", map[string]any{"n": n, "text": "two\nlines"}); err != nil {
		t.Fatal(err)
	}
	return e
}

func open(t testing.TB, dir string, opts Options) *Bus {
	t.Helper()
	b, err := Open(dir, opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { b.Close() })
	return b
}

func publish(t testing.TB, b *Bus, e event.Event) uint64 {
	t.Helper()
	seq, err := b.Publish(t.Context(), e)
	if err != nil {
		t.Fatal(err)
	}
	return seq
}

// ids reads everything after a place and returns "seq:id" for each.
func ids(t testing.TB, b *Bus, after uint64) []string {
	t.Helper()
	stored, err := b.Read(t.Context(), after, 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, s := range stored {
		got = append(got, fmt.Sprintf("%d:%s", s.Seq, s.Event.ID()))
	}
	return got
}

// want is "seq:id" of events from and to, which have the places of their numbers.
func want(from, to int) []string {
	var list []string
	for n := from; n <= to; n++ {
		list = append(list, fmt.Sprintf("%d:id-%d", n, n))
	}
	return list
}

func equal(t *testing.T, what string, got, want []string) {
	t.Helper()
	if strings.Join(got, " ") != strings.Join(want, " ") {
		t.Errorf("%s: %v\nwant %v", what, got, want)
	}
}

func TestPublishAndRead(t *testing.T) {
	b := open(t, t.TempDir(), Options{})
	if b.Last() != 0 || len(ids(t, b, 0)) != 0 {
		t.Error("a new bus is not empty")
	}
	for n := 1; n <= 5; n++ {
		if seq := publish(t, b, newEvent(t, "/s", n)); seq != uint64(n) {
			t.Errorf("event %d has place %d", n, seq)
		}
	}
	equal(t, "all", ids(t, b, 0), want(1, 5))
	equal(t, "after 3", ids(t, b, 3), want(4, 5))
	equal(t, "after the end", ids(t, b, 99), nil)
	stored, err := b.Read(t.Context(), 1, 1)
	if err != nil || len(stored) != 1 {
		t.Fatal(stored, err)
	}
	e := newEvent(t, "/s", 2)
	if got := stored[0].Event; got.Source() != "/s" || got.Extensions()["outcome"] != "success" || string(got.Data()) != string(e.Data()) || !got.Time().Equal(e.Time()) {
		t.Errorf("event came back as %s", got)
	}
}

// The same source and id is the same event, before and after a restart; the
// same id of another source is not, nor are source and id divided elsewhere.
func TestPublishIsIdempotent(t *testing.T) {
	dir := t.TempDir()
	b := open(t, dir, Options{})
	first := publish(t, b, newEvent(t, "/s", 1))
	second := publish(t, b, newEvent(t, "/s", 2))
	if again := publish(t, b, newEvent(t, "/s", 1)); again != first {
		t.Errorf("published again: place %d, want %d", again, first)
	}
	b.Close()
	b = open(t, dir, Options{})
	if again := publish(t, b, newEvent(t, "/s", 2)); again != second {
		t.Errorf("published again after a restart: place %d, want %d", again, second)
	}
	if other := publish(t, b, newEvent(t, "/t", 1)); other != 3 {
		t.Errorf("the same id of another source: place %d, want 3", other)
	}
	e := newEvent(t, "/s", 1)
	e.SetSource("/si")
	e.SetID("d-1")
	if other := publish(t, b, e); other != 4 {
		t.Errorf("source and id divided elsewhere: place %d, want 4", other)
	}
}

func TestPublishRefuses(t *testing.T) {
	b := open(t, t.TempDir(), Options{})
	if _, err := b.Publish(t.Context(), event.New()); err == nil {
		t.Error("an event without id, type and source was accepted")
	}
	huge := newEvent(t, "/s", 1)
	if err := huge.SetData("application/json", strings.Repeat("x", MaxEvent)); err != nil {
		t.Fatal(err)
	}
	if _, err := b.Publish(t.Context(), huge); err == nil {
		t.Error("a huge event was accepted")
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(errors.New("gone"))
	if _, err := b.Publish(ctx, newEvent(t, "/s", 1)); err == nil || !strings.Contains(err.Error(), "gone") {
		t.Errorf("with an ended context: %v", err)
	}
	b.Close()
	if _, err := b.Publish(t.Context(), newEvent(t, "/s", 1)); !errors.Is(err, ErrClosed) {
		t.Errorf("after Close: %v", err)
	}
	if _, err := b.Read(t.Context(), 0, 1); !errors.Is(err, ErrClosed) {
		t.Errorf("read after Close: %v", err)
	}
	if err := b.Close(); err != nil {
		t.Errorf("second Close: %v", err)
	}
}

func TestOneProcessAtATime(t *testing.T) {
	dir := t.TempDir()
	b := open(t, dir, Options{})
	if _, err := Open(dir, Options{}); !errors.Is(err, ErrInUse) {
		t.Errorf("second Open: %v, want ErrInUse", err)
	}
	b.Close()
	open(t, dir, Options{})
}

// Many publishers of the same events at once, while a reader watches: every
// event has one place, places have no gap, and the reader sees each once in order.
func TestConcurrentPublish(t *testing.T) {
	const publishers, events = 8, 40
	b := open(t, t.TempDir(), Options{SegmentBytes: 4 << 10})
	var places sync.Map
	var wg sync.WaitGroup
	for range publishers {
		wg.Go(func() {
			for n := range events {
				seq, err := b.Publish(t.Context(), newEvent(t, "/s", n))
				if err != nil {
					t.Error(err)
					return
				}
				if other, loaded := places.LoadOrStore(n, seq); loaded && other != seq {
					t.Errorf("event %d has places %d and %d", n, other, seq)
				}
			}
		})
	}
	seen := map[string]bool{}
	next := uint64(1)
	for s, err := range b.Watch(t.Context(), 0) {
		if err != nil {
			t.Fatal(err)
		}
		if s.Seq != next || seen[s.Event.ID()] {
			t.Fatalf("saw event %s at place %d, expected place %d", s.Event.ID(), s.Seq, next)
		}
		seen[s.Event.ID()] = true
		if next++; next > events {
			break
		}
	}
	wg.Wait()
	if b.Last() != events {
		t.Errorf("last place %d, want %d", b.Last(), events)
	}
}

// Cut at any byte, as a crash may, the spool opens with all whole records and
// goes on from there.
func TestTornTail(t *testing.T) {
	full := t.TempDir()
	b := open(t, full, Options{})
	var ends []int64 // offset at which each record ends
	for n := 1; n <= 3; n++ {
		publish(t, b, newEvent(t, "/s", n))
		ends = append(ends, b.segments[0].size)
	}
	b.Close()
	name := segmentName(1)
	data, err := os.ReadFile(filepath.Join(full, name))
	if err != nil {
		t.Fatal(err)
	}
	for cut := int64(0); cut <= int64(len(data)); cut += 7 {
		whole := 0
		for _, end := range ends {
			if end <= cut {
				whole++
			}
		}
		for _, tail := range []string{"", "\x00\x00\x00\x00\x00\x00\x00\x00", "garbage that is long enough for a header of a record"} {
			dir := t.TempDir()
			if err := os.WriteFile(filepath.Join(dir, name), append(data[:cut:cut], tail...), 0o600); err != nil {
				t.Fatal(err)
			}
			b, err := Open(dir, Options{})
			if err != nil {
				t.Fatalf("cut at %d with tail %q: %v", cut, tail, err)
			}
			equal(t, fmt.Sprintf("cut at %d", cut), ids(t, b, 0), want(1, whole))
			if seq := publish(t, b, newEvent(t, "/s", whole+1)); seq != uint64(whole+1) {
				t.Errorf("cut at %d: the next event has place %d, want %d", cut, seq, whole+1)
			}
			b.Close()
			b = open(t, dir, Options{})
			equal(t, fmt.Sprintf("cut at %d, opened again", cut), ids(t, b, 0), want(1, whole+1))
			b.Close()
		}
	}
}

func segmentName(first int) string { return fmt.Sprintf("%020d%s", first, segmentSuffix) }

// A fault before the end would lose what was acknowledged: the bus says so and
// does not open.
func TestCorruptionIsNotHidden(t *testing.T) {
	make3 := func() string {
		dir := t.TempDir()
		b := open(t, dir, Options{SegmentBytes: 1})
		for n := 1; n <= 3; n++ {
			publish(t, b, newEvent(t, "/s", n))
		}
		b.Close()
		return dir
	}
	dir := make3()
	name := filepath.Join(dir, segmentName(2))
	data, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	data[len(data)-1] ^= 1
	if err := os.WriteFile(name, data, 0o600); err != nil {
		t.Fatal(err)
	}
	if b, err := Open(dir, Options{}); err == nil {
		t.Errorf("opened with a flipped bit in the middle; events %v", ids(t, b, 0))
	}
	dir = make3()
	if err := os.Remove(filepath.Join(dir, segmentName(2))); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(dir, Options{}); err == nil || !strings.Contains(err.Error(), "missing") {
		t.Errorf("opened with a file missing in the middle: %v", err)
	}
	// The lock is released when Open fails.
	if _, err := Open(dir, Options{}); errors.Is(err, ErrInUse) {
		t.Error("a failed Open keeps the lock")
	}
}

// Old files are dropped, the newest KeepEvents events stay, and places go on
// counting over restarts.
func TestRetention(t *testing.T) {
	dir := t.TempDir()
	opts := Options{SegmentBytes: 1, KeepEvents: 3}
	b := open(t, dir, opts)
	for n := 1; n <= 10; n++ {
		publish(t, b, newEvent(t, "/s", n))
	}
	got := ids(t, b, 0)
	if len(got) < 3 || len(got) > 5 || got[len(got)-1] != "10:id-10" {
		t.Errorf("kept %v", got)
	}
	equal(t, "read from before the oldest", ids(t, b, 1), got)
	b.Close()
	b = open(t, dir, opts)
	equal(t, "after a restart", ids(t, b, 0), got)
	if seq := publish(t, b, newEvent(t, "/s", 11)); seq != 11 {
		t.Errorf("place %d, want 11", seq)
	}
	if len(b.places) > 6 {
		t.Errorf("%d identities are kept of dropped events", len(b.places))
	}
}

// What a pinned reader has not read is not dropped.
func TestPinsHoldEvents(t *testing.T) {
	b := open(t, t.TempDir(), Options{SegmentBytes: 1, KeepEvents: 1})
	b.pin("slow", 2)
	for n := 1; n <= 10; n++ {
		publish(t, b, newEvent(t, "/s", n))
	}
	equal(t, "for the slow reader", ids(t, b, 2), want(3, 10))
	b.pin("slow", 10)
	publish(t, b, newEvent(t, "/s", 11))
	if got := ids(t, b, 0); len(got) > 3 {
		t.Errorf("still kept: %v", got)
	}
}

// Watch replays, then follows, and ends with its context or the bus.
func TestWatch(t *testing.T) {
	b := open(t, t.TempDir(), Options{})
	publish(t, b, newEvent(t, "/s", 1))
	publish(t, b, newEvent(t, "/s", 2))
	why := errors.New("enough")
	ctx, cancel := context.WithCancelCause(t.Context())
	defer cancel(nil)
	var got []string
	var last error
	for s, err := range b.Watch(ctx, 1) {
		if err != nil {
			last = err
			break
		}
		got = append(got, s.Event.ID())
		switch len(got) {
		case 1:
			third := newEvent(t, "/s", 3)
			go func() {
				if _, err := b.Publish(t.Context(), third); err != nil {
					t.Error(err)
				}
			}()
		case 2:
			cancel(why)
		}
	}
	equal(t, "watched", got, []string{"id-2", "id-3"})
	if !errors.Is(last, why) {
		t.Errorf("ended with %v, want the cause", last)
	}
	time.AfterFunc(20*time.Millisecond, func() { b.Close() })
	for _, err := range b.Watch(t.Context(), 3) {
		if !errors.Is(err, ErrClosed) {
			t.Errorf("ended with %v, want ErrClosed", err)
		}
	}
}

// childDir tells this test binary that it is the process that will be killed.
const childDir = "KILN_TEST_BUS_CHILD"

// A process is killed while it publishes. Whatever it saw acknowledged is in
// the spool, once, in order; and the spool opens.
func TestKilledWhilePublishing(t *testing.T) {
	if dir := os.Getenv(childDir); dir != "" {
		b := open(t, dir, Options{SegmentBytes: 16 << 10})
		for n := int(b.Last()) + 1; ; n++ {
			if _, err := b.Publish(t.Context(), newEvent(t, "/s", n)); err != nil {
				t.Fatal(err)
			}
			fmt.Printf("\nacknowledged %d\n", n)
		}
	}
	dir := t.TempDir()
	acknowledged := 0
	for round := range 4 {
		cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestKilledWhilePublishing$")
		cmd.Env = append(os.Environ(), childDir+"="+dir)
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		lines := bufio.NewScanner(out)
		for seen := 0; seen < 30+7*round && lines.Scan(); {
			if number, ok := strings.CutPrefix(lines.Text(), "acknowledged "); ok {
				if acknowledged, err = strconv.Atoi(number); err != nil {
					t.Fatal(err)
				}
				seen++
			}
		}
		if err := cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		_ = cmd.Wait()
		b, err := Open(dir, Options{})
		if err != nil {
			t.Fatalf("round %d: %v", round, err)
		}
		last := int(b.Last())
		if last < acknowledged || acknowledged == 0 {
			t.Errorf("round %d: %d events were acknowledged, the spool has %d", round, acknowledged, last)
		}
		equal(t, "spool", ids(t, b, 0), want(1, last))
		b.Close()
	}
}

func FuzzOpen(f *testing.F) {
	dir := f.TempDir()
	b := open(f, dir, Options{})
	publish(f, b, newEvent(f, "/s", 1))
	publish(f, b, newEvent(f, "/s", 2))
	b.Close()
	data, err := os.ReadFile(filepath.Join(dir, segmentName(1)))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(data)
	f.Add([]byte("\xff\xff\xff\xff"))
	f.Fuzz(func(t *testing.T, data []byte) {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, segmentName(1)), data, 0o600); err != nil {
			t.Fatal(err)
		}
		b, err := Open(dir, Options{})
		if err != nil {
			t.Fatalf("a file that ends in anything must open: %v", err)
		}
		defer b.Close()
		last := b.Last()
		if seq := publish(t, b, newEvent(t, "/new", 1)); seq != last+1 && len(data) == 0 {
			t.Errorf("place %d after %d", seq, last)
		}
	})
}

func BenchmarkPublish(b *testing.B) {
	bus := open(b, b.TempDir(), Options{})
	var mu sync.Mutex
	n := 0
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			mu.Lock()
			n++
			e := newEvent(b, "/s", n)
			mu.Unlock()
			if _, err := bus.Publish(b.Context(), e); err != nil {
				b.Error(err)
			}
		}
	})
}
