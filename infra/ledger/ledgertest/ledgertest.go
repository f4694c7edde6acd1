// Package ledgertest is what it means to be a ledger: a suite of tests that
// every store must pass.
package ledgertest

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strconv"
	"sync"
	"testing"

	"github.com/kilnhook/kiln/infra/ledger"
)

// Store is what is tested.
type Store interface {
	Get(ctx context.Context, key string) (data []byte, version string, err error)
	Create(ctx context.Context, key string, data []byte) (version string, err error)
	Swap(ctx context.Context, key, version string, data []byte) (newVersion string, err error)
	Delete(ctx context.Context, key string) error
	List(ctx context.Context, prefix, after string, limit int) ([]string, error)
}

// Run runs the suite. open returns a new empty store for each test.
func Run(t *testing.T, open func(t *testing.T) Store) {
	for _, tc := range []struct {
		name string
		test func(t *testing.T, s Store)
	}{
		{"CreateThenGet", createThenGet},
		{"CreateOnlyOnce", createOnlyOnce},
		{"SwapNeedsTheVersion", swapNeedsTheVersion},
		{"SwapOfNothing", swapOfNothing},
		{"DeleteAndCreateAgain", deleteAndCreateAgain},
		{"ValuesAreBytes", valuesAreBytes},
		{"KeysAreChecked", keysAreChecked},
		{"ListIsOrdered", listIsOrdered},
		{"ListPages", listPages},
		{"EndedContext", endedContext},
		{"OneCreatorWins", oneCreatorWins},
		{"SwapsAreNotLost", swapsAreNotLost},
		{"ReadersSeeWholeValues", readersSeeWholeValues},
		{"CreateRacesDelete", createRacesDelete},
		{"AHundredSwap", aHundredSwap},
		{"AHundredCreate", aHundredCreate},
		{"LongLists", longLists},
	} {
		t.Run(tc.name, func(t *testing.T) { tc.test(t, open(t)) })
	}
}

// Increment adds one to the decimal number under a key, starting from nothing,
// as a user of Get and Swap would.
func Increment(ctx context.Context, s Store, key string) error {
	for {
		data, version, err := s.Get(ctx, key)
		n := 0
		switch {
		case errors.Is(err, fs.ErrNotExist):
			version = ""
		case err != nil:
			return err
		default:
			if n, err = strconv.Atoi(string(data)); err != nil {
				return fmt.Errorf("counter holds %q: %w", data, err)
			}
		}
		_, err = s.Swap(ctx, key, version, []byte(strconv.Itoa(n+1)))
		if !errors.Is(err, ledger.ErrConflict) {
			return err
		}
	}
}

// parallel runs f(0) to f(n-1) at once and waits for all.
func parallel(n int, f func(i int)) {
	var wg sync.WaitGroup
	start := make(chan struct{})
	for i := range n {
		wg.Go(func() {
			<-start
			f(i)
		})
	}
	close(start)
	wg.Wait()
}

func mustCreate(t *testing.T, s Store, key, value string) (version string) {
	t.Helper()
	version, err := s.Create(t.Context(), key, []byte(value))
	if err != nil {
		t.Fatal(err)
	}
	return version
}

func mustGet(t *testing.T, s Store, key string) string {
	t.Helper()
	data, _, err := s.Get(t.Context(), key)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}
