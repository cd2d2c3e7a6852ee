"""Weights on disk: opened by header, read and written tensor by tensor; safetensors and PyTorch's own files."""
