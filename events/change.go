package events

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
)

// Kinds of change.
const (
	KindObject = "object" // an object was stored in a bucket
	KindGit    = "git"    // a ref of a git repository was created, moved or deleted
	KindImage  = "image"  // a tag of an image repository was made or moved
)

// Change says that something arrived. It is what every foreign event becomes.
type Change struct {
	// Kind is KindObject, KindGit or KindImage.
	Kind string `json:"kind"`
	// Location is the bucket as a URL without a path ("gs://b", "s3://b",
	// "kiln://b") or, of Azure, the address of the container
	// ("https://a.blob.core.windows.net/c"); or the repository as "host/path" in lower-case host, with
	// neither scheme nor ".git"; or the image's repository with its host
	// ("docker.io/library/golang").
	Location string `json:"location"`
	// Name is the object's key, the full name of the ref, or the tag.
	Name string `json:"name"`
	// Generation pins the object's content: a generation in decimal, or a
	// version id; of an image, the digest that the tag names now. Empty for git.
	Generation string `json:"generation,omitempty"`
	// Order, of an object, grows with every write of the same key, where the
	// bucket says so: decimal or hex digits, compared by CompareOrder. Empty
	// if Generation itself is a number that does.
	Order string `json:"order,omitempty"`
	// Size of the object in bytes; 0 also if the sender did not say.
	Size int64 `json:"size,omitempty"`
	// Before and After are the object ids the ref had and has, in hex; all
	// zeros where there is none. Of SHA-1 or SHA-256 repositories alike.
	Before string `json:"before,omitempty"`
	After  string `json:"after,omitempty"`
	// Commit is the commit that After leads to, where the sender said it and
	// it is another: After is the tag object of an annotated tag.
	Commit string `json:"commit,omitempty"`
	// Metadata are the object's own key-value pairs. Untrusted.
	Metadata map[string]string `json:"metadata,omitempty"`
	// ContentType of the object as its writer declared it. Untrusted.
	ContentType string `json:"contentType,omitempty"`
	// Delivery is the id of the delivery, good for a log and the causationid
	// attribute and for nothing else: redeliveries may have another.
	Delivery string `json:"delivery,omitempty"`
	// Time is when the change happened, as its sender says.
	Time time.Time `json:"time,omitzero"`
	// CloneURL is where the sender says the repository can be cloned from.
	// Untrusted: a trigger's own configuration decides what is fetched.
	CloneURL string `json:"cloneUrl,omitempty"`
	// PushOptions are what the pusher gave with git push -o. Untrusted.
	PushOptions []string `json:"pushOptions,omitempty"`
	// Files are the paths that the commits between Before and After touch, where
	// the sender gave all of them; nil if it did not, as forges cut their lists.
	// Untrusted. A trigger's path filter uses it where the repository cannot be
	// asked; what is recorded leaves it out.
	Files []string `json:"files,omitempty"`
}

// Key is the natural identity of the change: two deliveries of the same change
// have the same key, whatever their delivery ids. It cannot collide by
// concatenation. It is no more than an identity: a→b, b→a and a→b again give
// the first and third change the same key, and only a register can tell that
// they are two.
func (c Change) Key() string {
	if c.Kind == KindGit {
		return netstrings(c.Kind, c.Location, c.Name, c.Before, c.After)
	}
	return netstrings(c.Kind, c.Location, c.Name, c.Generation)
}

// CompareOrder tells which of two changes of the same object was written
// first: negative if c was. known is false if the changes do not say.
func (c Change) CompareOrder(d Change) (order int, known bool) {
	a, b := c.order(), d.order()
	if a == "" || b == "" {
		return 0, false
	}
	if len(a) != len(b) {
		return len(a) - len(b), true
	}
	return strings.Compare(a, b), true
}

// order is the change's place among those of its object, without leading
// zeros, or empty if there is none.
func (c Change) order() string {
	s := strings.ToLower(c.Order)
	if s == "" {
		s = c.Generation
		if strings.Trim(s, "0123456789") != "" {
			return ""
		}
	}
	if s == "" || strings.Trim(s, "0123456789abcdef") != "" {
		return ""
	}
	if s = strings.TrimLeft(s, "0"); s == "" {
		return "0"
	}
	return s
}

// RepoLocation turns the address of a repository in any of git's spellings
// (https://host/p.git, ssh://git@host:22/p, git@host:p.git, host/p) into a
// Location: the host in lower case, its port if it is not the scheme's own,
// and the path without ".git". User names and passwords are dropped.
func RepoLocation(address string) (string, error) {
	scheme, rest, hasScheme := strings.Cut(strings.TrimSpace(address), "://")
	if !hasScheme {
		scheme, rest = "", scheme
		if at, path, ok := strings.Cut(rest, ":"); ok && !strings.Contains(at, "/") && !startsWithPort(path) {
			rest = at + "/" + path // user@host:path
		}
	}
	host, path, _ := strings.Cut(rest, "/")
	host = strings.ToLower(host[strings.LastIndexByte(host, '@')+1:])
	if port, ok := defaultPort(scheme); ok {
		host = strings.TrimSuffix(host, port)
	}
	path = strings.TrimSuffix(strings.Trim(path, "/"), ".git")
	for _, part := range append(strings.Split(path, "/"), host) {
		if part == "" || part == "." || part == ".." || strings.ContainsAny(part, " \t\r\n\x00?#\\") {
			return "", fmt.Errorf("repository %q is not an address such as https://host/path.git", redactURLs(address))
		}
	}
	return host + "/" + path, nil
}

