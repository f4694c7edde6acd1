// Package sqstest has a queue for tests that is like one of Amazon SQS.
package sqstest

import (
	"crypto/md5"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// Queue is a queue as SQS has one, in the JSON protocol of 2023: messages that
// are received are not shown until their visibility timeout is over, a receipt
// handle is of one receipt, and with a redrive policy what was received too often
// goes to the dead letters. Only the seconds of ChangeMessageVisibility pass as
// milliseconds.
type Queue struct {
	*httptest.Server // its URL is the endpoint

	mu         sync.Mutex
	messages   []*message
	dead       []string // bodies
	maxReceive int      // of the redrive policy
	receipts   int
	fail       int   // requests that are answered 503
	timeouts   []int // that were asked for by ChangeMessageVisibility
}

type message struct {
	id, body, receipt string
	received          int
	shows             time.Time
}

// New returns an empty queue that gives a message to the dead letters after
// maxReceive receipts, and answers its first requests, as many as fail, with 503.
func New(t testing.TB, maxReceive, fail int) *Queue {
	t.Helper()
	q := &Queue{maxReceive: maxReceive, fail: fail}
	q.Server = httptest.NewServer(q)
	t.Cleanup(q.Close)
	return q
}

// Address is the URL of the queue.
func (q *Queue) Address() string { return q.URL + "/123456789012/changes" }

// Send puts a message into the queue.
func (q *Queue) Send(body string) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.messages = append(q.messages, &message{id: fmt.Sprintf("m-%d", len(q.messages)), body: body})
}

// Left are the bodies of the messages that were not deleted, and the dead ones.
func (q *Queue) Left() (live, dead []string) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for _, m := range q.messages {
		live = append(live, m.body)
	}
	return live, append([]string{}, q.dead...)
}

// Pauses are the visibility timeouts in seconds that were asked for.
func (q *Queue) Pauses() []int {
	q.mu.Lock()
	defer q.mu.Unlock()
	return append([]int{}, q.timeouts...)
}

// ServeHTTP implements the actions that a consumer needs.
func (q *Queue) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	var in struct {
		QueueURL            string `json:"QueueUrl"`
		MaxNumberOfMessages int
		VisibilityTimeout   int
		WaitTimeSeconds     int
		ReceiptHandle       string
	}
	if err := json.NewDecoder(r.Body).Decode(&in); err != nil {
		refuse(w, "com.amazonaws.sqs#InvalidParameterValue")
		return
	}
	action := strings.TrimPrefix(r.Header.Get("X-Amz-Target"), "AmazonSQS.")
	signed := strings.HasPrefix(r.Header.Get("Authorization"), "AWS4-HMAC-SHA256 ")
	q.mu.Lock()
	failing := q.fail > 0
	if failing {
		q.fail--
	}
	q.mu.Unlock()
	switch {
	case failing:
		w.WriteHeader(http.StatusServiceUnavailable)
	case !signed:
		refuse(w, "com.amazonaws.sqs#InvalidSecurity")
	case in.QueueURL != q.Address():
		refuse(w, "com.amazonaws.sqs#QueueDoesNotExist")
	case action == "ReceiveMessage":
		q.receive(w, r, in.MaxNumberOfMessages, time.Duration(in.VisibilityTimeout)*time.Second, time.Duration(in.WaitTimeSeconds)*time.Second)
	case action == "DeleteMessage":
		q.change(w, in.ReceiptHandle, func(i int) { q.messages = append(q.messages[:i], q.messages[i+1:]...) })
	case action == "ChangeMessageVisibility":
		q.change(w, in.ReceiptHandle, func(i int) {
			q.timeouts = append(q.timeouts, in.VisibilityTimeout)
			q.messages[i].shows = time.Now().Add(time.Duration(in.VisibilityTimeout) * time.Millisecond)
		})
	default:
		refuse(w, "com.amazonaws.sqs#UnsupportedOperation")
	}
}

func refuse(w http.ResponseWriter, code string) {
	w.Header().Set("Content-Type", "application/x-amz-json-1.0")
	w.WriteHeader(http.StatusBadRequest)
	fmt.Fprintf(w, `{"__type":%q}`, code)
}

func (q *Queue) receive(w http.ResponseWriter, r *http.Request, n int, timeout, wait time.Duration) {
	for deadline := time.Now().Add(wait); ; time.Sleep(5 * time.Millisecond) {
		if got := q.take(n, timeout); len(got) > 0 || time.Now().After(deadline) || r.Context().Err() != nil {
			w.Header().Set("Content-Type", "application/x-amz-json-1.0")
			_ = json.NewEncoder(w).Encode(map[string]any{"Messages": got})
			return
		}
	}
}

// take returns messages that show, and hides them.
func (q *Queue) take(n int, timeout time.Duration) []map[string]any {
	q.mu.Lock()
	defer q.mu.Unlock()
	var got []map[string]any
	kept := q.messages[:0:0]
	for _, m := range q.messages {
		if len(got) == n || time.Now().Before(m.shows) {
			kept = append(kept, m)
			continue
		}
		if m.received == q.maxReceive {
			q.dead = append(q.dead, m.body)
			continue
		}
		q.receipts++
		m.received++
		m.receipt, m.shows = "r-"+strconv.Itoa(q.receipts), time.Now().Add(timeout)
		sum := md5.Sum([]byte(m.body))
		got = append(got, map[string]any{
			"MessageId": m.id, "ReceiptHandle": m.receipt, "Body": m.body, "MD5OfBody": hex.EncodeToString(sum[:]),
			"Attributes": map[string]string{"ApproximateReceiveCount": strconv.Itoa(m.received)},
		})
		kept = append(kept, m)
	}
	q.messages = kept
	return got
}

// change does something to the message of a receipt.
func (q *Queue) change(w http.ResponseWriter, receipt string, do func(i int)) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for i, m := range q.messages {
		if m.receipt == receipt {
			do(i)
			w.Header().Set("Content-Type", "application/x-amz-json-1.0")
			fmt.Fprint(w, "{}")
			return
		}
	}
	refuse(w, "com.amazonaws.sqs#ReceiptHandleIsInvalid")
}
