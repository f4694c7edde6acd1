package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"
)

// clearly is by how much a peer must be behind the other to build in the first round
// only: in processor time and in wall time.
const clearly = 1.3

// behind tells whether a peer is so far behind the other after the first round that it is not
// the better one by any measure. Who is named by a target builds in every round.
func (w workload) behind(first map[string][]sample, peer string) bool {
	other := buildKit
	switch peer {
	case buildKit:
		other = buildah
	case buildah:
	default:
		return false
	}
	if slices.ContainsFunc(w.target, func(t target) bool { return t.peer == peer }) {
		return false
	}
	mine, others := first[peer], first[other]
	if len(mine) == 0 || len(others) == 0 || others[0].Failure != "" {
		return false
	}
	return mine[0].Failure != "" ||
		cpu(mine[0]) > clearly*cpu(others[0]) && wall(mine[0]) > clearly*wall(others[0])
}

// compare measures a workload with everybody, one after another and as many
// rounds as asked for. Each round begins with somebody else.
func (l *lab) compare(ctx context.Context, w workload, p *pace) (_ map[string][]sample, err error) {
	p.begin(w)
	if err := l.push(ctx, w); err != nil {
		return nil, err
	}
	host := l.depot.host
	if w.rtt > 0 {
		far, err := newRelay(host, w.rtt)
		if err != nil {
			return nil, err
		}
		defer func() { err = errors.Join(err, far.close()) }()
		host = far.host
	}
	builders := l.builders(w)
	if w.cached {
		if err := l.fill(ctx, w, builders, host); err != nil {
			return nil, err
		}
	}
	samples := map[string][]sample{}
	for round := range l.pairs {
		took := map[string]time.Duration{}
		for i := range builders {
			b, began := builders[(i+round)%len(builders)], time.Now()
			s, err := l.once(ctx, w, b, host, round+1)
			if err != nil {
				return nil, fmt.Errorf("%s with %s: %w", w.name, b.name, err)
			}
			samples[b.name], took[b.name] = append(samples[b.name], s), time.Since(began)
			l.say("%-12s %d/%d  %-12s  %s", w.name, round+1, l.pairs, b.name, s)
		}
		if round == 0 {
			builders = slices.DeleteFunc(builders, func(b builder) bool { return w.behind(samples, b.name) })
		}
		var next time.Duration
		for _, b := range builders {
			next += took[b.name]
		}
		l.say("%-12s %d/%d  %s", w.name, round+1, l.pairs, p.round(next))
	}
	return samples, nil
}

// takes is how many seconds a workload takes: with the first round, and for each further one.
type takes struct{ first, further float64 }

func (t takes) all(rounds int) float64 { return t.first + t.further*float64(rounds-1) }

// pace tells how long it will be. What is not begun takes as much more than is known of it
// as what is done did.
type pace struct {
	left   []workload // the one that is being built first
	rounds int
	now    func() time.Time
	then   string // what is not in the time that is told

	done           int // rounds of the first of left
	began          time.Time
	known, elapsed float64 // seconds of the workloads that are done
}

// plan says how long everything takes if nothing is known of this machine.
func (p *pace) plan() string {
	var all float64
	for _, w := range p.left {
		all += w.takes.all(p.rounds)
	}
	return fmt.Sprintf("workloads: %d, rounds: %d, on the machine of docs/performance.md about %v%s",
		len(p.left), p.rounds, time.Duration(all*float64(time.Second)).Round(time.Second), p.then)
}

// begin says that the next workload is begun.
func (p *pace) begin(w workload) {
	p.began, p.done = p.now(), 0
	for len(p.left) > 0 && p.left[0].name != w.name {
		p.left = p.left[1:]
	}
}

// round says that a round is done and how long each of those that are left will take,
// and returns what is to be said of it.
func (p *pace) round(next time.Duration) string {
	p.done++
	current := p.left[0]
	left := next.Seconds() * float64(p.rounds-p.done)
	known, elapsed := p.known+current.takes.all(p.done), p.elapsed+p.now().Sub(p.began).Seconds()
	if p.done == p.rounds {
		p.known, p.elapsed = known, elapsed
	}
	for _, w := range p.left[1:] {
		left += w.takes.all(p.rounds) * elapsed / known
	}
	text := fmt.Sprintf("about %v left", time.Duration(left*float64(time.Second)).Round(time.Second))
	if n := len(p.left) - 1; n > 0 {
		text += fmt.Sprintf(", workloads after this one: %d", n)
	}
	return text + p.then
}
