package fair

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"
)

var now = time.Unix(1795400000, 0)

func item(id, tenant string) Item { return Item{ID: id, Tenant: tenant, Since: now} }

func mustPush(t testing.TB, q *Queue, i Item) {
	t.Helper()
	if err := q.Push(i); err != nil {
		t.Fatal(err)
	}
}

// order starts everything, one at a time.
func order(q *Queue, at time.Time) []string {
	var ids []string
	for {
		i, ok := q.Start(at)
		if !ok {
			return ids
		}
		ids = append(ids, i.ID)
		q.Done(i.ID)
	}
}

// A tenant with one build waits for one build of another, however many that has.
func TestOneAgainstAThousand(t *testing.T) {
	q := New(Config{Parallel: 1})
	for i := range 1000 {
		mustPush(t, q, item(fmt.Sprint("a", i), "a"))
	}
	first, _ := q.Start(now)
	mustPush(t, q, item("b", "b"))
	q.Done(first.ID)
	second, _ := q.Start(now)
	q.Done(second.ID)
	third, _ := q.Start(now)
	if second.ID != "b" && third.ID != "b" {
		t.Errorf("started %s, %s, %s", first.ID, second.ID, third.ID)
	}
}

func TestPriorities(t *testing.T) {
	q := New(Config{Parallel: 1, Aging: time.Hour})
	for n, rank := range []int{3, 1, 2, 0, 1} {
		i := item(fmt.Sprintf("%d-%d", rank, n), "a")
		i.Rank = rank
		mustPush(t, q, i)
	}
	if got := fmt.Sprint(order(q, now)); got != "[0-3 1-1 1-4 2-2 3-0]" {
		t.Error(got)
	}
	// What has waited long goes before what is urgent and new.
	old := item("old", "a")
	old.Rank, old.Since = 3, now.Add(-2*time.Hour)
	urgent := item("urgent", "a")
	mustPush(t, q, old)
	mustPush(t, q, urgent)
	if got := fmt.Sprint(order(q, now)); got != "[old urgent]" {
		t.Error(got)
	}
}

// A build of four CPUs counts as four.
func TestCosts(t *testing.T) {
	q := New(Config{Parallel: 1})
	for i := range 8 {
		large := item(fmt.Sprint("L", i), "large")
		large.Need.CPUMillis = 4000
		mustPush(t, q, large)
		for j := range 4 {
			mustPush(t, q, item(fmt.Sprint("s", i, j), "small"))
		}
	}
	share := map[byte]int64{}
	for range 25 {
		i, _ := q.Start(now)
		q.Done(i.ID)
		share[i.ID[0]] += i.cost()
	}
	if d := share['L'] - share['s']; d < -4 || d > 4 {
		t.Errorf("shares %v", share)
	}
}

func TestBounds(t *testing.T) {
	q := New(Config{Parallel: 1, Max: 3, TenantMax: 2, Capacity: Resources{CPUMillis: 2000, Memory: 100}})
	mustPush(t, q, item("1", "a"))
	mustPush(t, q, item("2", "a"))
	if err := q.Push(item("3", "a")); !errors.Is(err, ErrFull) {
		t.Errorf("a tenant's third: %v", err)
	}
	mustPush(t, q, item("3", "b"))
	if err := q.Push(item("4", "c")); !errors.Is(err, ErrFull) {
		t.Errorf("the fourth in all: %v", err)
	}
	big := item("5", "b")
	big.Need.Memory = 101
	if err := q.Push(big); !errors.Is(err, ErrTooLarge) {
		t.Errorf("more than there is: %v", err)
	}
	q.Restore(item("4", "c"))
	if !q.Remove("2") || q.Remove("2") || q.Waiting() != 3 {
		t.Errorf("%d wait", q.Waiting())
	}
}

// A large build is not passed over for ever by small ones that fit.
func TestRoomForTheLarge(t *testing.T) {
	q := New(Config{Parallel: 10, Capacity: Resources{Memory: 10}, Patience: time.Minute})
	small := func(n int) Item { i := item(fmt.Sprint("s", n), "a"); i.Need.Memory = 4; return i }
	large := item("large", "b")
	large.Need.Memory = 8
	mustPush(t, q, small(0))
	first, _ := q.Start(now)
	mustPush(t, q, large)
	mustPush(t, q, small(1))
	second, ok := q.Start(now)
	if !ok || second.ID != "s1" {
		t.Fatalf("what fits is not started: %v", second)
	}
	mustPush(t, q, small(2))
	later := now.Add(2 * time.Minute)
	q.Done(first.ID)
	if i, ok := q.Start(later); ok {
		t.Errorf("%s was started before what has waited long", i.ID)
	}
	q.Done(second.ID)
	if i, ok := q.Start(later); !ok || i.ID != "large" {
		t.Errorf("started %v", i)
	}
}

