package s3_test

import (
	"errors"
	"flag"
	"strings"
	"testing"

	"github.com/kilnhook/kiln/events/source"
	"github.com/kilnhook/kiln/events/source/s3"
	"github.com/kilnhook/kiln/events/source/sourcetest"
)

var _ = flag.Bool("update", false, "rewrite the golden files")

func TestGolden(t *testing.T) { sourcetest.Golden(t, s3.Parse) }

func FuzzParse(f *testing.F) { sourcetest.Fuzz(f, s3.Parse) }

// The sequencer orders writes of one key.
func TestSequencerOrders(t *testing.T) {
	changes, err := s3.Parse(sourcetest.Request(t, "testdata/two.http"))
	if err != nil || len(changes) != 2 {
		t.Fatal(changes, err)
	}
	if order, known := changes[0].CompareOrder(changes[1]); !known || order >= 0 {
		t.Errorf("order %d, known %t", order, known)
	}
}

// One upload is the same change by all roads.
func TestRoadsAgree(t *testing.T) {
	keys := map[string]string{}
	for _, name := range []string{"put", "sns", "bridge"} {
		changes, err := s3.Parse(sourcetest.Request(t, "testdata/"+name+".http"))
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		keys[changes[0].Key()] = name
	}
	if len(keys) != 1 {
		t.Errorf("keys %v", keys)
	}
}

// A subscription is confirmed by a person, who is sent to SNS and nowhere else.
func TestConfirmation(t *testing.T) {
	_, err := s3.Parse(sourcetest.Request(t, "testdata/sns_confirm.http"))
	var ignored *source.IgnoredError
	if !errors.As(err, &ignored) || !strings.Contains(ignored.Notice, "https://sns.eu-west-1.amazonaws.com/?Action=ConfirmSubscription") {
		t.Errorf("%v", err)
	}
	for _, address := range []string{
		"", "http://sns.eu-west-1.amazonaws.com/", "https://sns.eu-west-1.amazonaws.com:8443/", "https://u@sns.eu-west-1.amazonaws.com/",
		"https://sns.amazonaws.com.evil.example/", "https://sns.evil.example.amazonaws.com/", "https://s3.amazonaws.com/", "https://sns..amazonaws.com/", "%",
	} {
		_, err := s3.Parse(nil, []byte(`{"Type":"SubscriptionConfirmation","SubscribeURL":"`+address+`"}`))
		var malformed *source.MalformedError
		if !errors.As(err, &malformed) {
			t.Errorf("%q: %v", address, err)
		}
	}
}
