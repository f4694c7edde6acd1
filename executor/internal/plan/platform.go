package plan

import (
	"errors"
	"fmt"
	"regexp"
	"runtime"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// ParsePlatform reads "os[/arch[/variant]]", an architecture alone, or "local"
// for the machine's own, and normalises it: "linux/x86_64" is "linux/amd64",
// "linux/arm64/v8" is "linux/arm64", "arm" is "linux/arm/v7".
func ParsePlatform(s string) (v1.Platform, error) {
	parts := strings.Split(s, "/")
	for _, p := range parts {
		if !platformPart(p) {
			return v1.Platform{}, fmt.Errorf("invalid platform %q: write os/arch[/variant], such as linux/arm64", s)
		}
	}
	local := v1.Platform{OS: "linux", Architecture: runtime.GOARCH}
	switch len(parts) {
	case 1:
		if strings.EqualFold(s, "local") {
			return normalize(local), nil
		}
		if knownOS(parts[0]) {
			local.OS = parts[0]
			return normalize(local), nil
		}
		p := normalize(v1.Platform{OS: "linux", Architecture: parts[0]})
		if !knownArch(p.Architecture) {
			return v1.Platform{}, fmt.Errorf("invalid platform %q: neither an operating system nor an architecture", s)
		}
		return p, nil
	case 2:
		return normalize(v1.Platform{OS: parts[0], Architecture: parts[1]}), nil
	case 3:
		return normalize(v1.Platform{OS: parts[0], Architecture: parts[1], Variant: parts[2]}), nil
	}
	return v1.Platform{}, fmt.Errorf("invalid platform %q: write os/arch[/variant], such as linux/arm64", s)
}

func platformPart(s string) bool {
	ok, err := regexp.MatchString(`^[A-Za-z0-9_.-]+$`, s)
	return err == nil && ok
}

func knownOS(s string) bool {
	switch strings.ToLower(s) {
	case "linux", "windows", "darwin", "macos", "freebsd", "netbsd", "openbsd", "solaris", "illumos", "aix", "plan9", "wasip1", "js", "android", "ios":
		return true
	}
	return false
}

func knownArch(s string) bool {
	switch s {
	case "386", "amd64", "arm", "arm64", "loong64", "mips", "mipsle", "mips64", "mips64le", "ppc64", "ppc64le", "riscv64", "s390x", "wasm":
		return true
	}
	return false
}

// normalize brings the many names of an architecture to the one that image
// indexes use.
func normalize(p v1.Platform) v1.Platform {
	p.OS = strings.ToLower(p.OS)
	if p.OS == "macos" {
		p.OS = "darwin"
	}
	p.Architecture, p.Variant = strings.ToLower(p.Architecture), strings.ToLower(p.Variant)
	switch p.Architecture {
	case "i386":
		p.Architecture, p.Variant = "386", ""
	case "x86_64", "x86-64", "amd64":
		p.Architecture = "amd64"
		if p.Variant == "v1" {
			p.Variant = ""
		}
	case "aarch64", "arm64":
		p.Architecture = "arm64"
		if p.Variant == "8" || p.Variant == "v8" {
			p.Variant = ""
		}
	case "armhf":
		p.Architecture, p.Variant = "arm", "v7"
	case "armel":
		p.Architecture, p.Variant = "arm", "v6"
	case "arm":
		switch p.Variant {
		case "":
			p.Variant = "v7"
		case "5", "6", "7", "8":
			p.Variant = "v" + p.Variant
		}
	}
	return p
}

// platformName is a platform as TARGETPLATFORM holds it.
func platformName(p v1.Platform) string {
	s := p.OS
	if p.OSVersion != "" {
		s += "(" + p.OSVersion + ")"
	}
	for _, part := range []string{p.Architecture, p.Variant} {
		if part != "" {
			s += "/" + part
		}
	}
	return s
}

// PlatformFits reports whether an image for have runs where one for want is
// asked for. A platform of which nothing is known fits.
func PlatformFits(have, want v1.Platform) bool {
	have, want = normalize(have), normalize(want)
	return have.OS == "" || have.OS == want.OS && have.Architecture == want.Architecture && (have.Variant == want.Variant || have.Variant == "")
}

// errNotLinux says what is built here.
var errNotLinux = errors.New("only Linux images can be built")

// imagePlatform is what the image's config file says: the target, if one was
// asked for, else what its base says.
func imagePlatform(base *v1.ConfigFile, target v1.Platform, asked bool) v1.Platform {
	if base == nil {
		return normalize(target)
	}
	p := v1.Platform{OS: base.OS, Architecture: base.Architecture, Variant: base.Variant, OSVersion: base.OSVersion, OSFeatures: base.OSFeatures}
	if p.OS == "" || p.Architecture == "" {
		return normalize(target)
	}
	if !asked {
		return normalize(p)
	}
	same := p.OS == target.OS && p.Architecture == target.Architecture
	p.OS, p.Architecture = target.OS, target.Architecture
	if target.Variant != "" || !same {
		p.Variant = target.Variant
	}
	if target.OSVersion != "" || !same {
		p.OSVersion = target.OSVersion
	}
	if target.OSFeatures != nil {
		p.OSFeatures = target.OSFeatures
	}
	return normalize(p)
}