// Whatever is pushed, started and removed: no build is lost or started twice,
// no bound is broken, builds of a group that run alone do, and while builds
// that may run wait no slot is idle.
func TestProperties(t *testing.T) {
	for seed := range uint64(300) {
		rng := rand.New(rand.NewPCG(seed, 1))
		cfg := Config{Parallel: 1 + rng.IntN(4), Max: 40, TenantMax: 20}
		if seed%2 == 0 {
			cfg.Capacity = Resources{CPUMillis: 8000, Memory: 16}
		}
		q := New(cfg)
		waits, runs, ended := map[string]Item{}, map[string]Item{}, map[string]bool{}
		at := now
		for n := range 400 {
			at = at.Add(time.Duration(rng.IntN(60)) * time.Second)
			switch rng.IntN(4) {
			case 0, 1:
				i := Item{
					ID: fmt.Sprint(n), Tenant: string(rune('a' + rng.IntN(4))), Group: string(rune('g' + rng.IntN(2))),
					Alone: rng.IntN(3) == 0, Rank: rng.IntN(4), Since: at,
					Need: Resources{CPUMillis: int64(rng.IntN(10)) * 1000, Memory: int64(rng.IntN(17))},
				}
				if q.Push(i) == nil {
					waits[i.ID] = i
				}
			case 2:
				for id := range waits {
					if q.Remove(id) {
						delete(waits, id)
						ended[id] = true
					} else {
						t.Fatalf("seed %d: %s was lost", seed, id)
					}
					break
				}
			case 3:
				for id := range runs {
					q.Done(id)
					delete(runs, id)
					ended[id] = true
					break
				}
			}
			for {
				i, ok := q.Start(at)
				if !ok {
					break
				}
				if _, waited := waits[i.ID]; !waited || ended[i.ID] {
					t.Fatalf("seed %d: %s was started and did not wait", seed, i.ID)
				}
				for _, other := range runs {
					if i.Alone && other.Tenant == i.Tenant && other.Group == i.Group {
						t.Fatalf("seed %d: %s runs beside %s", seed, i.ID, other.ID)
					}
				}
				delete(waits, i.ID)
				runs[i.ID] = i
			}
			check(t, seed, q, cfg, waits, runs)
		}
	}
}

func check(t *testing.T, seed uint64, q *Queue, cfg Config, waits, runs map[string]Item) {
	t.Helper()
	var used Resources
	for _, i := range runs {
		used = used.plus(i.Need, 1)
	}
	switch {
	case len(runs) > cfg.Parallel || q.Running() != len(runs) || q.Waiting() != len(waits) || len(waits) > cfg.Max:
		t.Fatalf("seed %d: %d run, %d wait", seed, len(runs), len(waits))
	case !(Resources{}).fits(used, cfg.Capacity) && cfg.Capacity.Memory > 0, cfg.Capacity.Memory > 0 && (used.Memory > cfg.Capacity.Memory || used.CPUMillis > cfg.Capacity.CPUMillis):
		t.Fatalf("seed %d: %+v is used", seed, used)
	}
	if len(runs) == 0 && len(waits) > 0 {
		t.Fatalf("seed %d: nothing runs and %d wait", seed, len(waits))
	}
}

// With everybody waiting all the time, everybody gets the same.
func TestShares(t *testing.T) {
	q := New(Config{Parallel: 3})
	got := map[string]int64{}
	n := 0
	push := func(tenant string, cpu int64) {
		n++
		i := item(fmt.Sprint(n), tenant)
		i.Need.CPUMillis = cpu
		mustPush(t, q, i)
	}
	needs := map[string]int64{"one": 1000, "two": 2000, "half": 500, "three": 3000}
	for tenant, cpu := range needs {
		push(tenant, cpu)
		push(tenant, cpu) // so that it always waits
	}
	for range 4000 {
		i, ok := q.Start(now)
		if !ok {
			t.Fatal("nothing can be started")
		}
		got[i.Tenant] += i.cost()
		q.Done(i.ID)
		push(i.Tenant, needs[i.Tenant])
	}
	for a, x := range got {
		for b, y := range got {
			if x*10 > y*13 {
				t.Errorf("%s got %d and %s %d", a, x, b, y)
			}
		}
	}
}

func BenchmarkStart(b *testing.B) {
	q := New(Config{Parallel: 1})
	for i := range 5000 {
		mustPush(b, q, Item{ID: fmt.Sprint(i), Tenant: fmt.Sprint(i % 50), Rank: i % 4, Since: now})
	}
	for b.Loop() {
		i, ok := q.Start(now)
		if !ok {
			b.Fatal("empty")
		}
		q.Done(i.ID)
		i.Since = now
		mustPush(b, q, i)
	}
}
