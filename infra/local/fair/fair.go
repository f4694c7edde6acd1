// Package fair decides which of the builds that wait is started next. It is
// pure: it starts nothing, reads no clock and is told what runs.
//
// Tenants take turns by deficit round robin: every turn a tenant is given a
// quantum, and a build is started when the tenant has saved what it costs. So
// each gets the same share of the machine, whatever it asks for and however
// much. Within a tenant the more urgent goes first, and of equals the older;
// what has waited long is as urgent as anything.
package fair

import (
	"errors"
	"slices"
	"time"
)

// Bounds of a Queue that says nothing else.
const (
	DefaultMax       = 10_000           // builds that wait in all
	DefaultTenantMax = 2_000            // builds of one tenant
	DefaultAging     = 30 * time.Minute // after which a build is as urgent as any
	DefaultPatience  = 10 * time.Minute // after which a build that finds no room is given it
)

// ErrFull says that no more builds may wait.
var ErrFull = errors.New("too many builds wait")

// ErrTooLarge says that a build needs more than there is.
var ErrTooLarge = errors.New("the build needs more than this machine has")

// Resources are what a build needs, or what there is. Zero needs nothing, and
// of what there is it means that it is not counted.
type Resources struct{ CPUMillis, Memory, Disk int64 }

// fits reports whether need fits into what is free of capacity.
func (need Resources) fits(used, capacity Resources) bool {
	one := func(need, used, capacity int64) bool { return capacity == 0 || need == 0 || used+need <= capacity }
	return one(need.CPUMillis, used.CPUMillis, capacity.CPUMillis) &&
		one(need.Memory, used.Memory, capacity.Memory) && one(need.Disk, used.Disk, capacity.Disk)
}

func (need Resources) plus(other Resources, sign int64) Resources {
	return Resources{need.CPUMillis + sign*other.CPUMillis, need.Memory + sign*other.Memory, need.Disk + sign*other.Disk}
}

// Item is a build that waits.
type Item struct {
	ID     string
	Tenant string
	Group  string    // of builds that may be told to run one after the other
	Alone  bool      // whether it waits until no other of its group runs
	Rank   int       // the lower, the more urgent
	Since  time.Time // when it began to wait
	Need   Resources
}

// cost is what a build takes of its tenant's share: one for each CPU it needs,
// and never nothing.
func (i Item) cost() int64 { return max(1, (i.Need.CPUMillis+999)/1000) }

// Config of a Queue. Zero values take the defaults above; no Capacity counts
// nothing.
type Config struct {
	Parallel       int // builds that may run at a time; required
	Max, TenantMax int
	Capacity       Resources
	Aging          time.Duration
	Patience       time.Duration
}

// Queue holds what waits and counts what runs. Its methods are not safe for
// concurrent use.
type Queue struct {
	cfg     Config
	tenants []*tenant // those with builds waiting, in the order of their turns
	running map[string]Item
	groups  map[string]int // running builds by tenant and group
	used    Resources
	waiting int
}

// tenant is one that has builds waiting.
type tenant struct {
	name    string
	deficit int64
	items   []Item // in the order in which they came
}

// New returns an empty Queue.
func New(cfg Config) *Queue {
	set := func(v *int, fallback int) {
		if *v <= 0 {
			*v = fallback
		}
	}
	set(&cfg.Parallel, 1)
	set(&cfg.Max, DefaultMax)
	set(&cfg.TenantMax, DefaultTenantMax)
	if cfg.Aging <= 0 {
		cfg.Aging = DefaultAging
	}
	if cfg.Patience <= 0 {
		cfg.Patience = DefaultPatience
	}
	return &Queue{cfg: cfg, running: map[string]Item{}, groups: map[string]int{}}
}

// Push puts a build in line. The error is ErrFull or ErrTooLarge.
func (q *Queue) Push(i Item) error {
	if !i.Need.fits(Resources{}, q.cfg.Capacity) {
		return ErrTooLarge
	}
	if q.waiting >= q.cfg.Max {
		return ErrFull
	}
	if n := q.find(i.Tenant); n >= 0 && len(q.tenants[n].items) >= q.cfg.TenantMax {
		return ErrFull
	}
	q.Restore(i)
	return nil
}

