package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// sizes says how big workloads are.
type sizes struct {
	name        string
	files       int   // of the big base image, and of a RUN
	bytes       int64 // of those files
	big         int64 // bytes of the one big file
	tree        int   // files of the tree of many
	nodeModules int   // files of the application for node
}

// full are the sizes of the figures that are quoted, small those of a test of
// the harness.
func full() sizes {
	return sizes{name: "full", files: 24_000, bytes: 480_000_000, big: 1 << 30, tree: 700_000, nodeModules: 25_000}
}

func small() sizes {
	return sizes{name: "small", files: 240, bytes: 4_800_000, big: 8 << 20, tree: 2000, nodeModules: 250}
}

// workload is something that all builders build.
type workload struct {
	name, title string
	base        string // image of bases; more in further
	further     []string
	dockerfile  string // HOST is the registry with the base images
	// lean is put before "go build" where there is little memory: two compilers at
	// once take more than 256 MiB, whoever builds, and so does one that may.
	lean string
	// files makes what else is in the context. version is 0 for what fills the
	// cache, and another number for each build that is measured.
	files func(dir string, version int) error
	// cached workloads find what they built before in a cache in the registry, and
	// nothing on the machine.
	cached bool
	rtt    time.Duration // of every way to the registry
	store  string        // where it is built; where the flag says if empty
	runs   int           // how many RUNs there are, if one of them is of interest
	only   string        // prefix of the names of those who build it; all if empty
	alone  bool          // two at once are too much for a disk
	again  bool          // another workload builds the same elsewhere
	beside string        // another workload, which a target compares it with
	target []target
	// takes is how many seconds rounds take on the machine of docs/performance.md, the
	// first and each further one. How long is left is told by it.
	takes takes
}

const (
	roundTrip   = 50 * time.Millisecond
	cachedSteps = 20
	treeRuns    = 6 // five after the first
	stages      = 4
)

