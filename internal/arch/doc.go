// Package arch holds the rules of the house as tests: who may import whom, how
// long a file, a function and a line may be, and what may not be in a file
// that must be pure. The tests parse the files themselves, so that a planted violation
// can't hide behind the test cache.
package arch
