"""Merge methods, lambda policies and transforms: each is one file of its package that registers itself."""
from speechmerge.registry import Registry

METHODS = Registry("method", "speechmerge.merge.methods")
POLICIES = Registry("lambda policy", "speechmerge.merge.policies")
TRANSFORMS = Registry("transform", "speechmerge.merge.transforms")