// workloads are those of the table that "make bench" prints, in its order.
func workloads(s sizes) []workload {
	run := "RUN echo changed > /touched\n"
	ten := "FROM HOST/bases/large\n" + numbered(10, "RUN echo %d > /touched%d\n")
	list := []workload{
		{
			name: "copy", takes: takes{15, 8}, title: "COPY only, on a base of 480 MB", base: "large",
			dockerfile: "FROM HOST/bases/large\nCOPY app /srv/app\nCMD [\"/srv/app/run\"]\n", files: application,
			target: []target{ratio("CPU", 0.1, cpu, both), ratio("wall", 0.1, wall, both)},
		},
		{
			name: "copy-estargz", takes: takes{16, 8}, title: "COPY only, on the same base with layers in eStargz", base: "large" + asStargz, again: true,
			dockerfile: "FROM HOST/bases/large" + asStargz + "\nCOPY app /srv/app\nCMD [\"/srv/app/run\"]\n", files: application,
			target: []target{ratio("CPU", 0.1, cpu, both), ratio("wall", 0.1, wall, both)},
		},
		{
			name: "copy-again", takes: takes{20, 6}, title: "the same with a file changed, cache in the registry", base: "large", cached: true, again: true,
			dockerfile: "FROM HOST/bases/large\nCOPY app /srv/app\nCMD [\"/srv/app/run\"]\n", files: application,
			target: []target{ratio("CPU", 0.1, cpu, both), ratio("wall", 0.1, wall, both)},
		},
		{
			name: "run1", takes: takes{16, 10}, title: "one RUN that touches one file, on a base of 480 MB", base: "large",
			dockerfile: "FROM HOST/bases/large\n" + run,
			target:     []target{ratio("CPU", 0.7, cpu, overlay), ratio("CPU", 1, cpu, inPlace)},
		},
		{
			name: "run10", takes: takes{21, 13}, title: "ten such RUNs", base: "large", dockerfile: ten,
			target: []target{ratio("CPU", 0.7, cpu, overlay), ratio("CPU", 1, cpu, inPlace)},
		},
		{
			name: "run10-ext4", takes: takes{22, 13}, title: "ten such RUNs, on ext4 in memory", base: "large", store: ext4, again: true, dockerfile: ten,
			target: []target{ratio("CPU", 0.7, cpu, overlay), ratio("CPU", 1, cpu, inPlace)},
		},
		{
			name: "files", takes: takes{42, 42}, title: "RUN that writes 480 MB in 24,000 files", base: "small",
			dockerfile: fmt.Sprintf("FROM HOST/bases/small\nRUN gen files %d %d /srv/files\n", s.files, s.bytes),
			target:     []target{ratio("CPU", 0.6, cpu, both), most("largest process", 96<<20, rss, both, mebibytes)},
		},
		{
			name: "big", takes: takes{70, 70}, title: "RUN that writes one file of 1 GiB, half of it compressible", base: "small",
			dockerfile: fmt.Sprintf("FROM HOST/bases/small\nRUN gen big %d /srv/big\n", s.big),
			target:     []target{ratio("CPU", 0.6, cpu, both), most("largest process", 96<<20, rss, both, mebibytes)},
		},
		{
			name: "twig", takes: takes{2, 2}, title: "six trivial RUNs on 7,000 files, on ext4 in memory", base: "twig", store: ext4, only: both, runs: treeRuns, again: true,
			dockerfile: "FROM HOST/bases/twig\n" + numbered(treeRuns, "RUN echo %d > /touched%d\n"),
		},
		{
			name: "tree", beside: "twig", takes: takes{140, 140}, title: "six trivial RUNs on 700,000 files, on ext4 in memory", base: "tree", store: ext4, runs: treeRuns, alone: true,
			dockerfile: "FROM HOST/bases/tree\n" + numbered(treeRuns, "RUN echo %d > /touched%d\n"),
			target:     []target{asOnTwig(s), perFile(s)},
		},
		{
			name: "cached20", takes: takes{25, 4}, title: "20 cached RUNs, 50 ms a round trip, cache in the registry", base: "small", cached: true, rtt: roundTrip,
			dockerfile: "FROM HOST/bases/small\n" + numbered(cachedSteps, "RUN echo %d > /step%d\n"),
			target:     []target{most("round trips in wall time", 6, roundTrips, both, plain)},
		},
	}
	return append(list, rebuilds(s)...)
}

// rebuilds are the workloads of stages.
func rebuilds(s sizes) []workload {
	var four strings.Builder
	for i := range stages {
		fmt.Fprintf(&four, "FROM HOST/bases/small AS s%d\nRUN i=%d; while [ $i -lt 500000 ]; do i=$((i+1)); done\nRUN gen files %d %d /out%d\n", i, i, s.files/8, s.bytes/8, i)
	}
	four.WriteString("FROM HOST/bases/small\n")
	for i := range stages {
		fmt.Fprintf(&four, "COPY --from=s%d /out%d /out%d\n", i, i, i)
	}
	return []workload{
		{
			name: "rebuild-go", takes: takes{15, 2}, title: "Go in two stages, only the file of the last COPY changed, cache in the registry", base: "go", further: []string{"small"}, cached: true,
			dockerfile: "FROM HOST/bases/go AS build\nENV PATH=/usr/local/go/bin:/usr/bin:/bin CGO_ENABLED=0\nWORKDIR /src\nCOPY go.mod ./\nCOPY cmd cmd\nCOPY internal internal\n" +
				"RUN go build -trimpath -o /app ./cmd/app && rm -rf /root/.cache\n" +
				"FROM HOST/bases/small\nCOPY --from=build /app /usr/local/bin/app\nCOPY config.json /etc/app/config.json\n",
			lean: "GOGC=20 GOFLAGS='-p=1 -gcflags=all=-c=1'", files: goModule, target: []target{againstBuildKit(1, both)},
		},
		{
			name: "rebuild-node", takes: takes{30, 5}, title: "an application with 25,000 files of modules, only the file of the last COPY changed, cache in the registry", base: "node", cached: true,
			dockerfile: fmt.Sprintf("FROM HOST/bases/node\nWORKDIR /app\nCOPY package.json ./\nRUN gen files %d %d node_modules\nCOPY src src\nCMD [\"node\", \"src/index.js\"]\n", s.nodeModules, s.bytes/2),
			files:      nodeApplication, target: []target{againstBuildKit(0.2, both)},
		},
		{
			name: "stages", takes: takes{36, 18}, title: "four independent stages", base: "small", dockerfile: four.String(),
			target: []target{againstBuildKit(1, overlay)},
		},
	}
}

