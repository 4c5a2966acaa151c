// Package durable writes files so that a crash or a power cut leaves either
// the old file or the new one, whole, and never something between: write a
// temporary file, fsync it, rename it over the target, fsync the folder. It
// exists so that this sequence is written once in the project.
//
// Each operation has two forms: on a plain path, and within an os.Root (the
// names that end in "In"), where a name can't leave the root. What returned
// nil survives a power cut, as far as the disk keeps its word about fsync.
//
// A write that was cut off leaves a temporary file beside the target; IsTemp
// knows its name and CleanIn removes such files at the next start.
package durable
