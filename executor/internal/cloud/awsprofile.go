package cloud

import (
	"bufio"
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"strings"
)

// profile is a section of the files that AWS's tools share.
type profile struct {
	name   string
	found  bool
	values map[string]string
}

// profile reads the profile of AWS_PROFILE, or default, from both files. The
// credentials file wins. A profile that is named must be there.
func (a *AWS) profile() (profile, error) {
	named := cmp.Or(a.s.Env("AWS_PROFILE"), a.s.Env("AWS_DEFAULT_PROFILE"))
	p := profile{name: cmp.Or(named, "default"), values: map[string]string{}}
	dir := filepath.Join(a.s.Env("HOME"), ".aws")
	section := "profile " + p.name
	if p.name == "default" {
		section = "default"
	}
	for _, f := range []struct{ path, section string }{
		{cmp.Or(a.s.Env("AWS_CONFIG_FILE"), filepath.Join(dir, "config")), section},
		{cmp.Or(a.s.Env("AWS_SHARED_CREDENTIALS_FILE"), filepath.Join(dir, "credentials")), p.name},
	} {
		raw, err := os.ReadFile(f.path)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return p, fmt.Errorf("read AWS profile: %w", err)
		}
		values, ok := iniSections(raw)[f.section]
		if ok {
			p.found = true
			maps.Copy(p.values, values)
		}
	}
	if named != "" && !p.found {
		return p, fmt.Errorf("AWS profile %q (AWS_PROFILE) is neither in the config nor in the credentials file", named)
	}
	return p, nil
}

// iniSections reads "[section]" and "key = value" lines. Lines that are
// indented belong to a nested value, of which we need none.
func iniSections(raw []byte) map[string]map[string]string {
	out := map[string]map[string]string{}
	var current map[string]string
	sc := bufio.NewScanner(bytes.NewReader(raw))
	sc.Buffer(nil, 1<<20)
	for sc.Scan() {
		text := sc.Text()
		line := strings.TrimSpace(text)
		switch {
		case line == "" || line[0] == '#' || line[0] == ';':
		case line[0] == '[':
			name, _, _ := strings.Cut(line[1:], "]")
			name = strings.Join(strings.Fields(name), " ")
			if out[name] == nil {
				out[name] = map[string]string{}
			}
			current = out[name]
		case current != nil && text[0] != ' ' && text[0] != '\t':
			k, v, _ := strings.Cut(line, "=")
			v = strings.TrimSpace(v)
			for _, comment := range []string{" #", " ;", "\t#", "\t;"} {
				v, _, _ = strings.Cut(v, comment)
			}
			current[strings.ToLower(strings.TrimSpace(k))] = strings.TrimSpace(v)
		}
	}
	return out
}
