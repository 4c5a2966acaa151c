// Package audit keeps who did what to which object from where, and whether
// they were allowed to. Its rows lie as lines of JSON in files that are only
// ever appended to. Each row carries the SHA-256 of the line before, and where
// the chain begins and ends is kept beside it under the supernode's signature.
// Whoever changes, removes, adds or reorders a row without that key is found
// by Verify, which names the first row that does not hold. What this alone
// cannot show is a whole older copy of the folder that was put back: an export
// of later date does.
//
// A row tells what was decided when somebody asked. It holds no secret: who
// records passes names, digests and reasons, never what somebody proved
// themselves with. What is refused, and what is marked as often done, is
// written once and then counted for a while, so that a stranger who knocks all
// night and a fleet that pulls all day fill no disk.
//
// Record never makes its caller wait for the disk. What finds no room, or was
// not written when the program ends, stands in the program's log and in a
// counter.
package audit
