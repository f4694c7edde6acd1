// Package conformance proves that the executor means by a Dockerfile what
// BuildKit means by it. Its corpus is testdata/FEATURE/CASE.txtar; every case is
// built by BuildKit, by the executor in Overlay mode and by the executor in
// InPlace mode, and the images are compared in config, history, every path of
// the tree and which layer brings it.
//
// # Cases
//
// A case is a txtar archive: https://pkg.go.dev/golang.org/x/tools/txtar. Its
// files are the build context, with the Dockerfile at "Dockerfile"; those below
// ".contexts" are further contexts and those below ".want" what is expected. The
// text before the files begins with remarks, lines with "#", that say in one
// sentence what the case proves. The other lines are directives, one a line. What
// both builders are told:
//
//	arg NAME=VALUE       label NAME=VALUE      target STAGE     platform OS/ARCH
//	secret ID=VALUE      context NAME=WHERE    base NAME FILE
//	file PATH            (the Dockerfile, if it is not "Dockerfile")
//	flag --NAME=VALUE    (the executor only)
//	env NAME=VALUE       (the environment of the executor)
//
// WHERE is a directory "./NAME" below ".contexts" or what both builders take. FILE
// is a Dockerfile of the case: before the case itself BuildKit builds it and
// pushes it as library/NAME, which no other case may use. "$REGISTRY" in a value
// is the registry that holds the base images: busybox, debian:bookworm-slim and
// odd, see package baseimage; "$BUSYBOX" is the digest of the first.
//
// What the context is, besides files 0644 and directories 0755 of 0:0:
//
//	mkdir MODE PATH      chmod MODE PATH       chown UID:GID PATH
//	symlink PATH TARGET  hardlink PATH OLD     fifo PATH
//	crlf PATH            (every line of the file ends in CR LF)
//	bom PATH             (the file begins with a byte order mark)
//	archive PATH DIR     (compressed as the suffix of PATH says; DIR is removed)
//	socket PATH          sparse SIZE PATH      touch TIME PATH
//	rename OLD NEW       truncate SIZE PATH    gzip PATH TEXT
//	entry ARCHIVE TYPE MODE UID:GID NAME [DATA]
//	                     (adds a file to a tar archive: TYPE is file, dir, symlink,
//	                     hardlink, fifo, char or block; DATA is its content, what it
//	                     links to or MAJOR,MINOR)
//
// What builds fetch is served at "//ORIGIN", in files and in values, and what
// they are given besides files:
//
//	serve DIR            (its files are at http://ORIGIN/; DIR is removed)
//	header PATH NAME: VALUE    (of the answer; of the name Status its code, of
//	                     the name Want-Authorization the header it needs)
//	redirect PATH URL
//	commit REPO BRANCH DIR     (DIR is the next commit at http://ORIGIN/REPO.git and is removed)
//	tag REPO BRANCH TAG [annotated]
//	oci-layout NAME IMAGE      (the named context NAME is an OCI image layout of library/IMAGE)
//	agent ID                   (an ssh agent with one key)
//
// What is expected, where it is not three equal images:
//
//	refused                      BuildKit and the executor refuse to build it
//	refused-by-kiln # REASON     only the executor does
//	refused-by-buildkit # REASON only BuildKit does; the modes are compared with each other
//	refused-inplace # REASON     only InPlace mode does
//	only-overlay # REASON        there is nothing to be said of InPlace mode
//	status N                     of an executor that refuses; 1 if not given
//	mtime PATTERN                the times of these paths count too
//	allow PART WHERE FIELD # REASON           a difference to BuildKit, as package compare writes it, or
//	                             "allow warning FILE:LINE RULE # REASON"
//	allow-overlay …, allow-inplace …          the same in one mode only
//
// # Expectations
//
// ".want/config" is the platform, author, config and history of BuildKit's image,
// ".want/tree" every path that is not as in the base image, ".want/error" the
// message of the executor where it refuses, and ".want/warnings" what both find
// amiss. "go test ./e2e/conformance -update" writes them: all of them from
// BuildKit, except the message. A test run compares BuildKit's image with them, so
// that a case that has come to prove nothing, because BuildKit changed or a shell
// did not find its program, is found.
//
// # Score
//
// "make conformance" prints, by feature, how many cases there are, how many come
// out equal in either mode, how many are refused as expected, and every difference
// that a case allows, with its reason.
package conformance
