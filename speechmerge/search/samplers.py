"""Searches. Each is fresh at every point: neither random state nor fitted models need to survive a kill.

`ask(points, warm)`: points [(values, score)] in the order in which they were asked for, the score PENDING of those that
other workers are trying right now; `warm`: those of earlier searches, known but not counted.
"""
import itertools
import warnings

from speechmerge.errors import SpeechMergeError, UsageError
from speechmerge.search.space import as_stored, at, distribution, inside, outside, share

PENDING = "pending"


class Grid:
    """Every combination of the values, in the order of the config."""

    def __init__(self, search: dict):
        grid = as_stored(search["grid"])
        self.rows = [dict(zip(grid, row)) for row in itertools.product(*grid.values())]
        self.size = len(self.rows)

    def ask(self, points, warm=()) -> dict | None:
        tried = [values for values, _ in points]
        return next((row for row in self.rows if row not in tried), None)


class Random:
    """A scrambled Sobol sequence: random, but evenly spread."""

    def __init__(self, search: dict):
        self.space, self.size = as_stored(search["space"]), search["budget"]
        self.init_points, self.seed = search.get("init_points", search["budget"]), search["seed"]

    def ask(self, points, warm=()) -> dict | None:
        """None: the budget, or the space, is used up."""
        place, known = len(points), [*warm, *points]
        if place >= self.size:
            return None
        tried = [values for values, _ in known]
        first = self.spread(place) if len(known) < self.init_points else self.proposed(list(points), list(warm))
        others = (self.spread(later) for later in range(place, place + 256))
        return next((values for values in itertools.chain([first], others) if values not in tried), None)

    def spread(self, place: int) -> dict:
        """The point number `place` of the Sobol sequence."""
        from torch.quasirandom import SobolEngine

        row = SobolEngine(len(self.space), scramble=True, seed=self.seed).draw(place + 1)[place].tolist()
        return {name: at(entry, share) for (name, entry), share in zip(self.space.items(), row)}

    def proposed(self, points, warm) -> dict:
        return self.spread(len(points))

    def scored(self, known) -> list:
        """Those with a score. SpeechMergeError where all have been tried and none has one."""
        found = [(values, score) for values, score in known if score not in (None, PENDING)]
        if not found and not any(score == PENDING for _, score in known):
            raise SpeechMergeError("interference_delta is undefined for every task at every point, so that nothing can "
                                   "be searched for; are the single adapters better than the base on this split?")
        return found


class Optunas(Random):
    """A sampler of Optuna, told all known points. Those without a score, undefined or still being tried, count as
    bad ones, so that it goes elsewhere."""

    def proposed(self, points, warm):
        import optuna

        known = [*warm, *points]
        scored = self.scored(known)
        if not scored:
            return self.spread(len(points))
        worst = min(score for _, score in scored)
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            sampler = self.sampler((self.seed * 1_000_003 + len(known)) % 2**32)
            study = optuna.create_study(direction="maximize", sampler=sampler)
            space = {name: distribution(entry) for name, entry in self.space.items()}
            for values, score in [*scored, *((values, worst) for values, score in known if score in (None, PENDING))]:
                inner = {name: inside(self.space[name], values[name]) for name in space}
                study.add_trial(optuna.trial.create_trial(params=inner, distributions=space, value=score))
            found = study.ask(space).params
        return {name: outside(entry, found[name]) for name, entry in self.space.items()}


class Bayes(Optunas):
    """First `init_points` of a scrambled Sobol sequence, then maxima of expected improvement (Optuna's GPSampler)."""

    def sampler(self, seed: int):
        import optuna

        return optuna.samplers.GPSampler(seed=seed, n_startup_trials=1, deterministic_objective=True)


class Tpe(Optunas):
    """The same with tree-structured Parzen estimators, all axes together (Optuna's TPESampler)."""

    def sampler(self, seed: int):
        import optuna

        return optuna.samplers.TPESampler(seed=seed, n_startup_trials=1, multivariate=True)


class CmaEs(Random):
    """Covariance matrix adaptation (package cmaes) on the unit cube, from the best of the points spread before it.

    Its generations are played again at every point: what it asks follows from seed and scores alone.
    """

    SIGMA = 0.25  # of the unit cube

    def __init__(self, search: dict):
        super().__init__(search)
        names = [name for name, entry in self.space.items() if entry["type"] == "categorical"]
        if names or len(self.space) < 2:
            why = f"{names[0]} is categorical" if names else f"there is only {next(iter(self.space))}"
            raise UsageError(f"search.type cmaes: {why}; it is for two numbers or more, use tpe or bayes")

    def proposed(self, points, warm):
        import numpy as np
        from cmaes import CMA

        first = max(self.init_points - len(warm), 0)  # the places from here on are its own
        scored = self.scored([*warm, *points])
        if not scored:
            return self.spread(len(points))
        best, worst = max(scored, key=lambda point: point[1]), min(score for _, score in scored)
        if first < len(points):  # played again: from what was known when it began
            best = max(self.scored([*warm, *points[:first]]) or scored, key=lambda point: point[1])
        mean = np.array([share(entry, best[0][name]) for name, entry in self.space.items()])
        walk = CMA(mean=mean, sigma=self.SIGMA, seed=self.seed, bounds=np.array([[0.0, 1.0]] * len(mean)))
        generation = []
        for _, score in points[first:]:
            generation.append((walk.ask(), -(worst if score in (None, PENDING) else score)))
            if len(generation) == walk.population_size:
                walk.tell(generation)
                generation = []
        return {name: at(entry, float(value)) for (name, entry), value in zip(self.space.items(), walk.ask())}


SEARCHERS = {"grid": Grid, "random": Random, "bayes": Bayes, "tpe": Tpe, "cmaes": CmaEs}
