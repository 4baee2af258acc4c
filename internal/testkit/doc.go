// Package testkit starts what tests need besides the code they test: real servers of other makers, each on loopback, on
// free ports, in the test's own temporary directory, and gone when the test is.
//
// Nothing but tests imports it. A server whose binary is missing is a loud skip on a laptop and a failure where the
// environment has CI=true. Helpers that know one package of ours live beside that package (controlplane/store/storetest).
package testkit
