package bitbucket

import (
	"errors"
	"fmt"
	"strings"

	"github.com/kilnhook/kiln/events"
)

// dataCenter is a repo:refs_changed of Bitbucket Data Center as far as it
// matters.
type dataCenter struct {
	server string

	Actor struct {
		Name string `json:"name"`
	} `json:"actor"`
	Repository struct {
		Slug    string `json:"slug"`
		Project struct {
			Key string `json:"key"`
		} `json:"project"`
		Links struct {
			Clone []link `json:"clone"`
			Self  []link `json:"self"` // of the page in a browser
		} `json:"links"`
	} `json:"repository"`
	Changes []struct {
		RefID    string `json:"refId"`
		FromHash string `json:"fromHash"`
		ToHash   string `json:"toHash"`
		Type     string `json:"type"`
	} `json:"changes"`
}

// cloneURL is where the repository can be cloned from: as the payload says, or
// derived from the address of its page or of
// the server.
func (p *dataCenter) cloneURL() (string, error) {
	for _, l := range p.Repository.Links.Clone {
		if strings.HasPrefix(l.Href, "https://") || strings.HasPrefix(l.Href, "http://") {
			return l.Href, nil
		}
	}
	key, slug := strings.ToLower(p.Repository.Project.Key), p.Repository.Slug
	if key != "" && slug != "" {
		for _, l := range p.Repository.Links.Self {
			for _, page := range []string{"/projects/", "/users/"} {
				if base, _, ok := strings.Cut(l.Href, page); ok {
					return base + "/scm/" + key + "/" + slug + ".git", nil
				}
			}
		}
		if p.server != "" {
			return strings.TrimRight(p.server, "/") + "/scm/" + key + "/" + slug + ".git", nil
		}
	}
	return "", errors.New("it does not say where the repository is, and the address of the server is not configured")
}

func (p *dataCenter) changes() ([]events.Change, error) {
	cloneURL, err := p.cloneURL()
	if err != nil {
		return nil, err
	}
	location, err := events.RepoLocation(cloneURL)
	if err != nil {
		return nil, err
	}
	var list []events.Change
	for i, c := range p.Changes {
		made := change(location, cloneURL, p.Actor.Name, c.RefID, c.FromHash, c.ToHash)
		want := map[string][2]bool{"ADD": {true, false}, "UPDATE": {false, false}, "DELETE": {false, true}}
		zeros, known := want[c.Type]
		if !known || zeros != [2]bool{made.Created(), made.Deleted()} {
			return nil, fmt.Errorf("change %d: type %q does not fit its object ids", i, events.CleanText(c.Type, 40))
		}
		list = append(list, made)
	}
	return list, nil
}
