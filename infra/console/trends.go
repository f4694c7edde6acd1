package console

import (
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"time"

	"github.com/kilnhook/kiln/events"
	"github.com/kilnhook/kiln/infra/local/buildlog"
)

// trendBuilds is how many of the newest builds of a trigger a trend has.
const trendBuilds = 60

type trendsPage struct {
	page
	Triggers []string
	Trends   []trend
	One      string // the trigger that is shown alone, with its table
	Unread   int64
}

// trend is how the newest builds of a trigger have gone.
type trend struct {
	Trigger   string
	Builds    int
	Succeeded string // part in percent
	Charts    []chart
	Rows      []trendRow // newest first
}

// chart has a bar for each build, oldest first.
type chart struct {
	Name, Say string
	Bars      []chartBar
	Median    string
	Latest    string
}

// chartBar has its place and height in percent.
type chartBar struct {
	X, W, Y, H string
	Class      string // outcome
	Title      string
}

type trendRow struct {
	ID, Outcome, Took, Size, Rate string
	Requested                     time.Time
}

func (c *Console) serveTrends(w http.ResponseWriter, r *http.Request) error {
	d := trendsPage{page: c.page("trends", "/trends"), Triggers: c.index.names(), One: r.URL.Query().Get("trigger"), Unread: c.index.unread.Load()}
	names := d.Triggers
	if d.One != "" {
		if !slices.Contains(names, d.One) {
			return notFound("no build of the trigger " + strconv.Quote(d.One) + " is known")
		}
		names = []string{d.One}
	}
	for _, name := range names {
		if t := trendOf(name, c.index.latest(name, trendBuilds)); t.Builds > 0 {
			d.Trends = append(d.Trends, t)
		}
	}
	return c.render(w, http.StatusOK, "trends", d)
}

// measure is a figure of a build; false if it has none.
type measure struct {
	name  string
	of    func(*summary) (float64, bool)
	write func(float64) string
	most  float64 // the scale; 0: the largest
}

func measures() []measure {
	return []measure{
		{"duration", func(s *summary) (float64, bool) { return float64(s.Took().Milliseconds()), s.Took() > 0 },
			func(v float64) string { return buildlog.Duration(int64(v)) }, 0},
		{"image size", func(s *summary) (float64, bool) { return float64(s.Size), s.Size > 0 },
			func(v float64) string { return buildlog.Bytes(int64(v)) }, 0},
		{"cache hits", func(s *summary) (float64, bool) {
			n := s.Hits + s.Misses
			return float64(s.Hits) / float64(max(n, 1)) * 100, n > 0
		}, func(v float64) string { return fmt.Sprintf("%.0f %%", v) }, 100},
	}
}

func trendOf(trigger string, builds []*summary) trend {
	t := trend{Trigger: trigger, Builds: len(builds)}
	good := 0
	for _, s := range builds {
		if s.Outcome == events.OutcomeSuccess {
			good++
		}
	}
	t.Succeeded = fmt.Sprintf("%d %%", good*100/max(len(builds), 1))
	for _, m := range measures() {
		t.Charts = append(t.Charts, chartOf(m, builds))
	}
	for _, s := range slices.Backward(builds) {
		row := trendRow{ID: s.ID, Outcome: string(s.Outcome), Requested: s.Requested}
		for i, to := range []*string{&row.Took, &row.Size, &row.Rate} {
			if m := measures()[i]; true {
				if v, ok := m.of(s); ok {
					*to = m.write(v)
				}
			}
		}
		t.Rows = append(t.Rows, row)
	}
	return t
}

func chartOf(m measure, builds []*summary) chart {
	c := chart{Name: m.name}
	var values []float64
	most := m.most
	for _, s := range builds {
		if v, ok := m.of(s); ok {
			values = append(values, v)
			if m.most == 0 {
				most = max(most, v)
			}
		}
	}
	if len(values) == 0 {
		c.Say = "no build has one"
		return c
	}
	c.Latest = m.write(values[len(values)-1])
	sorted := slices.Sorted(slices.Values(values))
	c.Median = m.write(sorted[len(sorted)/2])
	c.Say = fmt.Sprintf("of %d builds: latest %s, median %s, from %s to %s", len(values), c.Latest, c.Median, m.write(sorted[0]), m.write(sorted[len(sorted)-1]))
	width := 100 / float64(max(len(builds), 12))
	percent := func(v float64) string { return strconv.FormatFloat(v, 'f', 3, 64) }
	for i, s := range builds {
		v, ok := m.of(s)
		if !ok {
			continue
		}
		h := 0.0
		if most > 0 {
			h = max(v/most*100, 1)
		}
		c.Bars = append(c.Bars, chartBar{
			X: percent(float64(i) * width), W: percent(width * 0.8), Y: percent(100 - h), H: percent(h), Class: string(s.Outcome),
			Title: fmt.Sprintf("%s, %s, %s", buildlog.Short(s.ID), m.write(v), s.Outcome),
		})
	}
	return c
}
