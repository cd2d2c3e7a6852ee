"""What tells languages, tasks or domains apart: one module each, registered by name."""
from speechmerge.registry import Registry

CLASSIFIERS = Registry("router classifier", "speechmerge.route.classifiers")
