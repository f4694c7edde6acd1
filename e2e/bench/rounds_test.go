package main

import (
	"regexp"
	"testing"
	"time"
)

// TestBehind proves which peer builds in the first round only.
func TestBehind(t *testing.T) {
	took := func(cpu, wall int) []sample {
		return []sample{{CPU: time.Duration(cpu) * time.Second, Wall: time.Duration(wall) * time.Second}}
	}
	failed := []sample{{Failure: "no"}}
	free, named := workload{}, workload{target: []target{againstBuildKit(1, both)}}
	for _, c := range []struct {
		name            string
		w               workload
		kit, ah         []sample
		kitOut, buildah bool
	}{
		{"equal", free, took(10, 10), took(10, 10), false, false},
		{"both figures", free, took(10, 10), took(14, 14), false, true},
		{"the other way", free, took(14, 14), took(10, 10), true, false},
		{"a named one", named, took(14, 14), took(10, 10), false, false},
		{"not the named one", named, took(10, 10), took(14, 14), false, true},
		{"processor time only", free, took(10, 10), took(20, 12), false, false},
		{"wall time only", free, took(10, 10), took(12, 20), false, false},
		{"just so", free, took(10, 10), took(13, 13), false, false},
		{"failed", free, took(10, 10), failed, false, true},
		{"both failed", free, failed, failed, false, false},
		{"alone", free, took(10, 10), nil, false, false},
	} {
		first := map[string][]sample{overlay: took(1, 1)}
		for who, samples := range map[string][]sample{buildKit: c.kit, buildah: c.ah} {
			if samples != nil {
				first[who] = samples
			}
		}
		if k, a := c.w.behind(first, buildKit), c.w.behind(first, buildah); k != c.kitOut || a != c.buildah {
			t.Errorf("%s: BuildKit %v, buildah %v", c.name, k, a)
		}
		if c.w.behind(first, overlay) || c.w.behind(first, inPlace) {
			t.Errorf("%s: Kiln builds in the first round only", c.name)
		}
	}
}

// TestPace proves how what is left is told: by what was seen of the workload that is being
// built, and by what is known of others, as much more as that of those before was.
func TestPace(t *testing.T) {
	now := time.Unix(0, 0)
	a, b := workload{name: "a", takes: takes{20, 10}}, workload{name: "b", takes: takes{100, 50}}
	p := &pace{left: []workload{a, b}, rounds: 3, now: func() time.Time { return now }, then: ", and more"}
	if got := p.plan(); got != "workloads: 2, rounds: 3, on the machine of docs/performance.md about 4m0s, and more" {
		t.Error(got)
	}
	p.begin(a)
	for i, want := range []string{
		"about 6m52s left, workloads after this one: 1, and more", // 2×6 s, and 200 s twice as slow
		"about 5m26s left, workloads after this one: 1, and more", // 6 s, and 48 s of 30
		"about 4m30s left, workloads after this one: 1, and more", // 54 s of 40
	} {
		now = now.Add([]time.Duration{40 * time.Second, 8 * time.Second, 6 * time.Second}[i])
		if got := p.round(6 * time.Second); got != want {
			t.Errorf("round %d: %q, want %q", i+1, got, want)
		}
	}
	now = now.Add(time.Hour) // between two, which is nobody's
	p.begin(b)
	now = now.Add(time.Minute)
	if got := p.round(30 * time.Second); got != "about 1m0s left, and more" {
		t.Errorf("the last: %q", got)
	}
}

// TestWanted proves that what a workload is compared with is measured with it, and that how
// long each takes is known.
func TestWanted(t *testing.T) {
	all := workloads(full())
	o := options{workload: regexp.MustCompile("^(copy|tree)$")}
	var got []string
	for _, w := range o.wanted(all) {
		got = append(got, w.name)
	}
	if len(got) != 3 || got[0] != "copy" || got[1] != "twig" || got[2] != "tree" {
		t.Errorf("got %v, want copy, twig and tree", got)
	}
	if len(options{}.wanted(all)) != len(all) {
		t.Error("without a pattern not all are measured")
	}
	var seconds float64
	for _, w := range all {
		seconds += w.takes.all(5)
		if w.takes.first <= 0 || w.takes.further <= 0 || w.takes.further > w.takes.first {
			t.Errorf("%s takes %v", w.name, w.takes)
		}
	}
	if took := time.Duration(seconds) * time.Second; took > 45*time.Minute {
		t.Errorf("five rounds of everything take %v", took)
	}
}
