package sqs_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/credentials"

	"github.com/kilnhook/kiln/infra/pull/sqs"
	"github.com/kilnhook/kiln/infra/pull/sqs/sqstest"
)

// run pulls from a queue until the test ends.
func run(t *testing.T, q *sqstest.Queue, deliver func(ctx context.Context, h http.Header, body []byte) error) {
	t.Helper()
	p, err := sqs.Open(t.Context(), sqs.Options{
		Queue: q.Address(), Endpoint: q.URL, Region: "eu-west-1", Wait: time.Second, Pause: time.Millisecond,
		Credentials: credentials.NewStaticCredentialsProvider("a", "b", ""), Deliver: deliver,
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- p.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

// eventually waits until something is so.
func eventually(t *testing.T, what string, is func() bool) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !is(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not within half a minute: %s", what)
		}
	}
}

// Messages are deleted when they were handled, also those that had to come
// several times, and a queue that is down for a while is asked again.
func TestPull(t *testing.T) {
	q := sqstest.New(t, 1000, 3)
	for i := range 25 {
		q.Send(fmt.Sprintf(`{"Records":[%d]}`, i))
	}
	var failures, handled atomic.Int32
	run(t, q, func(_ context.Context, h http.Header, body []byte) error {
		if h.Get("Content-Type") != "application/json" {
			t.Errorf("header %v", h)
		}
		if string(body) == `{"Records":[7]}` && failures.Add(1) <= 3 {
			return errors.New("the ledger is down")
		}
		handled.Add(1)
		return nil
	})
	eventually(t, "the queue is empty", func() bool { live, _ := q.Left(); return len(live) == 0 })
	if handled.Load() != 25 {
		t.Errorf("%d messages were handled, want 25", handled.Load())
	}
	if got, want := q.Pauses(), []int{1, 2, 4}; !slices.Equal(got, want) {
		t.Errorf("pauses of %v seconds, want %v", got, want)
	}
}

// What can never be handled goes to the dead letters of the queue.
func TestDeadLetters(t *testing.T) {
	q := sqstest.New(t, 4, 0)
	q.Send("bad")
	q.Send("good")
	run(t, q, func(_ context.Context, _ http.Header, body []byte) error {
		if string(body) == "bad" {
			return errors.New("the ledger is down")
		}
		return nil
	})
	eventually(t, "the message is dead", func() bool { live, dead := q.Left(); return len(live) == 0 && len(dead) == 1 })
}

// No more than ten messages are handled at a time.
func TestPullIsBounded(t *testing.T) {
	q := sqstest.New(t, 1000, 0)
	for range 30 {
		q.Send("x")
	}
	var now, most atomic.Int32
	run(t, q, func(context.Context, http.Header, []byte) error {
		most.Store(max(most.Load(), now.Add(1)))
		time.Sleep(5 * time.Millisecond)
		now.Add(-1)
		return nil
	})
	eventually(t, "the queue is empty", func() bool { live, _ := q.Left(); return len(live) == 0 })
	if most.Load() > 10 || most.Load() < 2 {
		t.Errorf("%d were handled at a time", most.Load())
	}
}

func TestOpenChecks(t *testing.T) {
	for _, o := range []sqs.Options{{Queue: "https://q"}, {Deliver: func(context.Context, http.Header, []byte) error { return nil }}} {
		if _, err := sqs.Open(t.Context(), o); err == nil {
			t.Errorf("%+v was accepted", o)
		}
	}
}
