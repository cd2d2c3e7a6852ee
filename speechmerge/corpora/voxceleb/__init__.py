"""VoxCeleb1: reader, training pairs and spoken miniature."""
from speechmerge.corpora.voxceleb.corpus import VoxCeleb

__all__ = ["VoxCeleb"]
