"""What to try next: the points of a grid, or those that a search proposes.

    search = searcher({"type": "grid", "grid": {"scale": [0.2, 0.5]}})
    search.ask([])                          # {"scale": 0.2}
    search.ask([({"scale": 0.2}, -0.4)])    # {"scale": 0.5}; None after the last one

A point is a pair (values by name, score to be maximised; None where it is undefined). Whatever is asked depends on
nothing but the points so far, so that a search that was killed goes on as if it had not been.
"""
from speechmerge.search.samplers import SEARCHERS
from speechmerge.search.warm import warm_points, worst

__all__ = ["searcher", "warm_points", "worst"]


def searcher(search: dict):
    """The search of a config's `search`, as :func:`speechmerge.merge.config.search_space.read_search` gives it."""
    return SEARCHERS[search["type"]](search)
