package ledger

import (
	"bytes"
	"context"
	"fmt"
	"io/fs"
	"maps"
	"slices"
	"strings"
	"sync"
)

// Mem is a store in memory, for tests and for programs that need nothing to
// survive them. Its zero value is an empty store.
type Mem struct {
	mu     sync.Mutex
	values map[string][]byte // guarded by mu
}

// Get is as of Dir.
func (m *Mem) Get(ctx context.Context, key string) (data []byte, version string, err error) {
	if err := check(ctx, key, nil); err != nil {
		return nil, "", err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	data, ok := m.values[key]
	if !ok {
		return nil, "", fmt.Errorf("read ledger key %s: %w", key, fs.ErrNotExist)
	}
	return bytes.Clone(data), versionOf(data), nil
}

// Create is as of Dir.
func (m *Mem) Create(ctx context.Context, key string, data []byte) (version string, err error) {
	if err := check(ctx, key, data); err != nil {
		return "", err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if _, ok := m.values[key]; ok {
		return "", fmt.Errorf("create ledger key %s: %w", key, fs.ErrExist)
	}
	return m.put(key, data), nil
}

// Swap is as of Dir.
func (m *Mem) Swap(ctx context.Context, key, version string, data []byte) (newVersion string, err error) {
	if err := check(ctx, key, data); err != nil {
		return "", err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	old, ok := m.values[key]
	if ok != (version != "") || ok && versionOf(old) != version {
		return "", fmt.Errorf("swap ledger key %s: %w", key, ErrConflict)
	}
	return m.put(key, data), nil
}

// put stores a copy. The caller holds mu.
func (m *Mem) put(key string, data []byte) string {
	if m.values == nil {
		m.values = map[string][]byte{}
	}
	m.values[key] = append([]byte{}, data...)
	return versionOf(data)
}

// Delete is as of Dir.
func (m *Mem) Delete(ctx context.Context, key string) error {
	if err := check(ctx, key, nil); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.values, key)
	return nil
}

// List is as of Dir.
func (m *Mem) List(ctx context.Context, prefix, after string, limit int) ([]string, error) {
	if err := CheckPrefix(prefix); err != nil {
		return nil, err
	}
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	var keys []string
	for _, key := range slices.Sorted(maps.Keys(m.values)) {
		if key > after && strings.HasPrefix(key, prefix) {
			keys = append(keys, key)
			if len(keys) == limit {
				break
			}
		}
	}
	return keys, nil
}
