package port

import (
	"errors"
	"fmt"
	"net"
	"strconv"
	"syscall"
	"testing"
)

// TestFree proves that a port can be listened on, is given to one test at a time, and is
// given again after it.
func TestFree(t *testing.T) {
	seen := map[string]bool{}
	for range 200 {
		a := Free(t)
		if seen[a] {
			t.Fatalf("%s was given twice", a)
		}
		seen[a] = true
	}
	var a string
	t.Run("owner", func(t *testing.T) {
		a = Free(t)
		l, err := net.Listen("tcp", a)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = l.Close() })
		if release := reserve(number(t, a), 1); release != nil {
			release()
			t.Error("a port that is given was reserved")
		}
	})
	release := reserve(number(t, a), 1)
	if release == nil {
		t.Fatal("the port was not given back")
	}
	release()
}

// TestRow proves that all ports of a row are the test's.
func TestRow(t *testing.T) {
	p := Row(t, 3)
	for i := p; i < p+3; i++ {
		if release := reserve(i, 1); release != nil {
			release()
			t.Errorf("port %d of a row was reserved", i)
		}
	}
	if l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", p+2)); err != nil {
		t.Error(err)
	} else {
		_ = l.Close()
	}
}

// TestClosed proves that connections are refused, and that nobody else can bind the port
// before it is given back.
func TestClosed(t *testing.T) {
	a, release, err := Refuse()
	if err != nil {
		t.Fatal(err)
	}
	if c, err := net.Dial("tcp", a); !errors.Is(err, syscall.ECONNREFUSED) {
		if err == nil {
			_ = c.Close()
		}
		t.Errorf("dial: %v", err)
	}
	if l, err := net.Listen("tcp", a); err == nil {
		_ = l.Close()
		t.Error("the port could be listened on")
	}
	release()
	l, err := net.Listen("tcp", a)
	if err != nil {
		t.Fatalf("after it was given back: %v", err)
	}
	_ = l.Close()
	if c, err := net.Dial("tcp", Closed(t)); err == nil {
		_ = c.Close()
		t.Error("a closed port took a connection")
	}
}

func number(t *testing.T, a string) int {
	t.Helper()
	_, p, err := net.SplitHostPort(a)
	if err != nil {
		t.Fatal(err)
	}
	n, err := strconv.Atoi(p)
	if err != nil {
		t.Fatal(err)
	}
	return n
}
