// Package compat holds the promise that Kiln takes kaniko's place: a table with
// a row for every flag, environment variable, path and kind of context that
// kaniko's users write, and for every way a registry can fail, each of which
// runs the built binaries and looks at what comes of it. docs/compatibility.md
// is made from the table:
//
//	go test ./e2e/compat -run TestDocument -update
//
// testdata/promises.txt lists what must have a row, by hand, from kaniko's
// documentation and that of its forks.
//
// The tests need root, runc, docker-registry, azurite and busybox, which
// .ci/setup installs.
package compat