// numbered repeats a line with the number of each.
func numbered(n int, format string) string {
	var out strings.Builder
	for i := range n {
		fmt.Fprintf(&out, format, i, i)
	}
	return out.String()
}

// leaner is the workload for little memory.
func (w workload) leaner() workload {
	if w.lean != "" {
		w.dockerfile = strings.ReplaceAll(w.dockerfile, "go build", w.lean+" go build")
	}
	return w
}

// prepare makes the context of a workload in dir, which must not exist.
func (w workload) prepare(dir, host string, version int) error {
	if err := os.Mkdir(dir, 0o755); err != nil {
		return err
	}
	if err := write(dir, map[string]string{"Dockerfile": strings.ReplaceAll(w.dockerfile, "HOST", host)}); err != nil {
		return err
	}
	if w.files == nil {
		return nil
	}
	return w.files(dir, version)
}

func write(dir string, files map[string]string) error {
	for name, content := range files {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
			return err
		}
		// Only what differs may look different: the times of the rest are the same.
		if err := os.Chtimes(path, made(), made()); err != nil {
			return err
		}
	}
	return nil
}

// application is a small one.
func application(dir string, version int) error {
	files := map[string]string{"app/run": fmt.Sprintf("#!/bin/sh\necho %d\n", version)}
	for i := range 100 {
		files[fmt.Sprintf("app/lib/part%d.js", i)] = strings.Repeat(fmt.Sprintf("export const value%d = %d;\n", i, i*i), 200)
	}
	return write(dir, files)
}

// goModule is a program of twenty packages that needs no other modules.
func goModule(dir string, version int) error {
	files := map[string]string{
		"go.mod":      "module example.com/app\n\ngo 1.24\n",
		"config.json": fmt.Sprintf("{\"version\": %d}\n", version),
	}
	var imports, calls strings.Builder
	for i := range 20 {
		files[fmt.Sprintf("internal/part%d/part.go", i)] = fmt.Sprintf(
			"package part%d\n\nimport \"strings\"\n\n// Say repeats a word.\nfunc Say() string { return strings.Repeat(\"%d \", %d) }\n", i, i, i+1)
		fmt.Fprintf(&imports, "\t\"example.com/app/internal/part%d\"\n", i)
		fmt.Fprintf(&calls, "\tfmt.Println(part%d.Say())\n", i)
	}
	files["cmd/app/main.go"] = "package main\n\nimport (\n\t\"fmt\"\n\n" + imports.String() + ")\n\nfunc main() {\n" +
		calls.String() + "}\n"
	return write(dir, files)
}

// nodeApplication is the part of an application that is not modules.
func nodeApplication(dir string, version int) error {
	files := map[string]string{
		"package.json": "{\"name\": \"app\", \"main\": \"src/index.js\"}\n",
		"src/index.js": fmt.Sprintf("console.log(%d);\n", version),
	}
	for i := range 50 {
		files[fmt.Sprintf("src/lib/part%d.js", i)] = strings.Repeat(fmt.Sprintf("exports.value%d = %d;\n", i, i), 100)
	}
	return write(dir, files)
}
