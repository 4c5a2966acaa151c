// Package nodeconfig writes the few lines by which containerd and Docker find
// the agent's mirror, and takes them away again. It exists because these are
// other programs' files, edited by people: what is not ours is never
// overwritten, what is edited keeps every other byte, what was there before
// is backed up first and comes back byte for byte, with its mode and owner.
//
// A Plan only reads. Apply writes what the Plan showed, each file whole or
// not at all; a power cut in between leaves a state from which both Apply and
// Undo go on.
package nodeconfig
