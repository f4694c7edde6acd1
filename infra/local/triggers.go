package local

import (
	"fmt"
	"strconv"
)

// DefaultTriggers is the kiln.yaml that a stack uses unless it is given
// another: every object in the bucket contexts becomes the image named after
// the first part of its path, every pushed ref the image named after its
// repository, in the registry at host:port.
func DefaultTriggers(registry string) []byte {
	image := func(name string) string { return strconv.Quote(registry + "/{{ slug " + name + " }}") }
	return fmt.Appendf(nil, `triggers:
- name: upload
  on:
    object: {bucket: "kiln://contexts"}
  push:
    image: %s
    tags: [latest, "{{ .Generation }}", '{{ index .Metadata "tag" }}']
- name: push
  on:
    git: {repo: "**"}
  push:
    image: %s
    tags: ["{{ .Ref.Slug }}", "{{ trunc 12 .Commit }}"]
`, image(".Object.First"), image(".Repo.Path"))
}
