package crash

import (
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// claim is something that is promised and the tests that show it, as
// "directory.Test"; needs says what it takes that is not on one machine.
type claim struct {
	what  string
	tests []string
	needs string
}

// claims are the eighteen tests that prove what is said of events and dispatch.
func claims() []claim {
	return []claim{
		{"1 the same webhook 100 times in parallel: one build, one finished event", []string{"e2e/crash.TestHundredAtOnce", "e2e/stack.TestHundredTimesAtOnce"}, ""},
		{"2 pushes a→b→c delivered c, b, a: only c is tagged", []string{"functions/dispatch.TestOutOfOrder", "functions/dispatch.TestReversedDelivery"}, ""},
		{"3 a→b→a→b: four transitions, two builds and retags", []string{"functions/dispatch.TestFourTransitions"}, ""},
		{"4 the dispatcher killed at each step: the same end", []string{"e2e/crash.TestKilledAtEveryStep", "e2e/crash.TestKilledInTheLedger", "e2e/crash.TestKilledWhileSuperseding", "functions/dispatch.TestRebuildCrash"}, ""},
		{"5 the executor killed: one outcome, and the digest in the event exists", []string{"e2e/crash.TestKilledWhileBuilding", "e2e/crash.TestExecutorKilledAnywhere", "e2e/stack.TestExecutorKilled"}, ""},
		{"6 the finisher killed between publishing and its mark: the same id", []string{"e2e/crash.TestKilledAtEveryStep", "functions/finish.TestCrashAnywhere"}, ""},
		{"7 out of memory, disk full, too late, cancelled: the right class", []string{"infra/local/launch.TestDerive", "infra/local/launch.TestOutcomes", "e2e/stack.TestFullDisk", "e2e/stack.TestCancel"}, ""},
		{"8 a forged result with a digest from elsewhere: an error", []string{"functions/finish.TestForgedResult", "functions/finish.TestMissingDigest"}, ""},
		{"9 the vectors of signatures, a flipped bit, an old time, SHA-1", []string{
			"events/source/github.TestSignatureVector", "events/source/github.TestVerify", "events/source/gitlab.TestVerify", "events/source/gitea.TestVerify", "events/source/bitbucket.TestVerify",
		}, ""},
		{"10 a webhook of 500 MB: 413, and memory stays", []string{"functions/dispatch.TestBodyLimit"}, ""},
		{"11 an empty upload and then a real one: one build", []string{"functions/dispatch.TestEmptyThenReal", "infra/local.TestBadInput"}, ""},
		{"12 a thousand builds of one tenant and one of another: it waits for one", []string{"infra/local/fair.TestOneAgainstAThousand", "infra/local/fair.TestProperties"}, ""},
		{"13 JobSink's lost secret is bounded by the deadline", []string{"knative/jobsink.TestLostSecret"}, "a JobSink that fails between its two writes"},
		{"14 the bus is down: nothing is lost", []string{"functions/dispatch.TestCrashAnywhere", "functions/dispatch.TestInfrastructureErrors", "infra/bus.TestSinkFailures"}, ""},
		{"15 every example is a golden file; CDEvents and CloudEvents conform", []string{
			"events/source/github.TestGolden", "events/source/gitlab.TestGolden", "events/source/gitea.TestGolden", "events/source/bitbucket.TestGolden", "events/source/git.TestGolden",
			"events/source/gcs.TestGolden", "events/source/s3.TestGolden", "events/source/azure.TestGolden", "events/source/pubsub.TestGolden", "events/source/knative.TestGolden",
			"events/source/registry.TestGolden", "events/source/cdevents.TestGolden", "events/cdevents.TestMirror", "events.TestEventsValidate",
		}, ""},
		{"16 the same scenarios on one machine and on a cluster", []string{"e2e/scenario.TestOneMachine", "e2e/cluster.TestCluster", "e2e/cluster.TestKnative"}, ""},
		{"17 the spool loses nothing when the power is cut", []string{"infra/bus.TestKilledWhilePublishing", "infra/bus.TestTornTail", "infra/ledger.TestKilledAtEveryStep", "infra/ledger.TestPowerCut"}, ""},
		{"18 GitLab's signed hook from end to end", []string{"infra/local.TestSignedGitLabHook", "functions/dispatcher.TestForgeSecrets"}, ""},
	}
}

// rows are those of the failure matrix.
func rows() []claim {
	return []claim{
		{"1 network before the answer", []string{"functions/dispatch.TestHeal", "e2e/crash.TestKilledAtEveryStep"}, ""},
		{"2 verified, not written", []string{"e2e/crash.TestKilledAtEveryStep"}, ""},
		{"3 written, not answered", []string{"e2e/crash.TestKilledAtEveryStep"}, ""},
		{"4 dispatcher down: the topic keeps", []string{"functions/dispatch.TestDeliver"}, ""},
		{"5 entered, no request", []string{"e2e/crash.TestKilledAtEveryStep", "functions/dispatch.TestNextChangeAfterCrash"}, ""},
		{"6 requested, no executor", []string{"e2e/crash.TestKilledAtEveryStep"}, ""},
		{"7 executor, no answer", []string{"e2e/crash.TestKilledAtEveryStep"}, ""},
		{"8 between create new and cancel old", []string{"e2e/crash.TestKilledWhileSuperseding"}, ""},
		{"9 two dispatchers, one event", []string{"functions/dispatch.TestHundredAtOnce", "infra/ledger.TestSeveralProcesses"}, ""},
		{"10 ledger down", []string{"functions/dispatch.TestInfrastructureErrors", "infra/ledger/gcs.TestFaults", "infra/ledger/s3.TestFaults"}, ""},
		{"11 launcher down or full", []string{"functions/dispatch.TestInfrastructureErrors", "infra/local/fair.TestBounds"}, ""},
		{"12 never started", []string{"functions/dispatch.TestPendingTimeout", "knative/launch.TestRunGivesUp"}, ""},
		{"13 node lost", []string{"knative/launch.TestOutcome"}, "a cluster of several nodes"},
		{"14 executor before the push", []string{"e2e/crash.TestKilledWhileBuilding", "e2e/crash.TestExecutorKilledAnywhere"}, ""},
		{"15 pushed, not claimed", []string{"e2e/crash.TestKilledAtEveryStep"}, ""},
		{"16 claimed, no tags", []string{"e2e/crash.TestKilledAtEveryStep"}, ""},
		{"17 tags, not ended", []string{"e2e/crash.TestKilledAtEveryStep"}, ""},
		{"18 out of memory, evicted", []string{"infra/local/launch.TestDerive", "knative/launch.TestOutcome", "e2e/cluster.TestCluster"}, ""},
		{"19 job deleted by hand", []string{"functions/dispatch.TestSweepRelaunches", "knative/launch.TestRunDeleted"}, ""},
		{"20 job gone before the finisher saw it", []string{"functions/dispatch.TestSweepFinishes"}, ""},
		{"21 published, no mark", []string{"e2e/crash.TestKilledAtEveryStep"}, ""},
		{"22 digest missing", []string{"functions/finish.TestMissingDigest", "functions/finish.TestDigestGrace"}, ""},
		{"23 registry down", []string{"functions/finish.TestRegistryDown"}, ""},
		{"24 topic of builds down", []string{"functions/finish.TestCrashAnywhere"}, ""},
		{"25 subscriber down", []string{"infra/bus.TestWebhookRetries", "infra/bus.TestWebhookCursorSurvives"}, ""},
		{"26 poison", []string{"functions/dispatch.TestPoisonRecord", "functions/dispatch.TestDeadLetters"}, ""},
		{"27 bad config in the repository", []string{"functions/dispatch.TestNarrowingFile", "functions/dispatch.TestUnbuildable"}, ""},
		{"28 power cut", []string{"e2e/crash.TestKilledWhileBuilding", "infra/ledger.TestPowerCut", "e2e/stack.TestRestartLosesNothing"}, ""},
		{"29 clock skew", []string{"events/source/gitlab.TestVerify"}, ""},
		{"30 context gone before it is fetched", []string{"e2e/crash.TestContextGone"}, ""},
		{"31 malicious build", []string{"functions/finish.TestForgedResult"}, ""},
		{"32 loop of bucket events", nil, "a bucket that Terraform makes"},
	}
}

// Every promise names tests that are there, or what it needs that is not.
func TestEveryPromiseHasItsTest(t *testing.T) {
	if len(claims()) != 18 || len(rows()) != 32 {
		t.Errorf("%d claims and %d rows", len(claims()), len(rows()))
	}
	known := map[string]map[string]bool{}
	for _, c := range append(claims(), rows()...) {
		if len(c.tests) == 0 && c.needs == "" {
			t.Errorf("%s: nothing shows it", c.what)
		}
		for _, test := range c.tests {
			i := strings.LastIndexByte(test, '.')
			dir, name := test[:i], test[i+1:]
			if known[dir] == nil {
				known[dir] = testsIn(t, dir)
			}
			if !known[dir][name] {
				t.Errorf("%s: there is no test %s in %s", c.what, name, dir)
			}
		}
	}
}

// testsIn are the names of the tests of a directory of the module.
func testsIn(t *testing.T, dir string) map[string]bool {
	t.Helper()
	files, err := filepath.Glob(filepath.Join("..", "..", filepath.FromSlash(dir), "*_test.go"))
	if err != nil || len(files) == 0 {
		t.Fatalf("tests of %s: %v %v", dir, files, err)
	}
	names := map[string]bool{}
	for _, file := range files {
		src, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		parsed, err := parser.ParseFile(token.NewFileSet(), file, src, 0)
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range parsed.Decls {
			if f, ok := d.(*ast.FuncDecl); ok && strings.HasPrefix(f.Name.Name, "Test") {
				names[f.Name.Name] = true
			}
		}
	}
	return names
}
