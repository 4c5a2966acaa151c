// Package placement decides on which hosts of a pool the copies of a service
// run. What is decided is pure (plan.go): hosts, images and claims go in,
// servers and reasons come out.
package placement
