package events

import (
	"fmt"
	"slices"
	"strings"
)

// IsPlatform reports whether s has the form "os/arch" or "os/arch/variant".
func IsPlatform(s string) bool {
	parts := strings.Split(s, "/")
	return (len(parts) == 2 || len(parts) == 3) && !slices.ContainsFunc(parts, func(part string) bool {
		return part == "" || strings.Trim(part, "abcdefghijklmnopqrstuvwxyz0123456789_.") != ""
	})
}

// NewPlatformInfo splits a platform; false if it is none.
func NewPlatformInfo(platform, digest string) (PlatformInfo, bool) {
	if !IsPlatform(platform) {
		return PlatformInfo{}, false
	}
	os, rest, _ := strings.Cut(platform, "/")
	arch, variant, _ := strings.Cut(rest, "/")
	return PlatformInfo{OS: os, Arch: arch, Variant: variant, Digest: digest}, true
}

// PartID is the id of the part of a build that is for one platform. It has the
// form of a build id, and is the same whenever it is asked for.
func PartID(buildID, platform string) string { return BuildID("part", buildID, platform) }

// Parts are the requests of a build for several platforms, one for each, in the
// order of Platforms: each is launched like a build of its own and pushes by
// digest; the tags and the terminal event are those of the whole. There are none
// if the build is for one platform.
func (r Request) Parts() []Request {
	if len(r.Platforms) < 2 {
		return nil
	}
	parts := make([]Request, len(r.Platforms))
	for i, platform := range r.Platforms {
		part := r
		part.BuildID, part.PartOf = PartID(r.BuildID, platform), r.BuildID
		part.Platform, part.Platforms = platform, nil
		parts[i] = part
	}
	return parts
}

// Runnable reports why no one executor can run the request: it is invalid, or for
// several platforms, and its parts are what is run.
func (r Request) Runnable() error {
	if len(r.Platforms) > 0 {
		return fmt.Errorf("build %s is for %s: an executor builds for one platform, so each is launched as a part", r.BuildID, strings.Join(r.Platforms, ", "))
	}
	return r.Validate()
}

// Whole is the id of the build that a request is for, also if it is a part of it.
func (r Request) Whole() string {
	if r.PartOf != "" {
		return r.PartOf
	}
	return r.BuildID
}

// validPlatforms reports the first thing about the platforms that is wrong.
func (r Request) validPlatforms() error {
	switch {
	case r.Platform != "" && !IsPlatform(r.Platform):
		return fmt.Errorf("platform %q is not such as linux/arm64 or linux/arm/v7", r.Platform)
	case r.Platform != "" && len(r.Platforms) > 0:
		return fmt.Errorf("platform %s and platforms %s exclude each other", r.Platform, strings.Join(r.Platforms, ", "))
	case len(r.Platforms) == 1:
		return fmt.Errorf("platforms has %s only, which is platform", r.Platforms[0])
	case r.PartOf != "" && (!IsBuildID(r.PartOf) || r.BuildID != PartID(r.PartOf, r.Platform)):
		return fmt.Errorf("build %s is not the part for %q of build %q", r.BuildID, r.Platform, r.PartOf)
	}
	for i, p := range r.Platforms {
		if !IsPlatform(p) {
			return fmt.Errorf("platform %q is not such as linux/arm64 or linux/arm/v7", p)
		}
		if i > 0 && r.Platforms[i-1] >= p {
			return fmt.Errorf("platforms %s are not ascending", strings.Join(r.Platforms, ", "))
		}
	}
	return nil
}
