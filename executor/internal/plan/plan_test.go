package plan

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/kilnhook/kiln/executor/internal/dockerfile"
)

func planOf(t testing.TB, text string, opt Options) (*Plan, error) {
	t.Helper()
	if opt.Base == nil {
		opt.Base = fakeBase(nil)
	}
	opt.BuildPlatform = v1.Platform{OS: "linux", Architecture: "amd64"}
	f, err := dockerfile.Parse("Dockerfile", []byte(text))
	if err != nil {
		return nil, err
	}
	return New(f, opt)
}

// What is refused, and what is wrong, says which line, what is written there
// and why. The first group is what this release does not carry out.
func TestErrors(t *testing.T) {
	for _, c := range []struct{ name, text, want string }{
		{"security", "FROM a\nRUN --security=insecure x", "Dockerfile:2: RUN --security=insecure x: --security is not supported yet"},
		{"device", "FROM a\nRUN --device=x y", "Dockerfile:2: RUN --device=x y: --device is not supported yet"},
		{"ADD git protocol", "FROM a\nADD git://x/y /z", "Dockerfile:2: ADD git://x/y /z: repositories cannot be fetched over the git protocol: write an https:// URL"},
		{"ADD git protocol", "FROM a\nADD git://x/y.git /z", "Dockerfile:2: ADD git://x/y.git /z: repositories cannot be fetched over the git protocol: write an https:// URL"},
		{"in a trigger", "FROM on", `Dockerfile:1: RUN --security=insecure y: --security is not supported yet`},

		{"bad mode", "FROM a\nCOPY --chmod=9z a /a", `Dockerfile:2: COPY --chmod=9z a /a: invalid mode "9z": it must be octal, from 0 to 07777, or symbolic, such as u=rwX,go=rX`},
		{"large mode", "FROM a\nARG M=10000\nCOPY --chmod=$M a /a", `Dockerfile:3: COPY --chmod=$M a /a: invalid mode "10000": it must be octal, from 0 to 07777, or symbolic, such as u=rwX,go=rX`},
		{"bad symbolic mode", "FROM a\nCOPY --chmod=u=rq a /a", `Dockerfile:2: COPY --chmod=u=rq a /a: invalid mode "u=rq": it must be octal, from 0 to 07777, or symbolic, such as u=rwX,go=rX`},
		{"link and owner by name", "FROM a\nCOPY --link --chown=me:7 a /a", "Dockerfile:2: COPY --link --chown=me:7 a /a: --chown=me:7 cannot be used with --link, which sees no /etc/passwd: give numbers"},
		{"bad exclude", "FROM a\nCOPY --exclude=[ a /a", "Dockerfile:2: COPY --exclude=[ a /a: --exclude: syntax error in pattern"},
		{"heredoc in a directory", "FROM a\nCOPY <</x/y /a\n/x/y", `Dockerfile:2: COPY <</x/y /a: heredoc "/x/y": its name must be that of a file`},
		{"heredoc must be set", "FROM a\nCOPY <<E /a\n${B?}\nE", `Dockerfile:2: COPY <<E /a: failed to process "${B?}\n": B: is not allowed to be unset`},
		{"checksum of several", "FROM a\nADD --checksum=sha256:0 https://a/b https://a/c /d/", "Dockerfile:2: ADD --checksum=sha256:0 https://a/b https://a/c /d/: checksum can't be specified for multiple sources"},
		{"checksum of a file", "FROM a\nADD --checksum=sha256:0 b /d/", "Dockerfile:2: ADD --checksum=sha256:0 b /d/: checksum requires HTTP(S) or Git sources"},
		{"bad checksum", "FROM a\nADD --checksum=sha256:0 https://a/b c", "Dockerfile:2: ADD --checksum=sha256:0 https://a/b c: --checksum=sha256:0: want sha256: and 64 hex digits: invalid checksum digest length"},
		{"bad checksum of a repository", "FROM a\nADD --checksum=sha256:00 https://a/b.git c", "Dockerfile:2: ADD --checksum=sha256:00 https://a/b.git c: invalid checksum sha256:00 for a repository: it is the commit's id in hex"},
		{"two checksums", "FROM a\nADD --checksum=aa https://a/b.git?commit=bb c", `Dockerfile:2: ADD --checksum=aa https://a/b.git?commit=bb c: checksum mismatch "aa" != "bb"`},
		{"keep-git-dir both ways", "FROM a\nADD --keep-git-dir https://a/b.git?keep-git-dir=false c", "Dockerfile:2: ADD --keep-git-dir https://a/b.git?keep-git-dir=false c: inconsistent keep-git-dir configuration"},
		{"unknown query", "FROM a\nADD https://a/b.git?what=1 c", `Dockerfile:2: ADD https://a/b.git?what=1 c: https://a/b.git?what=1: unexpected query "what"`},
		{"negative owner", "FROM a\nCOPY --chown=-1 a /a", `Dockerfile:2: COPY --chown=-1 a /a: invalid owner "-1": an id is a number from 0 to 2147483647`},
		{"owner of three", "FROM a\nCOPY --chown=a:b:c a /a", `Dockerfile:2: COPY --chown=a:b:c a /a: invalid owner "a:b:c": it must be user[:group]`},
		{"COPY URL", "FROM a\nCOPY http://x/y /a", "Dockerfile:2: COPY http://x/y /a: source can't be a URL for COPY"},
		{"COPY git", "FROM a\nCOPY git@x:y /a", "Dockerfile:2: COPY git@x:y /a: source can't be a git ref for COPY"},
		{"from itself", "FROM a AS x\nCOPY --from=x a b", "Dockerfile:2: COPY --from=x a b: a stage cannot copy from itself: --from=x"},
		{"from later", "FROM a\nCOPY --from=y a b\nFROM b AS y\nFROM c\nCOPY --from=0 a b", `Dockerfile:2: COPY --from=y a b: cannot copy from stage "y": it is defined later, on line 3`},
		{"from itself in a stage that is not needed", "FROM a AS x\nCOPY --from=0 a b\nFROM a", "Dockerfile:2: COPY --from=0 a b: a stage cannot copy from itself: --from=0"},
		{"from number", "FROM a\nCOPY --from=7 a b", "Dockerfile:2: COPY --from=7 a b: there is no stage 7: the stages are 0 to 0"},
		{"from variable", "FROM a\nCOPY --from=$X a b", `Dockerfile:2: COPY --from=$X a b: --from takes no variable: name a stage with "FROM $VAR AS name" and copy from that`},
		{"from bad name", "FROM a\nCOPY --from=A_ a b", "Dockerfile:2: COPY --from=A_ a b: --from=A_ is neither a stage nor an image name: invalid reference format: repository name (library/A_) must be lowercase"},
		{"from missing image", "FROM a\nCOPY --from=missing a b", "Dockerfile:2: COPY --from=missing a b: no such image"},
		{"missing image", "FROM a AS x\nFROM missing:1\nCOPY --from=x a b", "Dockerfile:2: FROM missing:1: no such image"},
		{"blank FROM", "FROM $X", "Dockerfile:1: FROM $X: base name ($X) should not be blank: no ARG X stands before the first FROM"},
		{"blank FROM of two", "ARG B\nFROM $A$B", "Dockerfile:2: FROM $A$B: base name ($A$B) should not be blank: no ARG A stands before the first FROM; ARG B has no default, give --build-arg B=…"},
		{"blank FROM of an ARG", "ARG X\nFROM $X", "Dockerfile:2: FROM $X: base name ($X) should not be blank: ARG X has no default, give --build-arg X=…"},
		{"blank FROM of a blank ARG", "ARG X=\nFROM $X", "Dockerfile:2: FROM $X: base name ($X) should not be blank"},
		{"nearly a stage", "FROM a AS base\nFROM bse:missing", "Dockerfile:2: FROM bse:missing: no such image"},
		{"copy from nearly a stage", "FROM a AS missin\nFROM a\nCOPY --from=missing a b", "Dockerfile:3: COPY --from=missing a b: no such image (no stage is named missing: did you mean missin?)"},
		{"bad FROM", "FROM UP", "Dockerfile:1: FROM UP: parse image name \"UP\": invalid reference format: repository name (library/UP) must be lowercase"},
		{"bad platform", "FROM --platform=what a", `Dockerfile:1: FROM --platform=what a: invalid platform "what": neither an operating system nor an architecture`},
		{"empty platform", "FROM --platform=$X a", `Dockerfile:1: FROM --platform=$X a: invalid platform "": write os/arch[/variant], such as linux/arm64`},
		{"windows", "FROM win", "Dockerfile:1: FROM win: image win is for windows: only Linux images can be built"},
		{"must be set", "FROM a\nRUN x\nENV A=\"${B:?say what B is}\"", `Dockerfile:3: ENV A="${B:?say what B is}": failed to process "\"${B:?say what B is}\"": B: say what B is`},
		{"global ARG", "ARG A=${B?}\nFROM a", `Dockerfile:1: ARG A=${B?}: failed to process "${B?}": B: is not allowed to be unset`},
		{"bad trigger", "FROM badon", "Dockerfile:1: FROM badon: ONBUILD NOSUCHTHING: unknown instruction: NOSUCHTHING"},
		{"mount type", "FROM a\nRUN --mount=type=volume,target=/x y", "Dockerfile:2: RUN --mount=type=volume,target=/x y: unsupported mount type \"volume\""},
		{"mount key", "FROM a\nRUN --mount=type=bind,color=red y", "Dockerfile:2: RUN --mount=type=bind,color=red y: unexpected key 'color' in 'color=red'"},
		{"mount at the root", "FROM a\nRUN --mount=type=cache,target=/ y", `Dockerfile:2: RUN --mount=type=cache,target=/ y: --mount=type=cache: invalid mount target "/"`},
		{"mount nowhere", "FROM a\nRUN --mount=type=bind y", `Dockerfile:2: RUN --mount=type=bind y: --mount=type=bind: invalid mount target "/"`},
		{"mount from itself", "FROM a AS x\nRUN --mount=from=X,target=/x y", "Dockerfile:2: RUN --mount=from=X,target=/x y: a stage cannot mount from itself: from=X"},
		{"mount from later", "FROM a\nRUN --mount=from=b,target=/x y\nFROM a AS b\nFROM a\nCOPY --from=0 a b", `Dockerfile:2: RUN --mount=from=b,target=/x y: cannot mount from stage "b": it is defined later, on line 3`},
		{"mount from missing image", "FROM a\nRUN --mount=from=missing,target=/x y", "Dockerfile:2: RUN --mount=from=missing,target=/x y: no such image"},
		{"mount from bad name", "FROM a\nRUN --mount=from=A_,target=/x y", "Dockerfile:2: RUN --mount=from=A_,target=/x y: from=A_ is neither a stage nor an image name: invalid reference format: repository name (library/A_) must be lowercase"},
		{"tmpfs with a source", "FROM a\nRUN --mount=type=tmpfs,source=/a,target=/x y", "Dockerfile:2: RUN --mount=type=tmpfs,source=/a,target=/x y: --mount=type=tmpfs: it is empty at first and takes neither from nor source"},
		{"ssh with a source", "FROM a\nRUN --mount=type=ssh,source=/a y", "Dockerfile:2: RUN --mount=type=ssh,source=/a y: --mount=type=ssh: ssh does not support source"},
		{"secret without a name", "FROM a\nRUN --mount=type=secret y", "Dockerfile:2: RUN --mount=type=secret y: invalid secret mount. one of source, target required"},
		{"secret in no variable", "FROM a\nRUN --mount=type=secret,id=a,env= y", `Dockerfile:2: RUN --mount=type=secret,id=a,env= y: --mount=type=secret: "" cannot be the name of a variable`},
		{"env of a cache", "FROM a\nRUN --mount=type=cache,target=/x,env=A y", "Dockerfile:2: RUN --mount=type=cache,target=/x,env=A y: --mount=type=cache: only a secret has env"},
		{"RUN nothing", "FROM a\nRUN []", "Dockerfile:2: RUN []: RUN needs a command"},
		{"port", "FROM a\nEXPOSE 99999", `Dockerfile:2: EXPOSE 99999: invalid port "99999": "99999" is not a number from 0 to 65535`},
		{"port range", "FROM a\nEXPOSE 9-8", `Dockerfile:2: EXPOSE 9-8: invalid port "9-8": the range 9-8 ends before it begins`},
		{"protocol", "FROM a\nEXPOSE 80/icmp", `Dockerfile:2: EXPOSE 80/icmp: invalid port "80/icmp": the protocol "icmp" is none of tcp, udp and sctp`},
		{"host ports", "FROM a\nEXPOSE 1-3:1-2", `Dockerfile:2: EXPOSE 1-3:1-2: invalid port "1-3:1-2": the ranges 1-3 and 1-2 differ in length`},
		{"address", "FROM a\nEXPOSE x:1:2", `Dockerfile:2: EXPOSE x:1:2: invalid port "x:1:2": "x" is not an IP address`},
		{"no port", "FROM a\nEXPOSE /tcp", `Dockerfile:2: EXPOSE /tcp: invalid port "/tcp": a port number is missing`},
		{"signal", "FROM a\nSTOPSIGNAL SIGNOPE", `Dockerfile:2: STOPSIGNAL SIGNOPE: invalid signal "SIGNOPE": write a number or a name such as SIGTERM`},
		{"empty volume", "FROM a\nVOLUME $X", "Dockerfile:2: VOLUME $X: VOLUME specified can not be an empty string"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := planOf(t, c.text, Options{Base: fakeBase(map[string]string{
				"on":    `{"os":"linux","architecture":"amd64","config":{"OnBuild":["RUN --security=insecure y"]}}`,
				"badon": `{"os":"linux","architecture":"amd64","config":{"OnBuild":["NOSUCHTHING"]}}`,
				"win":   `{"os":"windows","architecture":"amd64"}`,
			})})
			if err == nil || err.Error() != c.want {
				t.Fatalf("error is %v\nwant     %s", err, c.want)
			}
			if _, ok := errors.AsType[*dockerfile.Error](err); !ok {
				t.Errorf("%T is not a *dockerfile.Error", err)
			}
		})
	}
}

