package registry

import (
	"slices"
	"strconv"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// choose returns the index of the manifest that suits p best, -1 if none
// does. An index with a single image that does not say what it is for is
// taken at its word.
func choose(manifests []v1.Descriptor, p v1.Platform) int {
	best, bestRank := -1, -1
	unnamed := -1
	for i, m := range manifests {
		if !m.MediaType.IsImage() && !m.MediaType.IsIndex() {
			continue
		}
		if m.Platform == nil {
			unnamed = i
			continue
		}
		if r := rank(p, *m.Platform); r > bestRank {
			best, bestRank = i, r
		}
	}
	if best < 0 && unnamed >= 0 && len(manifests) == 1 {
		return unnamed
	}
	return best
}

// rank says how well an image for have runs on want; -1: not at all. Of a
// family of processors the newest variant that is not newer than the wanted
// one is best.
func rank(want, have v1.Platform) int {
	if want.OS != have.OS || want.Architecture != have.Architecture {
		return -1
	}
	if want.OSVersion != "" && want.OSVersion != have.OSVersion {
		return -1
	}
	w, wok := variant(want)
	h, hok := variant(have)
	switch {
	case wok && hok && h <= w:
		return 1 + h
	case wok && hok:
		return -1
	case want.Variant == have.Variant:
		return 1
	case have.Variant == "" || want.Variant == "":
		return 0
	}
	return -1
}

// variant is the number of a processor's variant, times 100: "v8.1" is 810.
// Without one it is that which the architecture is understood to have.
func variant(p v1.Platform) (int, bool) {
	v := p.Variant
	if v == "" {
		switch p.Architecture {
		case "amd64":
			v = "v1"
		case "arm":
			v = "v7"
		case "arm64":
			v = "v8"
		default:
			return 0, false
		}
	}
	major, minor, _ := strings.Cut(strings.TrimPrefix(v, "v"), ".")
	n, err := strconv.Atoi(major)
	if err != nil {
		return 0, false
	}
	m, _ := strconv.Atoi(minor)
	return n*100 + m*10, true
}

// available lists the platforms of an index.
func available(manifests []v1.Descriptor) string {
	var out []string
	for _, m := range manifests {
		if m.Platform == nil || m.Platform.OS == "unknown" { // attestations
			continue
		}
		if s := m.Platform.String(); !slices.Contains(out, s) {
			out = append(out, s)
		}
	}
	if len(out) == 0 {
		return "none"
	}
	return strings.Join(out, ", ")
}
