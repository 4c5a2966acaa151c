package auth

// MayPull reports whether a registry token opens a repository for pulling.
func (a *Auth) MayPull(raw, repository string) bool {
	if raw == "" {
		return false
	}
	claims, err := a.registryVerifier.Verify(raw)
	return err == nil && claims.Allows("repository", repository, "pull")
}
