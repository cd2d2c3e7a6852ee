"""Configs of merges and searches: one schema, its options, and the older schemas it replaces."""
