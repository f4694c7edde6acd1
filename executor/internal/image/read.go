package image

import (
	"errors"
	"fmt"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/layout"
)

// ReadLayout returns an image of the OCI image layout in dir. name is a tag, a
// digest or, if there is but one image, "". Of several platforms it is that
// which fits says yes to.
func ReadLayout(dir, name string, fits func(v1.Platform) bool) (v1.Image, error) {
	index, err := layout.ImageIndexFromPath(dir)
	if err != nil {
		return nil, fmt.Errorf("read OCI layout %s: %w", dir, err)
	}
	img, err := pick(index, name, fits, 0)
	if err != nil {
		return nil, fmt.Errorf("read OCI layout %s: %w", dir, err)
	}
	return img, nil
}

// maxIndexes is how deep indexes may lie in indexes.
const maxIndexes = 4

func pick(index v1.ImageIndex, name string, fits func(v1.Platform) bool, depth int) (v1.Image, error) {
	m, err := index.IndexManifest()
	if err != nil {
		return nil, err
	}
	var found []v1.Descriptor
	for _, d := range m.Manifests {
		if name != "" && name != d.Digest.String() && name != d.Annotations[refNameAnnotation] {
			continue
		}
		if d.Platform != nil && d.MediaType.IsImage() && !fits(*d.Platform) {
			continue
		}
		if d.MediaType.IsImage() || d.MediaType.IsIndex() && depth < maxIndexes {
			found = append(found, d)
		}
	}
	same := func(d v1.Descriptor) bool { return d.Digest == found[0].Digest }
	switch {
	case len(found) == 0 && name != "":
		return nil, fmt.Errorf("there is no image %s for the platform", name)
	case len(found) == 0:
		return nil, errors.New("there is no image for the platform")
	case depth == 0 && !all(found, same):
		var names []string
		for _, d := range found {
			names = append(names, d.Annotations[refNameAnnotation]+"@"+d.Digest.String())
		}
		return nil, fmt.Errorf("there are several images, name one: %s", strings.Join(names, ", "))
	}
	if found[0].MediaType.IsImage() {
		return index.Image(found[0].Digest)
	}
	inner, err := index.ImageIndex(found[0].Digest)
	if err != nil {
		return nil, err
	}
	return pick(inner, "", fits, depth+1)
}

func all(list []v1.Descriptor, ok func(v1.Descriptor) bool) bool {
	for _, d := range list {
		if !ok(d) {
			return false
		}
	}
	return true
}