// startsWithPort reports whether s is "<digits>/…".
func startsWithPort(s string) bool {
	port, _, ok := strings.Cut(s, "/")
	return ok && port != "" && strings.Trim(port, "0123456789") == ""
}

// defaultPort is the port a scheme has when none is written, as ":443".
func defaultPort(scheme string) (port string, ok bool) {
	switch strings.ToLower(scheme) {
	case "https":
		return ":443", true
	case "http":
		return ":80", true
	case "ssh", "git+ssh":
		return ":22", true
	case "git":
		return ":9418", true
	}
	return "", false
}

// Deleted reports whether the change is the deletion of a ref.
func (c Change) Deleted() bool { return c.Kind == KindGit && IsZeroID(c.After) }

// Created reports whether the change is the creation of a ref.
func (c Change) Created() bool { return c.Kind == KindGit && IsZeroID(c.Before) }

// Revision is the commit to build: Commit where the sender told it, otherwise
// After. It is empty for an object and for a deleted ref.
func (c Change) Revision() string {
	switch {
	case c.Kind != KindGit || c.Deleted():
		return ""
	case c.Commit != "":
		return c.Commit
	}
	return c.After
}

// Validate reports the first thing about the change that no part of Kiln could
// work with.
func (c Change) Validate() error {
	if c.Location == "" {
		return errors.New("change has no location")
	}
	if c.Name == "" {
		return errors.New("change has no name")
	}
	switch c.Kind {
	case KindObject:
		if c.Generation == "" {
			return fmt.Errorf("object %s/%s has no generation", c.Location, c.Name)
		}
		if c.Size < 0 {
			return fmt.Errorf("object %s/%s has size %d", c.Location, c.Name, c.Size)
		}
	case KindImage:
		if !IsDigest(c.Generation) {
			return fmt.Errorf("digest %q of image %s:%s is not sha256: and 64 hex digits", CleanText(c.Generation, MaxReason), c.Location, c.Name)
		}
	case KindGit:
		if !isRefName(c.Name) {
			return fmt.Errorf("ref %q of %s is not a full name such as refs/heads/main", CleanText(c.Name, MaxReason), c.Location)
		}
		for _, id := range []string{c.Before, c.After} {
			if !IsObjectID(id) {
				return fmt.Errorf("object id %q of %s %s is not 40 or 64 hex digits", id, c.Location, c.Name)
			}
		}
		if c.Commit != "" && !IsObjectID(c.Commit) {
			return fmt.Errorf("commit %q of %s %s is not 40 or 64 hex digits", c.Commit, c.Location, c.Name)
		}
	default:
		return fmt.Errorf("kind of change %q is none of %s, %s, %s", CleanText(c.Kind, MaxReason), KindObject, KindGit, KindImage)
	}
	return nil
}

// isRefName reports whether s is a full ref name that git would accept; the
// rules are those of git check-ref-format. It matters because names travel
// into commands and URLs.
func isRefName(s string) bool {
	path, ok := strings.CutPrefix(s, "refs/")
	if !ok || len(s) > 1024 || strings.Contains(s, "..") || strings.Contains(s, "@{") || strings.HasSuffix(s, ".") {
		return false
	}
	odd := func(r rune) bool { return r <= ' ' || r == 0x7f || strings.ContainsRune("~^:?*[\\", r) }
	if strings.ContainsFunc(s, odd) || !utf8.ValidString(s) {
		return false
	}
	for part := range strings.SplitSeq(path, "/") {
		if part == "" || part[0] == '.' || strings.HasSuffix(part, ".lock") {
			return false
		}
	}
	return true
}

// IsObjectID reports whether s is a git object id: 40 or 64 lower-case hex digits.
func IsObjectID(s string) bool {
	return (len(s) == 40 || len(s) == 64) && strings.Trim(s, "0123456789abcdef") == ""
}

// IsZeroID reports whether s stands for "no object": empty or all zeros.
func IsZeroID(s string) bool { return strings.Trim(s, "0") == "" }

// netstrings writes every part with its length in front, so that no two lists
// of parts give the same string.
func netstrings(parts ...string) string {
	var b strings.Builder
	for _, p := range parts {
		b.WriteString(strconv.Itoa(len(p)))
		b.WriteByte(':')
		b.WriteString(p)
		b.WriteByte(',')
	}
	return b.String()
}