// Restore puts a build in line that was there before, whatever the bounds are
// now.
func (q *Queue) Restore(i Item) {
	n := q.find(i.Tenant)
	if n < 0 {
		q.tenants = append(q.tenants, &tenant{name: i.Tenant})
		n = len(q.tenants) - 1
	}
	q.tenants[n].items = append(q.tenants[n].items, i)
	q.waiting++
}

func (q *Queue) find(name string) int {
	return slices.IndexFunc(q.tenants, func(t *tenant) bool { return t.name == name })
}

// Start takes the build that is to be started now and counts it as running;
// false if none may be.
func (q *Queue) Start(now time.Time) (Item, bool) {
	if len(q.running) >= q.cfg.Parallel {
		return Item{}, false
	}
	if i, ok := q.starved(now); ok {
		if !i.Need.fits(q.used, q.cfg.Capacity) {
			return Item{}, false // what runs must end before it fits
		}
		q.take(q.find(i.Tenant), i.ID)
		return i, true
	}
	for idle := 0; idle < len(q.tenants); {
		// Who has a turn goes to the end of the line.
		t := q.tenants[0]
		q.tenants = append(q.tenants[1:len(q.tenants):len(q.tenants)], t)
		best := q.best(t, now)
		if best == nil {
			idle++
			continue
		}
		idle = 0
		if t.deficit++; t.deficit >= best.cost() {
			i := *best
			t.deficit -= i.cost()
			q.take(len(q.tenants)-1, i.ID)
			return i, true
		}
	}
	return Item{}, false
}

// starved is the build that has found no room for longest, if that is too long.
func (q *Queue) starved(now time.Time) (found Item, ok bool) {
	for _, t := range q.tenants {
		for _, i := range t.items {
			if i.Need == (Resources{}) || now.Sub(i.Since) < q.cfg.Patience || !q.mayRun(i) {
				continue
			}
			if !ok || i.Since.Before(found.Since) {
				found, ok = i, true
			}
		}
	}
	return found, ok
}

// best is the build that a tenant would start next; nil if none may be.
func (q *Queue) best(t *tenant, now time.Time) *Item {
	var best *Item
	rank := 0
	for n := range t.items {
		i := &t.items[n]
		r := i.Rank
		if now.Sub(i.Since) >= q.cfg.Aging {
			r = 0
		}
		if best != nil && r >= rank || !q.mayRun(*i) || !i.Need.fits(q.used, q.cfg.Capacity) {
			continue
		}
		best, rank = i, r
	}
	return best
}

// mayRun reports whether a build need not wait for another of its group.
func (q *Queue) mayRun(i Item) bool { return !i.Alone || q.groups[groupKey(i)] == 0 }

func groupKey(i Item) string { return i.Tenant + "\x00" + i.Group }

// take moves a build from those that wait to those that run.
func (q *Queue) take(n int, id string) {
	i := q.drop(n, id)
	q.running[i.ID] = i
	q.groups[groupKey(i)]++
	q.used = q.used.plus(i.Need, 1)
}

// drop takes a build out of a tenant's line. A tenant without builds keeps no
// savings.
func (q *Queue) drop(n int, id string) Item {
	t := q.tenants[n]
	at := slices.IndexFunc(t.items, func(i Item) bool { return i.ID == id })
	i := t.items[at]
	t.items = slices.Delete(t.items, at, at+1)
	q.waiting--
	if len(t.items) == 0 {
		q.tenants = slices.Delete(q.tenants, n, n+1)
	}
	return i
}

// Done says that a build runs no more.
func (q *Queue) Done(id string) {
	i, ok := q.running[id]
	if !ok {
		return
	}
	delete(q.running, id)
	if q.groups[groupKey(i)]--; q.groups[groupKey(i)] == 0 {
		delete(q.groups, groupKey(i))
	}
	q.used = q.used.plus(i.Need, -1)
}

// Remove takes a build out of the line and reports whether it was there.
func (q *Queue) Remove(id string) bool {
	for n, t := range q.tenants {
		if slices.ContainsFunc(t.items, func(i Item) bool { return i.ID == id }) {
			q.drop(n, id)
			return true
		}
	}
	return false
}

// Waiting is the number of builds in line.
func (q *Queue) Waiting() int { return q.waiting }

// Running is the number of builds that were started and are not done.
func (q *Queue) Running() int { return len(q.running) }
