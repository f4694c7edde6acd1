package record

import (
	"context"
	"fmt"
	"io/fs"
	"slices"
	"strings"

	"github.com/kilnhook/kiln/events"
)

// AbbreviationError means that a text names no build, or several.
type AbbreviationError struct{ text string }

func (e *AbbreviationError) Error() string { return e.text }

// Lister is a ledger whose keys can be listed.
type Lister interface {
	List(ctx context.Context, prefix, after string, limit int) ([]string, error)
}

// findLimit is how many records are looked at to find the builds that begin alike.
const findLimit = 20

// Find completes the abbreviated id of a build; a whole id need not be that of one. The
// error wraps fs.ErrNotExist if no build begins so, and is an AbbreviationError if it is the
// text that is wrong.
func Find(ctx context.Context, l Lister, abbreviated string) (string, error) {
	id := strings.ToLower(strings.TrimSpace(abbreviated))
	if events.IsBuildID(id) {
		return id, nil
	}
	if id == "" || strings.Trim(id, "0123456789abcdefghijklmnopqrstuv") != "" {
		return "", &AbbreviationError{fmt.Sprintf("%q is not a build id, nor the beginning of one", abbreviated)}
	}
	keys, err := l.List(ctx, BuildsPrefix+id, "", findLimit)
	if err != nil {
		return "", fmt.Errorf("find build %s: %w", id, err)
	}
	var found []string
	for _, key := range keys {
		if whole, _, ok := strings.Cut(strings.TrimPrefix(key, BuildsPrefix), "/"); ok && !slices.Contains(found, whole) {
			found = append(found, whole)
		}
	}
	switch len(found) {
	case 0:
		return "", fmt.Errorf("no build begins with %s: %w", id, fs.ErrNotExist)
	case 1:
		return found[0], nil
	}
	return "", &AbbreviationError{fmt.Sprintf("several builds begin with %s: %s", id, strings.Join(found, ", "))}
}
