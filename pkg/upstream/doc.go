// Package upstream talks to other registries (docker.io, ghcr.io, a Harbor)
// as a client of the OCI distribution protocol. It exists because whatever
// answers there is a stranger: a compromised or lying registry must not be
// able to make a node connect into its own network, hand credentials to
// another host, or fill its memory.
//
// Limits, on purpose: only registries named in the configuration are asked;
// addresses are checked after DNS, at each dial; proxies from the environment
// are not used, since a proxy would dial unchecked; HTTP/1.1 only, since it
// costs less than HTTP/2 for bulk bytes.
//
// Sources: OCI distribution-spec 1.1, the Docker token authentication
// specification, RFC 6750 and RFC 9110 (challenges, Retry-After, ranges).
package upstream
