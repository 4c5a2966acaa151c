// Package registry is the supernode's OCI registry: an own handler of the OCI
// distribution-spec 1.1 over the metadata store and the object store. It is
// our own because a tag write and its entry in the replication log must be
// one commit, because garbage collection must run beside pushes and pulls,
// and because referrers and sha512 must work.
//
// What is kept (keys of package meta; a repository never contains "/_/"):
//
//	blob/<digest>                         the object that holds the bytes
//	map/<digest>                          its signed piece map, unless that is an object too
//	repo/<repository>                     when the repository was first written to
//	link/<repository>/_/<digest>          a blob that the repository holds
//	manifest/<repository>/_/<digest>      a manifest that the repository holds
//	referrer/<repository>/_/<subject>/<digest>
//	tag/<repository>/_/<tag>              what a tag names
//	tomb/<repository>/_/<tag>             that a tag was deleted, and which version
//	lease/<repository>/_/<digest>         until when GC leaves a link alone
//	held/<digest>/b|m/<repository>        the links and manifests by digest
//	usage/<project>                       how many bytes a project holds
//	counted/<project>/_/<digest>          how often it holds a digest
//	upload/<id>                           an upload session
//	trash/<time>/<key>                    an object to be deleted later
//	log/<epoch>/<sequence>, logstate      the replication log
//
// What stays: a manifest stays until it is deleted by its digest, whether a
// tag names it or not (Config.UntaggedTTL changes that). A blob stays in a
// repository while a manifest of that repository names it or a lease on it
// runs. Bytes stay while any repository holds them.
//
// Every request is authorised before anything is looked up, so that an answer
// never tells somebody without the right that a thing exists.
package registry
