package launch

import (
	"slices"

	"github.com/kilnhook/kiln/events"
)

// queue holds the builds that wait. It is fair between tenants, which take
// turns, and first in, first out within one. Its methods are not safe for
// concurrent use.
type queue struct {
	turns   []string            // tenants that have builds waiting, whose turn it is first
	waiting map[string][]*build // by tenant, never empty
}

func (q *queue) push(b *build) {
	if q.waiting == nil {
		q.waiting = map[string][]*build{}
	}
	t := b.Request.Tenant
	if len(q.waiting[t]) == 0 {
		q.turns = append(q.turns, t)
	}
	q.waiting[t] = append(q.waiting[t], b)
}

// pop takes the next build that may run; nil if there is none. busy are the
// groups that have a build running: builds of theirs that are to wait for
// their elders stay.
func (q *queue) pop(busy map[string]int) *build {
	for _, tenant := range q.turns {
		builds := q.waiting[tenant]
		i := slices.IndexFunc(builds, func(b *build) bool { return mayRun(b, busy) })
		if i < 0 {
			continue
		}
		b := builds[i]
		q.drop(tenant, i)
		if n := slices.Index(q.turns, tenant); n >= 0 { // to the end of the line
			q.turns = append(slices.Delete(q.turns, n, n+1), tenant)
		}
		return b
	}
	return nil
}

func mayRun(b *build, busy map[string]int) bool {
	return b.Request.Supersede != events.SupersedeQueue || busy[groupOf(b)] == 0
}

func groupOf(b *build) string { return b.Request.Tenant + "\x00" + b.Request.Group }

// remove takes out a build by its id; nil if it does not wait.
func (q *queue) remove(id string) *build {
	for tenant, builds := range q.waiting {
		if i := slices.IndexFunc(builds, func(b *build) bool { return b.Request.BuildID == id }); i >= 0 {
			b := builds[i]
			q.drop(tenant, i)
			return b
		}
	}
	return nil
}

func (q *queue) drop(tenant string, i int) {
	rest := slices.Delete(q.waiting[tenant], i, i+1)
	if len(rest) > 0 {
		q.waiting[tenant] = rest
		return
	}
	delete(q.waiting, tenant)
	q.turns = slices.DeleteFunc(q.turns, func(t string) bool { return t == tenant })
}

// len is the number of builds that wait.
func (q *queue) len() int {
	n := 0
	for _, builds := range q.waiting {
		n += len(builds)
	}
	return n
}
