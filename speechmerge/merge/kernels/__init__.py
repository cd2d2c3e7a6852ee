"""Tensor functions that the methods are made of; nothing here knows adapters or files of merges."""
