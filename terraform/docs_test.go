// Package terraform_test checks what the documents of this folder say about
// Kiln. The modules themselves are checked by the module in tests.
package terraform_test

import (
	"os"
	"strings"
	"testing"

	"github.com/kilnhook/kiln/events/trigger"
)

// TestTriggersOfTheFirstDeployment proves that the triggers which the document
// has its reader write are triggers.
func TestTriggersOfTheFirstDeployment(t *testing.T) {
	data, err := os.ReadFile("docs/first-deployment.md")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, ok := strings.Cut(string(data), "cat > kiln.yaml <<EOF\n")
	text, _, ended := strings.Cut(rest, "EOF\n")
	if !ok || !ended {
		t.Fatal("the document writes no kiln.yaml")
	}
	text = strings.NewReplacer("$PROJECT", "acme-builds", "$REGION", "europe-west1").Replace(text)
	set, err := trigger.Parse("kiln.yaml", []byte(text))
	if err != nil {
		t.Fatalf("%v\n%s", err, text)
	}
	all := set.All()
	if len(all) != 1 || all[0].On[0].Object == nil || all[0].On[0].Object.Bucket != "gs://acme-builds-kiln-contexts" {
		t.Errorf("got %+v", all)
	}
}
