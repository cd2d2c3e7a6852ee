"""One file per merge method; each registers itself in speechmerge.merge.registry.METHODS."""
