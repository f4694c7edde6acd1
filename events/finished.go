package events

import "time"

// BuildInfo describes the build in the data of every event about one.
type BuildInfo struct {
	ID          string           `json:"id"`
	Trigger     string           `json:"trigger"`
	Tenant      string           `json:"tenant"`
	Group       string           `json:"group,omitempty"`
	Attempt     int              `json:"attempt"`
	RequestedAt time.Time        `json:"requestedAt,omitzero"`
	StartedAt   time.Time        `json:"startedAt,omitzero"`
	FinishedAt  time.Time        `json:"finishedAt,omitzero"`
	DurationMS  map[string]int64 `json:"durationMs,omitempty"` // milliseconds by phase
	ExitCode    int              `json:"exitCode,omitempty"`
	Isolation   string           `json:"isolation,omitempty"`
}

// SourceInfo describes what was built.
type SourceInfo struct {
	Kind       string `json:"kind"`                 // KindGit or KindObject
	Repo       string `json:"repo,omitempty"`       // git: "host/path"
	Ref        string `json:"ref,omitempty"`        // git: the full ref
	Commit     string `json:"commit,omitempty"`     // git: the commit built
	Before     string `json:"before,omitempty"`     // git: where the ref was
	Bucket     string `json:"bucket,omitempty"`     // object: the bucket's URL
	Object     string `json:"object,omitempty"`     // object: the key
	Generation string `json:"generation,omitempty"` // object: the generation or version built
	Sequence   uint64 `json:"seq"`                  // of the ref or object
}

// ImageInfo describes where the image is, or was to go.
type ImageInfo struct {
	Repository string         `json:"repository"`          // without a tag
	Digest     string         `json:"digest,omitempty"`    // on success
	MediaType  string         `json:"mediaType,omitempty"` // on success
	Size       int64          `json:"size,omitempty"`      // bytes, compressed
	Tags       []string       `json:"tags,omitempty"`      // tags asked for
	TagsMoved  []string       `json:"tagsMoved,omitempty"` // those that now name the digest
	Platforms  []PlatformInfo `json:"platforms,omitempty"` // what is in it
	Layers     []LayerInfo    `json:"layers,omitempty"`    // from the base up
}

// PlatformInfo is one platform of an image.
type PlatformInfo struct {
	OS      string `json:"os"`
	Arch    string `json:"arch"`
	Variant string `json:"variant,omitempty"`
	Digest  string `json:"digest,omitempty"`
}

// String is the platform as it is asked for: "linux/arm/v7".
func (p PlatformInfo) String() string {
	if p.Variant == "" {
		return p.OS + "/" + p.Arch
	}
	return p.OS + "/" + p.Arch + "/" + p.Variant
}

// CacheUse says how much of a build the cache spared.
type CacheUse struct {
	LayersReused int `json:"layersReused"`
	LayersBuilt  int `json:"layersBuilt"`
}

// Finished is the data of TypeBuildFinished. Build arguments and logs are not
// in it.
type Finished struct {
	Build   BuildInfo  `json:"build"`
	Outcome Outcome    `json:"outcome"`
	Class   Class      `json:"class"`
	Reason  string     `json:"reason"`
	Message string     `json:"message"`
	Source  SourceInfo `json:"source"`
	Image   *ImageInfo `json:"image,omitempty"` // absent if the build pushes nothing
	Bases   []BaseInfo `json:"bases,omitempty"`
	Cache   CacheUse   `json:"cache"`
}

// Lifecycle is the data of TypeBuildRequested, TypeBuildQueued and
// TypeBuildStarted. It names the build arguments but not their values.
type Lifecycle struct {
	Build      BuildInfo  `json:"build"`
	Source     SourceInfo `json:"source"`
	Image      *ImageInfo `json:"image,omitempty"`
	Dockerfile string     `json:"dockerfile,omitempty"`
	Target     string     `json:"target,omitempty"`
	ArgNames   []string   `json:"argNames,omitempty"` // ascending
}

// Rejected is the data of TypeTriggerRejected.
type Rejected struct {
	Trigger string     `json:"trigger,omitempty"` // empty if the event was refused before any trigger saw it
	Tenant  string     `json:"tenant,omitempty"`
	Class   Class      `json:"class,omitempty"`
	Reason  string     `json:"reason"`
	Source  SourceInfo `json:"source,omitzero"`
}

// NewFinished puts together what is told about a finished build. moved are the
// tags that now name the result's digest.
func NewFinished(req Request, res Result, moved []string) Finished {
	res = res.Clean()
	build := buildInfo(req)
	build.StartedAt, build.FinishedAt = res.StartedAt, res.FinishedAt
	build.DurationMS, build.ExitCode, build.Isolation = res.DurationMS, res.ExitCode, res.Isolation
	image := imageInfo(req)
	if image != nil && res.Outcome == OutcomeSuccess {
		image.Digest, image.MediaType, image.Size = res.Digest, res.MediaType, res.Size
		image.TagsMoved, image.Layers = moved, res.Layers
		image.Platforms = platforms(res)
	}
	return Finished{
		Build: build, Outcome: res.Outcome, Class: res.Class, Reason: res.Reason, Message: res.Message,
		Source: sourceInfo(req.Change, req.Sequence), Image: image, Bases: res.Bases,
		Cache: CacheUse{LayersReused: res.Cache.Hits, LayersBuilt: res.Cache.Misses},
	}
}

func buildInfo(req Request) BuildInfo {
	return BuildInfo{
		ID: req.BuildID, Trigger: req.Trigger, Tenant: req.Tenant, Group: req.Group,
		Attempt: req.Attempt, RequestedAt: req.RequestedAt,
	}
}

func sourceInfo(c Change, seq uint64) SourceInfo {
	if c.Kind == KindGit {
		return SourceInfo{
			Kind: c.Kind, Repo: c.Location, Ref: c.Name, Commit: c.Revision(), Before: c.Before, Sequence: seq,
		}
	}
	return SourceInfo{Kind: c.Kind, Bucket: c.Location, Object: c.Name, Generation: c.Generation, Sequence: seq}
}

func imageInfo(req Request) *ImageInfo {
	if req.Image == "" {
		return nil
	}
	image := &ImageInfo{Repository: req.Image, Tags: req.Tags}
	for _, p := range req.Platforms {
		if info, ok := NewPlatformInfo(p, ""); ok {
			image.Platforms = append(image.Platforms, info)
		}
	}
	return image
}

func platforms(res Result) []PlatformInfo {
	if len(res.Platforms) > 0 {
		return res.Platforms
	}
	one, ok := NewPlatformInfo(res.Platform, res.Digest)
	if !ok {
		return nil
	}
	return []PlatformInfo{one}
}
