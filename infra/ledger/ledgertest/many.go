package ledgertest

import (
	"bytes"
	"errors"
	"io/fs"
	"strconv"
	"sync/atomic"
	"testing"

	"github.com/kilnhook/kiln/infra/ledger"
)

// Of many that create one key at once exactly one succeeds, and its value is
// the one that is there.
func oneCreatorWins(t *testing.T, s Store) {
	for round := range 20 {
		key := "builds/" + strconv.Itoa(round) + "/result.json"
		var winners atomic.Int32
		var winner atomic.Value
		parallel(16, func(i int) {
			value := "value of " + strconv.Itoa(i)
			_, err := s.Create(t.Context(), key, []byte(value))
			switch {
			case err == nil:
				winners.Add(1)
				winner.Store(value)
			case !errors.Is(err, fs.ErrExist):
				t.Errorf("create: %v", err)
			}
		})
		if n := winners.Load(); n != 1 {
			t.Fatalf("%d creators of one key succeeded", n)
		}
		if got := mustGet(t, s, key); got != winner.Load() {
			t.Fatalf("value is %q, the winner wrote %q", got, winner.Load())
		}
	}
}

// Counting with Swap from many goroutines counts every step.
func swapsAreNotLost(t *testing.T, s Store) {
	const workers, steps = 8, 25
	parallel(workers, func(int) {
		for range steps {
			if err := Increment(t.Context(), s, "counter"); err != nil {
				t.Error(err)
			}
		}
	})
	if got, want := mustGet(t, s, "counter"), strconv.Itoa(workers*steps); got != want {
		t.Errorf("counted to %s, want %s", got, want)
	}
}

// Of a hundred that swap one version exactly one succeeds, and the others are
// told that it was changed.
func aHundredSwap(t *testing.T, s Store) {
	version := mustCreate(t, s, "refs/t/h.json", "before")
	var winners atomic.Int32
	var winner atomic.Value
	parallel(100, func(i int) {
		value := "value of " + strconv.Itoa(i)
		_, err := s.Swap(t.Context(), "refs/t/h.json", version, []byte(value))
		switch {
		case err == nil:
			winners.Add(1)
			winner.Store(value)
		case !errors.Is(err, ledger.ErrConflict):
			t.Errorf("swap: %v", err)
		}
	})
	if n := winners.Load(); n != 1 {
		t.Fatalf("%d swaps of one version succeeded", n)
	}
	if got := mustGet(t, s, "refs/t/h.json"); got != winner.Load() {
		t.Errorf("value is %q, the winner wrote %q", got, winner.Load())
	}
}

// Of a hundred that create a key exactly one succeeds.
func aHundredCreate(t *testing.T, s Store) {
	var winners atomic.Int32
	parallel(100, func(i int) {
		switch _, err := s.Create(t.Context(), "builds/x/result.json", []byte(strconv.Itoa(i))); {
		case err == nil:
			winners.Add(1)
		case !errors.Is(err, fs.ErrExist):
			t.Errorf("create: %v", err)
		}
	})
	if n := winners.Load(); n != 1 {
		t.Fatalf("%d creators of one key succeeded", n)
	}
}

// While a value is replaced, a reader sees the old or the new one and never a
// part, a mixture or nothing.
func readersSeeWholeValues(t *testing.T, s Store) {
	value := func(i int) []byte { return bytes.Repeat([]byte{byte('a' + i%26)}, 64<<10) }
	version, err := s.Create(t.Context(), "k", value(0))
	if err != nil {
		t.Fatal(err)
	}
	var done atomic.Bool
	parallel(4, func(i int) {
		if i == 0 {
			defer done.Store(true)
			for n := 1; n < 50; n++ {
				if version, err = s.Swap(t.Context(), "k", version, value(n)); err != nil {
					t.Error(err)
					return
				}
			}
			return
		}
		for !done.Load() {
			data, _, err := s.Get(t.Context(), "k")
			if err != nil {
				t.Error(err)
				return
			}
			if len(data) != 64<<10 || !bytes.Equal(data, bytes.Repeat(data[:1], len(data))) {
				t.Errorf("read a torn value of %d bytes", len(data))
				return
			}
		}
	})
}

// Creating and deleting the only key of a directory at once never fails for
// the creators.
func createRacesDelete(t *testing.T, s Store) {
	parallel(4, func(i int) {
		for n := range 50 {
			key := "open/group/" + strconv.Itoa(i)
			if _, err := s.Create(t.Context(), key, []byte{byte(n)}); err != nil {
				t.Errorf("create: %v", err)
				return
			}
			if err := s.Delete(t.Context(), key); err != nil {
				t.Errorf("delete: %v", err)
				return
			}
		}
	})
	if keys, err := s.List(t.Context(), "", "", 0); err != nil || len(keys) != 0 {
		t.Errorf("left over: %q, %v", keys, err)
	}
}
