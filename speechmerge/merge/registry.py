"""The merge methods: each is one file of speechmerge.merge.methods that registers itself."""
from speechmerge.registry import Registry

METHODS = Registry("method", "speechmerge.merge.methods")
