// Package e2e holds the tests that use Kiln as its users do, through the
// command line and the network, and compare what it builds with what BuildKit
// builds from the same Dockerfile.
//
// They need root, runc, docker-registry and mmdebstrap, which .ci/setup
// installs; see package need for what happens without.
package e2e
