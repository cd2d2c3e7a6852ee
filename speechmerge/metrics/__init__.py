"""Metrics on plain references and hypotheses. Values are fractions; only what is printed is percent."""