// What says only what is so anyway is taken.
func TestHarmlessFlags(t *testing.T) {
	_, err := planOf(t, "FROM a\nRUN --network=default --security=sandbox x\nCOPY --link=false --parents=false a b\nADD --link=false a b\n", Options{})
	if err != nil {
		t.Error(err)
	}
}

// A stage that the target does not need may use what is not supported.
func TestUnneededStage(t *testing.T) {
	p, err := planOf(t, "FROM a\nRUN --security=insecure y\nRUN --mount=from=missing,target=/x y\nCOPY --from=missing a b\nFROM b AS want\n", Options{Target: "want"})
	if err != nil || len(p.Stages) != 1 || p.Stages[0].Index != 1 {
		t.Errorf("%v, %v", p, err)
	}
}

// A build argument that nothing declares is most often misspelled.
func TestUnusedArgs(t *testing.T) {
	args := map[string]string{}
	for _, name := range []string{"GLOBAL", "OWN", "ELSEWHERE", "TRIGGERED", "TARGETARCH", "http_proxy", "BUILDKIT_SYNTAX", "SOURCE_DATE_EPOCH", "VERSON", "own"} {
		args[name] = "1"
	}
	base := func(string, v1.Platform) (Base, error) {
		return Base{Config: &v1.ConfigFile{OS: "linux", Architecture: "amd64", Config: v1.Config{OnBuild: []string{"ARG TRIGGERED"}}}}, nil
	}
	p, err := planOf(t, "ARG GLOBAL\nFROM a AS x\nARG ELSEWHERE\nFROM b\nARG OWN=2 VERSION\n", Options{Base: base, Args: args})
	if err != nil {
		t.Fatal(err)
	}
	if got := strings.Join(p.Unused, " "); got != "VERSON own" {
		t.Errorf("unused are %s", got)
	}
}

