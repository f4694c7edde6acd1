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
	Unused   []string             // build arguments that no ARG declares, and that mean nothing else, by name
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
// or, with neither, scratch. A stage from a context of files is from scratch
// and begins with a step that copies them.
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

// Source is where a Copy reads from: the build context, a named context, an
// earlier stage or an image.
type Source struct {
	Stage   *int           // index into Plan.Stages
	Context string         // name of a context of files among Options.Contexts
	Image   string         // reference, pinned by Digest
	Digest  v1.Hash        // of Image
	Config  *v1.ConfigFile // of Image
}

// IsContext reports whether the source is the build context.
func (s Source) IsContext() bool { return s.Stage == nil && s.Image == "" && s.Context == "" }

// IsFiles reports whether the source is the build context or a named one:
// files without owners.
func (s Source) IsFiles() bool { return s.Stage == nil && s.Image == "" }

// Placing is how copies are put into the root, the same for Copy and Add.
type Placing struct {
	Dest  string   // absolute and clean; a trailing slash means a directory
	Chown string   // "user[:group]" names or numbers; "" is 0:0 from a context and unchanged otherwise
	Chmod string   // octal, four digits or more, or symbolic as for chmod(1); "" keeps the source's mode
	Skip  []string // patterns of what is left out below a source that is a directory
	// Link says that the layer depends on nothing that was there before: it is
	// made as on an empty root, and what it holds replaces what is in its way.
	Link bool
}

// Copy copies files. All words are expanded.
type Copy struct {
	Placing
	From  Source
	Paths []string // patterns, clean names relative to the source's root; "." is the root
	// Parents, if not nil, has for each of Paths the directory that it is
	// relative to, which may be a pattern too. The directories that lead from
	// there to what a path matches are made in Dest.
	Parents []string
	Files   []File // come after Paths
}

// Add copies files, fetches URLs and repositories and unpacks local archives:
// Paths first, then URLs, Repos and Files.
type Add struct {
	Placing
	Paths    []string // patterns in the build context, as Copy.Paths
	URLs     []string // http and https
	Repos    []Repo
	Files    []File
	Checksum string // digest of what the only URL has; "" if it may have anything
	// Unpack says whether archives are unpacked; nil is those of the context
	// and not those of URLs. What an archive holds gets Chown, or keeps the
	// owners it names, and never Chmod.
	Unpack *bool
}

// File is a file that the Dockerfile holds itself, in a heredoc. Its mode is 0644.
type File struct {
	Name    string // without a slash
	Content string
}

// Repo is a commit of a Git repository.
type Repo struct {
	URL        string // http or https, without query and fragment
	Ref        string // branch, tag, full name of a ref or commit; "" is the default branch
	Commit     string // what the id of the commit must begin with, lower case; "" for any
	Subdir     string // "" is the root
	KeepGitDir bool
	Submodules bool
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

	Hostname string `json:",omitempty"` // asked for by BUILDKIT_SANDBOX_HOSTNAME; "" for what a RUN has by default
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
