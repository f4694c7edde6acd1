// Package plan decides everything a build will do. A Plan is a value: made
// without touching a filesystem, printed for a dry run, compared in tests.
//
// Metadata does not exist after planning. A Step carries the image config as
// it is once the step is done and at most one of four operations: Copy, Add,
// Run or Workdir.
//
// BuildKit's Dockerfile frontend is the specification. A flag that it knows
// and this package does not carry out is an error, never ignored.
package plan

import (
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/kilnhook/kiln/executor/internal/dockerfile"
)

// Plan is what a build will do: the stages the target needs, each after the
// stages it depends on. The last stage is the target.
type Plan struct {
	Stages   []Stage
	Platform v1.Platform          // what the image's config file says
	Epoch    *time.Time           // SOURCE_DATE_EPOCH, as a build argument or a global ARG; nil if not given
	Warnings []dockerfile.Warning // lint findings, in file order
}

// Final returns the last stage, the one that becomes the image.
func (p *Plan) Final() *Stage { return &p.Stages[len(p.Stages)-1] }

// Stage is one FROM and the steps that follow it.
type Stage struct {
	Name     string // as written after AS, lower case; "" if unnamed
	Index    int    // position among the Dockerfile's stages, from 0
	Base     Base
	Platform v1.Platform // of the base image
	Start    State       // before the first step
	Steps    []Step      // also the triggers of the base's ONBUILD, first
	Pos      dockerfile.Pos
	Text     string // the FROM as written
}

// End returns the state after the last step. For the final stage it includes
// Options.Labels.
func (s *Stage) End() State {
	if len(s.Steps) == 0 {
		return s.Start
	}
	last := s.Steps[len(s.Steps)-1]
	return State{Config: last.Config, StartInterval: last.StartInterval, Author: last.Author}
}

// State is the metadata of an image.
type State struct {
	Config        v1.Config
	StartInterval time.Duration // of Config.Healthcheck; v1.HealthConfig cannot hold it
	Author        string        // of the config file
}

// Base is what a stage starts from: exactly one of an image, an earlier stage
// or, with neither, scratch.
type Base struct {
	Ref           string         // reference as written and expanded; "scratch"; or the stage's name
	Stage         *int           // index into Plan.Stages
	Digest        v1.Hash        // of the image's manifest for the platform; zero unless an image
	Config        *v1.ConfigFile // of the image; nil unless an image
	StartInterval time.Duration  // "StartInterval" of the image's health check, which v1.ConfigFile drops
}

// Step is one instruction.
type Step struct {
	Pos       dockerfile.Pos
	Text      string // as written, for progress and errors: "COPY a b"
	CreatedBy string // history entry as BuildKit writes it: "COPY a b # buildkit"; "" for none, as ONBUILD
	Comment   string // history comment: "buildkit.dockerfile.v0"
	Op        Op     // nil if only the config changes: then the history entry has no layer
	State            // of the image once the step is done
}

// Op is one of Copy, Add, Run, Workdir. Its String is one line, the same for
// equal values.
type Op interface {
	op()
	String() string
}

// Source is where a Copy reads from: the build context, an earlier stage or an
// image.
type Source struct {
	Stage  *int           // index into Plan.Stages
	Image  string         // reference, pinned by Digest
	Digest v1.Hash        // of Image
	Config *v1.ConfigFile // of Image
}

// IsContext reports whether the source is the build context.
func (s Source) IsContext() bool { return s.Stage == nil && s.Image == "" }

// Copy copies files. All words are expanded.
type Copy struct {
	From  Source
	Paths []string // patterns, clean names relative to the source's root; "." is the root
	Dest  string   // absolute and clean; a trailing slash means a directory
	Chown string   // "user[:group]" names or numbers; "" is 0:0 from the context and unchanged otherwise
	Chmod string   // octal, four digits or more; "" keeps the source's mode
}

// Add copies files, fetches URLs and unpacks local archives. Paths come before
// URLs.
type Add struct {
	Paths []string // patterns in the build context, as Copy.Paths
	URLs  []string // http and https
	Dest  string   // as Copy.Dest
	Chown string   // as Copy.Chown; for an archive "" keeps the owners it names
	Chmod string   // as Copy.Chmod; not for what an archive holds
}

// Run runs a process.
type Run struct {
	Args  []string // complete argument vector: the shell's words stand first for the shell form
	Env   []string // complete environment but for Proxy: the image's and the build arguments in force
	Proxy []string // proxy build arguments, which override Env and must not tell one step from another
	User  string   // as in the config
	Dir   string   // absolute and clean

	Mounts  []Mount `json:",omitempty"` // in the order in which they are made
	Network string  `json:",omitempty"` // "none", "host", or "" for what a RUN has by default
}

// Workdir makes a directory and its missing parents, owned by User.
type Workdir struct {
	Path string // absolute and clean
	User string // as in the config
}

func (Copy) op()    {}
func (Add) op()     {}
func (Run) op()     {}
func (Workdir) op() {}
