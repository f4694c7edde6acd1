// Package crash kills a dispatcher at every step at which it can die, and looks
// whether anything was lost, built twice or told twice. The table of what is
// promised, and which test shows it, is in matrix_test.go.
package crash