// Faults of the options, not of the Dockerfile.
func TestOptionErrors(t *testing.T) {
	for _, c := range []struct {
		opt  Options
		want string
	}{
		{Options{Target: "prood"}, `Dockerfile has no stage "prood" to build (did you mean prod?)`},
		{Options{Target: "3"}, `Dockerfile has no stage "3" to build: those with names are dev, prod`},
		{Options{Platform: v1.Platform{OS: "windows", Architecture: "amd64"}}, "build for windows/amd64: only Linux images can be built"},
		{Options{Args: map[string]string{"BUILDKIT_MULTI_PLATFORM": "1"}}, "build argument BUILDKIT_MULTI_PLATFORM: what is built is an image for one platform and no index: leave it out"},
		{Options{Args: map[string]string{"SOURCE_DATE_EPOCH": "soon"}}, `SOURCE_DATE_EPOCH is "soon": it must be a number of seconds since 1970`},
	} {
		_, err := planOf(t, "FROM a AS dev\nFROM b AS prod\n", c.opt)
		if err == nil || err.Error() != c.want {
			t.Errorf("error is %v, want %s", err, c.want)
		}
	}
	f, err := dockerfile.Parse("Dockerfile", []byte("FROM a"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := New(f, Options{}); err == nil || !strings.Contains(err.Error(), "no image can be looked up here") {
		t.Errorf("without Base: %v", err)
	}
	if _, err := New(f, Options{Base: func(string, v1.Platform) (Base, error) { return Base{}, nil }}); err == nil {
		t.Error("an image without config is taken")
	}
}

// Each image is asked for once for each platform, only if needed, and with the
// reference as written.
func TestBaseLookups(t *testing.T) {
	var mu sync.Mutex
	var asked []string
	base := func(ref string, p v1.Platform) (Base, error) {
		mu.Lock()
		defer mu.Unlock()
		asked = append(asked, ref+" "+platformName(p))
		return fakeBase(nil)(ref, p)
	}
	_, err := planOf(t, "FROM a AS one\nFROM unused\nFROM a:latest AS two\nFROM --platform=linux/arm64 a AS three\n"+
		"FROM a\nCOPY --from=a /x /x\nCOPY --from=one /x /x\nCOPY --from=two /x /x\nCOPY --from=three /x /x\n", Options{Base: base})
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(asked)
	if got := strings.Join(asked, "; "); got != "a linux/amd64; a linux/arm64; a:latest linux/amd64" {
		t.Errorf("asked for %s", got)
	}
}

// A plan does not share its configs: changing one changes no other.
func TestConfigsAreApart(t *testing.T) {
	p, err := planOf(t, "FROM a\nENV A=1\nLABEL l=1\nENV A=2\nLABEL l=2\n", Options{Labels: map[string]string{"x": "y"}})
	if err != nil {
		t.Fatal(err)
	}
	steps := p.Stages[0].Steps
	if steps[0].Config.Env[1] != "A=1" || steps[2].Config.Env[1] != "A=2" || steps[1].Config.Labels["l"] != "1" {
		t.Errorf("configs are shared: %v", p)
	}
	if len(steps[2].Config.Labels) != 1 || p.Final().End().Config.Labels["x"] != "y" {
		t.Errorf("labels of the build are on %v", steps)
	}
}

// What BuildKit takes from build arguments of its own reaches the RUNs, and
// these do not see it.
func TestBuildKitArguments(t *testing.T) {
	p, err := planOf(t, "FROM a\nRUN --mount=type=cache,target=/c x\n", Options{
		Args: map[string]string{"BUILDKIT_SANDBOX_HOSTNAME": "host", "BUILDKIT_CACHE_MOUNT_NS": "ns", "BUILDKIT_MULTI_PLATFORM": "false"},
	})
	if err != nil {
		t.Fatal(err)
	}
	run, ok := p.Final().Steps[0].Op.(Run)
	if !ok || run.Hostname != "host" || run.Mounts[0].ID != "ns//c" || strings.Contains(strings.Join(run.Env, " "), "BUILDKIT") {
		t.Errorf("planned %v", run)
	}
}

// StartInterval is kept from a base image and from HEALTHCHECK.
func TestStartInterval(t *testing.T) {
	base := func(ref string, p v1.Platform) (Base, error) {
		b, err := fakeBase(nil)(ref, p)
		b.StartInterval = 7 * time.Second
		return b, err
	}
	p, err := planOf(t, "FROM a AS x\nFROM x\nENV A=1\nHEALTHCHECK --start-interval=2s CMD x\n", Options{Base: base})
	if err != nil {
		t.Fatal(err)
	}
	if got := p.Stages[1].Steps[0].StartInterval; got != 7*time.Second {
		t.Errorf("inherited %v", got)
	}
	if got := p.Final().End().StartInterval; got != 2*time.Second {
		t.Errorf("set %v", got)
	}
}

func TestParsePlatform(t *testing.T) {
	for in, want := range map[string]string{
		"linux/amd64": "linux/amd64", "linux/x86_64": "linux/amd64", "Linux/AMD64/v1": "linux/amd64", "linux/amd64/v3": "linux/amd64/v3",
		"arm64": "linux/arm64", "aarch64": "linux/arm64", "linux/arm64/v8": "linux/arm64", "linux/arm64/v9": "linux/arm64/v9",
		"linux/arm": "linux/arm/v7", "arm": "linux/arm/v7", "linux/arm/6": "linux/arm/v6", "armhf": "linux/arm/v7", "linux/armel": "linux/arm/v6",
		"linux/i386": "linux/386", "riscv64": "linux/riscv64", "windows/amd64": "windows/amd64", "macos/arm64": "darwin/arm64",
	} {
		if p, err := ParsePlatform(in); err != nil || platformName(p) != want {
			t.Errorf("%s is %s (%v), want %s", in, platformName(p), err, want)
		}
	}
	for _, bad := range []string{"", "/", "linux/", "a b", "nope", "linux/arm/v7/x", "linux/amd64:1"} {
		if p, err := ParsePlatform(bad); err == nil {
			t.Errorf("%q is %v", bad, p)
		}
	}
}

func TestKnownSignal(t *testing.T) {
	for _, ok := range []string{"SIGTERM", "term", "9", "SIGRTMIN+3", "RTMAX-14", "SIGPOLL", "sigwinch", "-1"} {
		if !knownSignal(ok) {
			t.Errorf("%s is unknown", ok)
		}
	}
	for _, bad := range []string{"", "0", "SIG", "SIGRTMIN+16", "RTMIN+", "RTMAX-x", "NOPE", "SIGSIGTERM"} {
		if knownSignal(bad) {
			t.Errorf("%s is known", bad)
		}
	}
}

func TestIsGit(t *testing.T) {
	for _, git := range []string{"git://x/y", "ssh://git@x/y", "https://x/y.git", "http://x/y.git#v1:sub", "https://u@x/y.git?ref=1", "git@github.com:a/b.git", "me@host:path"} {
		if r, err := parseRepo(git); r == nil && err == nil {
			t.Errorf("%s is not git", git)
		}
	}
	for _, not := range []string{"a", "a/b.git", "https://x/y.git.tgz", "http://x/y?z=.git", "./git@x:y", "a:b", "C:\\x", "ftp://x/y.git"} {
		if r, err := parseRepo(not); r != nil || err != nil {
			t.Errorf("%s is git: %v", not, err)
		}
	}
}

// Variables that multiply each other are stopped before they fill the memory.
func TestGrowth(t *testing.T) {
	var text strings.Builder
	text.WriteString("FROM a\nENV V0=xxxxxxxxxxxxxxxx\n")
	for n := range 40 {
		fmt.Fprintf(&text, "ENV V%d=%s\n", n+1, strings.Repeat(fmt.Sprintf("$V%d", n), 16))
	}
	if _, err := planOf(t, text.String(), Options{}); !errors.Is(err, errLongWord) {
		t.Errorf("sum: %v", err)
	}
	long := "FROM a\nENV A=" + strings.Repeat("a", 50000) + "\nENV B=" + strings.Repeat("b", 50000) + "\n"
	if _, err := planOf(t, long+"ENV C=${A//a/$B}\n", Options{}); !errors.Is(err, errLongWord) {
		t.Errorf("product: %v", err)
	}
	if _, err := planOf(t, long+"ENV C=${A}/${B}/$A\n", Options{}); err != nil {
		t.Errorf("long words are refused: %v", err)
	}
}

// A Dockerfile of 500 instructions is planned at once.
func BenchmarkNew(b *testing.B) {
	var text strings.Builder
	text.WriteString("FROM a\n")
	for n := range 250 {
		fmt.Fprintf(&text, "ENV V%d=$V%d\nRUN step %d\n", n+1, n, n)
	}
	for b.Loop() {
		if _, err := planOf(b, text.String(), Options{}); err != nil {
			b.Fatal(err)
		}
	}
}

func FuzzNew(f *testing.F) {
	f.Add("ARG A=b\nFROM $A AS x\nENV A=${B:-c} D='$A'\nCOPY --from=y --chown=$A --chmod=7$D a* b/ /c\nEXPOSE $A 1-3\n", "A=1", "x")
	f.Add("# escape=`\nFROM --platform=$TARGETPLATFORM a\nWORKDIR $X\nRUN [\"a\"]\nADD http://a/b c /d\nHEALTHCHECK NONE\nONBUILD RUN x\n", "X", "0")
	f.Add("FROM a AS b\nONBUILD COPY --from=c . .\nFROM b\nLABEL ${A//x/y}=${B%%*}\nVOLUME $V\nUSER ${U:?}\n", "", "")
	f.Add("FROM a\nARG A\nCOPY --parents --exclude=*.$A --link <<E <<'F' x/./y z\n${A:-$B}\nE\n$A\nF\nADD --checksum=$A --keep-git-dir --unpack=false --chmod=u+X,g=o https://h/r.git?ref=$A#b:c /d\n", "A=00", "")
	for _, text := range corpus(f, "Dockerfile") {
		f.Add(text, "GIVEN=given,A=1", "")
	}
	f.Fuzz(func(t *testing.T, text, args, target string) {
		file, err := dockerfile.Parse("Dockerfile", []byte(text))
		if err != nil {
			return
		}
		opt := Options{Target: target, Args: map[string]string{}, BuildPlatform: v1.Platform{OS: "linux", Architecture: "amd64"}}
		for kv := range strings.SplitSeq(args, ",") {
			k, v, _ := strings.Cut(kv, "=")
			opt.Args[k] = v
		}
		opt.Base = fakeBase(nil)
		p, err := New(file, opt)
		if err != nil {
			return
		}
		for i, s := range p.Stages {
			if s.Base.Stage != nil && *s.Base.Stage >= i {
				t.Fatalf("stage %d starts from %d", i, *s.Base.Stage)
			}
			for _, step := range s.Steps {
				if c, ok := step.Op.(Copy); ok && (!strings.HasPrefix(c.Dest, "/") || c.From.Stage != nil && *c.From.Stage >= i) {
					t.Fatalf("bad copy %v in stage %d", c, i)
				}
			}
		}
		again, err := New(file, opt)
		if err != nil || again.String() != p.String() {
			t.Fatalf("two plans: %v", err)
		}
	})
}
