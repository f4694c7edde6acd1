package console

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/kilnhook/kiln/events"
	"github.com/kilnhook/kiln/functions/record"
	"github.com/kilnhook/kiln/infra/local/buildlog"
)

// earlier is the build that another is compared with; sum is nil if there is none.
type earlier struct {
	sum    *summary
	result events.Result
	story  *story
}

// previous finds what a build is compared with.
func (c *Console) previous(ctx context.Context, b build) (earlier, error) {
	p := earlier{sum: c.index.previous(summarise(b.Request, events.Result{}))}
	if p.sum == nil {
		return p, nil
	}
	var claim record.Claim
	if _, err := record.Load(ctx, c.cfg.Ledger, record.ResultKey(p.sum.ID), &claim); err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return earlier{}, nil // it was removed meanwhile
		}
		return p, fmt.Errorf("read build %s: %w", p.sum.ID, err)
	}
	p.result = claim.Result
	var err error
	p.story, err = c.stories.get(ctx, c.cfg.Logs, p.sum.ID)
	return p, err
}

// layerView is a layer of the image as the page shows it.
type layerView struct {
	Number    int
	Digest    string
	CreatedBy string
	Size      int64
	Part      string // of the largest layer, in percent
	Contents  *events.ProgressContents
	From      string // the build that told the contents, if not this one
	Kept      bool   // the build before has it too
}

// layerViews lists the layers of a build, from the base up: those of its result, or,
// while there is none, those that its log tells of, which name their steps.
func layerViews(b build, steps []step, told []layerRecord, before earlier) []layerView {
	known := map[string]layerRecord{}
	var order []events.LayerInfo
	for _, l := range told {
		if old, ok := known[l.Digest]; !ok || old.Contents == nil {
			known[l.Digest] = l
		}
		order = append(order, events.LayerInfo{Digest: l.Digest, Size: l.Size, CreatedBy: madeBy(steps, l)})
	}
	if b.Result != nil && len(b.Result.Layers) > 0 {
		order = b.Result.Layers
	}
	was, kept := map[string]layerRecord{}, map[string]bool{}
	if before.story != nil {
		_, layers := before.story.snapshot()
		for _, l := range layers {
			was[l.Digest] = l
		}
	}
	for _, l := range before.result.Layers {
		kept[l.Digest] = true
	}
	var largest int64 = 1
	for _, l := range order {
		largest = max(largest, l.Size)
	}
	out := make([]layerView, 0, len(order))
	for i, l := range order {
		v := layerView{
			Number: i + 1, Digest: l.Digest, CreatedBy: l.CreatedBy, Size: l.Size, Contents: known[l.Digest].Contents, Kept: kept[l.Digest],
			Part: strconv.FormatFloat(float64(l.Size)/float64(largest)*100, 'f', 2, 64),
		}
		if v.Contents == nil && was[l.Digest].Contents != nil {
			v.Contents, v.From = was[l.Digest].Contents, before.sum.ID
		}
		out = append(out, v)
	}
	return out
}

// madeBy is the name of the step that made a layer; "" of a base's.
func madeBy(steps []step, l layerRecord) string {
	if strings.HasSuffix(l.StepID, ".0") { // the FROM of its stage
		return ""
	}
	for _, s := range steps {
		if s.ID == l.StepID {
			return s.Name
		}
	}
	return ""
}

// comparison is what differs between a build and the one before.
type comparison struct {
	ID         string // of the build before
	Same       bool   // they made the same image
	Size       int64  // bytes more than before
	Took       string // time more than before, with its sign
	LayersNew  []events.LayerInfo
	LayersGone []events.LayerInfo
	LayersKept int
	Config     []change
	Problem    string // why the configuration is not compared
	Files      bool   // files can be compared
}

// change is a value that differs.
type change struct {
	Name, Was, Is string
	// Kind is "added", "removed" or "changed".
	Kind string
}

// compareTime is how long the registry may take.
const compareTime = 5 * time.Second

