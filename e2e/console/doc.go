// Package console tests the page in a browser: Chromium without a screen, driven by
// Playwright, against a stack that builds with the real executor. The scenarios are
// the .mjs files; screenshots in docs/screenshots are written with -update.
package console
