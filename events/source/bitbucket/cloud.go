package bitbucket

import (
	"fmt"

	"github.com/kilnhook/kiln/events"
)

// cloud is a repo:push of Bitbucket Cloud as far as it matters.
type cloud struct {
	Actor struct {
		Nickname string `json:"nickname"`
	} `json:"actor"`
	Repository struct {
		FullName string `json:"full_name"`
		Links    struct {
			HTML link `json:"html"`
		} `json:"links"`
	} `json:"repository"`
	Push struct {
		Changes []cloudChange `json:"changes"`
	} `json:"push"`
}

type link struct {
	Href string `json:"href"`
	Name string `json:"name"` // of several: http or ssh
}

// cloudChange has no old for what was created and no new for what was deleted.
type cloudChange struct {
	Old *cloudRef `json:"old"`
	New *cloudRef `json:"new"`
}

type cloudRef struct {
	Type   string `json:"type"` // branch or tag; others are not Git's
	Name   string `json:"name"` // short
	Target struct {
		Hash string `json:"hash"` // a commit, also of an annotated tag
	} `json:"target"`
}

// fullName is the full name of a ref, or empty if it is not one of Git's.
func (r cloudRef) fullName() string {
	switch r.Type {
	case "branch":
		return "refs/heads/" + r.Name
	case "tag", "annotated_tag":
		return "refs/tags/" + r.Name
	}
	return ""
}

func (p *cloud) changes() ([]events.Change, error) {
	address := p.Repository.Links.HTML.Href
	if address == "" {
		address = "https://bitbucket.org/" + p.Repository.FullName
	}
	location, err := events.RepoLocation(address)
	if err != nil {
		return nil, err
	}
	var list []events.Change
	for i, c := range p.Push.Changes {
		var name, before, after string
		for _, side := range []struct {
			ref *cloudRef
			id  *string
		}{{c.Old, &before}, {c.New, &after}} {
			if side.ref == nil {
				continue
			}
			if *side.id = side.ref.Target.Hash; *side.id == "" {
				return nil, fmt.Errorf("change %d: target has no hash", i)
			}
			if other := side.ref.fullName(); name != "" && other != name {
				return nil, fmt.Errorf("change %d: it turns one ref into another", i)
			}
			name = side.ref.fullName()
		}
		if c.Old == nil && c.New == nil {
			return nil, fmt.Errorf("change %d: it has neither old nor new", i)
		}
		if name != "" {
			list = append(list, change(location, "https://"+location+".git", p.Actor.Nickname, name, before, after))
		}
	}
	return list, nil
}