// compare says what differs between two builds that succeeded.
func (c *Console) compare(ctx context.Context, b build, before earlier) *comparison {
	is, was := *b.Result, before.result
	out := &comparison{ID: before.sum.ID, Same: is.Digest != "" && is.Digest == was.Digest, Size: is.Size - was.Size, Files: c.cfg.Image != nil && is.Digest != was.Digest}
	if a, z := before.sum.Took(), is.FinishedAt.Sub(is.StartedAt); a > 0 && z > 0 {
		out.Took = signedDuration(z - a)
	}
	had := map[string]bool{}
	for _, l := range was.Layers {
		had[l.Digest] = true
	}
	has := map[string]bool{}
	for _, l := range is.Layers {
		has[l.Digest] = true
		if had[l.Digest] {
			out.LayersKept++
		} else {
			out.LayersNew = append(out.LayersNew, l)
		}
	}
	for _, l := range was.Layers {
		if !has[l.Digest] {
			out.LayersGone = append(out.LayersGone, l)
		}
	}
	if out.Same || c.cfg.Image == nil {
		return out
	}
	ctx, cancel := context.WithTimeoutCause(ctx, compareTime, errors.New("the registry did not answer in time"))
	defer cancel()
	now, err := c.configOf(ctx, b.Request.Image, is.Digest)
	then := map[string]string{}
	if err == nil {
		then, err = c.configOf(ctx, before.sum.Image, was.Digest)
	}
	if err != nil {
		c.cfg.Log.Warn("compare configurations", "build", b.Request.BuildID, "err", err)
		out.Problem = "The images' configurations could not be read from the registry."
		return out
	}
	out.Config = changes(then, now)
	return out
}

func signedDuration(d time.Duration) string {
	if d < 0 {
		return "−" + buildlog.Duration((-d).Milliseconds())
	}
	return "+" + buildlog.Duration(d.Milliseconds())
}

func (c *Console) configOf(ctx context.Context, repo, digest string) (map[string]string, error) {
	img, err := c.cfg.Image(ctx, repo, digest)
	if err != nil {
		return nil, err
	}
	f, err := img.ConfigFile()
	if err != nil {
		return nil, fmt.Errorf("read config of %s@%s: %w", repo, digest, err)
	}
	return flat(f), nil
}

// flat is an image's config as names and values.
func flat(f *v1.ConfigFile) map[string]string {
	m := map[string]string{}
	set := func(name, value string) {
		if value != "" {
			m[name] = value
		}
	}
	c := f.Config
	set("platform", strings.Trim(f.OS+"/"+f.Architecture+"/"+f.Variant, "/"))
	set("author", f.Author)
	set("user", c.User)
	set("workdir", c.WorkingDir)
	set("stop signal", c.StopSignal)
	for name, list := range map[string][]string{"entrypoint": c.Entrypoint, "cmd": c.Cmd, "shell": c.Shell} {
		if list != nil {
			m[name] = indentedLine(list)
		}
	}
	for _, kv := range c.Env {
		name, value, _ := strings.Cut(kv, "=")
		m["env "+name] = value
	}
	for name, value := range c.Labels {
		m["label "+name] = value
	}
	for p := range c.ExposedPorts {
		m["port "+p] = "exposed"
	}
	for v := range c.Volumes {
		m["volume "+v] = "declared"
	}
	for i, t := range c.OnBuild {
		m[fmt.Sprintf("onbuild %d", i+1)] = t
	}
	if h := c.Healthcheck; h != nil {
		m["healthcheck"] = fmt.Sprintf("%s every %s, for %s, from %s on, %d times", indentedLine(h.Test), h.Interval, h.Timeout, h.StartPeriod, h.Retries)
	}
	return m
}

func indentedLine(list []string) string {
	words := make([]string, len(list))
	for i, w := range list {
		words[i] = strconv.Quote(w)
	}
	return "[" + strings.Join(words, ", ") + "]"
}

// changes lists what differs between two sets of names and values.
func changes(was, is map[string]string) []change {
	var out []change
	for name, value := range is {
		old, ok := was[name]
		switch {
		case !ok:
			out = append(out, change{Name: name, Is: value, Kind: "added"})
		case old != value:
			out = append(out, change{Name: name, Was: old, Is: value, Kind: "changed"})
		}
	}
	for _, name := range slices.Sorted(maps.Keys(was)) {
		if _, ok := is[name]; !ok {
			out = append(out, change{Name: name, Was: was[name], Kind: "removed"})
		}
	}
	slices.SortFunc(out, func(a, b change) int { return cmp.Compare(a.Name, b.Name) })
	return out
}
