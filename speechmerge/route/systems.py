"""Routed systems as the decoder and the scores know them: exp/routed.json, {name: what decides what they compute}."""
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path

from speechmerge.errors import UsageError
from speechmerge.files import read_mapping, update_json
from speechmerge.registry import nearest
from speechmerge.route.index import INDEX, RECORD
from speechmerge.route.smoothing import check_smoothing
from speechmerge.route.strategies import STRATEGIES

LEVELS = ("utterance", "frame")
LANGUAGES = ("routed", "given")


@dataclass(frozen=True)
class Routing:
    """One way to use a router. `adapters`: label -> registered name, or folder; labels in `base_labels` have none.

    language: what the decoder is told is spoken: that of the most probable label ("routed"; nothing is known but the
    audio), or that of the data ("given"). level: coefficients per utterance, or per frame: then each frame is judged by
    `window` seconds around it, and the probabilities are smoothed over time (see smoothing.py).
    """

    router: str
    strategy: str
    options: dict = field(default_factory=dict)
    adapters: dict = field(default_factory=dict)
    base_labels: list = field(default_factory=list)
    language: str = "routed"
    level: str = "utterance"
    window: float = 1.0  # seconds
    smoothing: str = "none"
    smoothing_seconds: float = 0.5

    def __post_init__(self):
        strategy = STRATEGIES.get(self.strategy)
        for name, known in (("level", LEVELS), ("language", LANGUAGES)):
            if getattr(self, name) not in known:
                raise UsageError(f"routing: {name} {getattr(self, name)!r}; {nearest(getattr(self, name), known)}")
        if self.level == "frame" and (strategy.ensemble or strategy.per_token):
            raise UsageError(f"routing: {self.strategy} has no coefficients per frame; use level: utterance")
        check_smoothing(self.smoothing, self.smoothing_seconds)

    def make_strategy(self, labels):
        return STRATEGIES.get(self.strategy)(labels, [label for label in labels if label not in self.base_labels], **self.options)


OWN = {field.name for field in fields(Routing)} - {"router", "options", "adapters", "base_labels"}


def routing_of(name: str, given: dict | None, router, adapters=None, base_labels=()) -> Routing:
    """From the entry of a config: the fields of Routing, everything else is an option of the strategy."""
    given = dict(given or {})
    own = {key: given.pop(key) for key in list(given) if key in OWN}
    routing = Routing(str(router), **{"strategy": name, **own}, options=given, adapters=dict(adapters or {}),
                      base_labels=list(base_labels))
    labels = read_mapping(Path(router) / RECORD)["labels"] if (Path(router) / RECORD).is_file() else []
    for label in [*routing.adapters, *routing.base_labels]:
        if labels and label not in labels:
            raise UsageError(f"routing: the router {router} has no label {label!r}; {nearest(label, labels)}")
    if labels:
        routing.make_strategy(labels)  # wrong options are found before hours of decoding
    return routing


def register(exp_dir, router: Path, strategies: dict, adapters=None, base_labels=()) -> list[str]:
    """Enter <router>-<name> for every strategy of a config; returns these names."""
    if not isinstance(strategies, dict):
        raise UsageError(f"--strategies: found {strategies!r}, expected a mapping such as {{hard: {{}}, top_k: {{k: 2}}}}")
    routings = {f"{router.name}-{name}": routing_of(name, given, router, adapters, base_labels) for name, given in strategies.items()}
    for name, routing in routings.items():
        update_json(Path(exp_dir) / INDEX, name, asdict(routing))
    return list(routings)
