package registry

// SetInlineMap lowers the size up to which piece maps stand in the metadata,
// which only blobs of many gigabytes exceed.
func (g *Registry) SetInlineMap(bytes int) { g.inlineMap = bytes }
