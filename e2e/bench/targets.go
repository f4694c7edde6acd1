package main

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"time"
)

// results are the samples of workloads: by workload, by builder, one a round.
// Those of a round belong together.
type results map[string]map[string][]sample

// metric is one figure of a sample.
type metric func(sample) float64

func wall(s sample) float64       { return s.Wall.Seconds() }
func cpu(s sample) float64        { return s.CPU.Seconds() }
func rss(s sample) float64        { return float64(s.RSS) }
func memory(s sample) float64     { return float64(s.Memory) }
func requests(s sample) float64   { return float64(s.Requests) }
func sentBytes(s sample) float64  { return float64(s.Sent) }
func received(s sample) float64   { return float64(s.Received) }
func perRun(s sample) float64     { return s.PerRun.Seconds() }
func roundTrips(s sample) float64 { return float64(s.Wall) / float64(roundTrip) }

// median of a metric; NaN if a build failed or there is none.
func (r results) median(workload, who string, m metric) float64 {
	return median(r.values(workload, who, m))
}

func (r results) values(workload, who string, m metric) []float64 {
	var values []float64
	for _, s := range r[workload][who] {
		if s.Failure != "" {
			return nil
		}
		values = append(values, m(s))
	}
	return values
}

func median(values []float64) float64 {
	if len(values) == 0 {
		return math.NaN()
	}
	values = slices.Sorted(slices.Values(values))
	n := len(values)
	return (values[(n-1)/2] + values[n/2]) / 2
}

// ratio is the median of the ratios of the rounds.
func (r results) ratio(workload, who, peer string, m metric) float64 {
	mine, others := r.values(workload, who, m), r.values(workload, peer, m)
	var ratios []float64
	for i := range min(len(mine), len(others)) {
		ratios = append(ratios, mine[i]/others[i])
	}
	return median(ratios)
}

// better is the peer whose median of a metric is lower, "" if no peer could build it.
func (r results) better(workload string, m metric) string {
	best, least := "", math.Inf(1)
	for _, peer := range []string{buildKit, buildah} {
		if v := r.median(workload, peer, m); v < least {
			best, least = peer, v
		}
	}
	return best
}

// both are both modes of the executor.
const both = "Kiln"

// verdict is what became of a target.
type verdict struct {
	Workload string  `json:"workload"`
	Builder  string  `json:"builder"`
	Target   string  `json:"target"`
	Measured string  `json:"measured"`
	Value    float64 `json:"value"`
	Met      bool    `json:"met"`
}

// target is something that a workload shall reach: for one mode or for both.
type target struct {
	who   string
	text  string
	limit float64
	peer  string // that it names, "" for whoever is better
	value func(r results, workload, who string) (value float64, text string)
}

// ratio asks for a metric of the executor by that of the better peer.
func ratio(what string, limit float64, m metric, who string) target {
	return target{who, fmt.Sprintf("%s ≤ %.1f× the better peer's", what, limit), limit, "", func(r results, workload, who string) (float64, string) {
		peer := r.better(workload, m)
		v := r.ratio(workload, who, peer, m)
		return v, fmt.Sprintf("%.2f× %s", v, peer)
	}}
}

// againstBuildKit asks for the wall time of the executor by that of BuildKit.
func againstBuildKit(limit float64, who string) target {
	return target{who, fmt.Sprintf("wall ≤ %.1f× %s's", limit, buildKit), limit, buildKit, func(r results, workload, who string) (float64, string) {
		v := r.ratio(workload, who, buildKit, wall)
		return v, fmt.Sprintf("%.2f×", v)
	}}
}

func plain(v float64) string     { return fmt.Sprintf("%.1f", v) }
func mebibytes(v float64) string { return fmt.Sprintf("%.0f MiB", v/(1<<20)) }

// most asks that a metric is not above a limit.
func most(what string, limit float64, m metric, who string, format func(float64) string) target {
	return target{who, what + " ≤ " + format(limit), limit, "", func(r results, workload, who string) (float64, string) {
		v := r.median(workload, who, m)
		return v, format(v)
	}}
}

const (
	// treeSlack is how much more a RUN may take on a hundred times as many files to count
	// as independent of their number: a quarter of that on few, or two milliseconds.
	treeSlack   = 1.25
	treeNoise   = 2 * time.Millisecond
	perFileMost = 4 * time.Microsecond
)

// asOnTwig asks that a RUN takes as long on many files as on few.
func asOnTwig(s sizes) target {
	return target{overlay, fmt.Sprintf("CPU of a RUN as on %d files", s.tree/100), treeSlack, "", func(r results, workload, who string) (float64, string) {
		many, few := r.median(workload, who, perRun), r.median("twig", who, perRun)
		v := max(0, many-treeNoise.Seconds()) / few
		return v, fmt.Sprintf("%.1f ms, %.1f ms there", many*1000, few*1000)
	}}
}

// perFile asks for the time of a RUN by the number of files.
func perFile(s sizes) target {
	return target{inPlace, "CPU of a RUN ≤ 4 µs a file", perFileMost.Seconds(), "", func(r results, workload, who string) (float64, string) {
		v := r.median(workload, who, perRun) / float64(s.tree)
		return v, fmt.Sprintf("%.2f µs", v*1e6)
	}}
}

// judge says which targets of a workload are met. What could not be measured is not.
func (r results) judge(w workload) []verdict {
	var verdicts []verdict
	for _, t := range w.target {
		for _, who := range []string{overlay, inPlace} {
			if _, measured := r[w.name][who]; !measured || !strings.HasPrefix(who, t.who) {
				continue
			}
			value, text := t.value(r, w.name, who)
			v := verdict{Workload: w.name, Builder: who, Target: t.text, Measured: text, Value: value, Met: value <= t.limit}
			if math.IsNaN(value) {
				v.Measured, v.Value = "not measured", -1
			}
			verdicts = append(verdicts, v)
		}
	}
	return verdicts
}
