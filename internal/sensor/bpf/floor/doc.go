// Package floor measures what a packet costs in the sensor's programs, beside the least a program of their kind could do
// and beside an empty one. Benchmarks use it; the product does not.
package floor
