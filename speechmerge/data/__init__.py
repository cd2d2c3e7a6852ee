"""Data directories and audio."""
