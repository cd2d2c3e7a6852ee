"""Training a router's classifier on states that were computed before: seconds, not hours."""
import copy
import logging
from dataclasses import dataclass

import torch
from torch.nn.functional import cross_entropy

from speechmerge.errors import UsageError

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class FitOptions:
    epochs: int = 60
    patience: int = 8  # epochs without a smaller loss on dev before it ends
    batch_size: int = 32
    learning_rate: float = 1e-3  # of AdamW
    weight_decay: float = 1e-2
    balanced: bool = True  # every label is drawn equally often
    seed: int = 0

    def __post_init__(self):
        for name in ("epochs", "patience", "batch_size", "learning_rate"):
            if getattr(self, name) <= 0:
                raise UsageError(f"router: {name} is {getattr(self, name)}, expected a number above 0")


def fit(classifier, states: list[torch.Tensor], targets: list[int], dev_states, dev_targets, options: FitOptions) -> list[dict]:
    """Leaves the classifier with its best weights on dev; returns the losses of every epoch.

    states: [t, d] of each stretch, of any float type; targets: index of its label.
    """
    classifier.standardise(states)
    if classifier.only_mean:
        states, dev_states = ([rows.float().mean(0, keepdim=True) for rows in part] for part in (states, dev_states))
    draws = torch.Generator().manual_seed(options.seed)
    shares = sampling_shares(targets, options.balanced)
    optimizer = torch.optim.AdamW(classifier.parameters(), lr=options.learning_rate, weight_decay=options.weight_decay)
    history, best, kept = [], float("inf"), None
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(options.seed)  # dropout
        for epoch in range(options.epochs):
            chosen = torch.multinomial(shares, len(targets), replacement=True, generator=draws).tolist()
            loss = one_epoch(classifier, optimizer, [states[i] for i in chosen], [targets[i] for i in chosen], options)
            dev = float(cross_entropy(logits_of(classifier, dev_states), torch.tensor(dev_targets)))
            history.append({"epoch": epoch + 1, "loss": loss, "dev_loss": dev})
            if dev < best:
                best, kept = dev, copy.deepcopy(classifier.state_dict())
            elif epoch + 1 - min(history, key=lambda row: row["dev_loss"])["epoch"] >= options.patience:
                break
    classifier.load_state_dict(kept)
    classifier.eval()
    log.info("router: %d epochs, dev loss %.4f", len(history), best)
    return history


def sampling_shares(targets: list[int], balanced: bool) -> torch.Tensor:
    """How often each example is drawn: all alike, or all labels alike."""
    counts = torch.bincount(torch.tensor(targets)).double()
    return 1 / counts[torch.tensor(targets)] if balanced else torch.ones(len(targets), dtype=torch.float64)


def one_epoch(classifier, optimizer, states, targets, options: FitOptions) -> float:
    classifier.train()
    total = 0.0
    for start in range(0, len(states), options.batch_size):
        part = slice(start, start + options.batch_size)
        loss = cross_entropy(classifier(*padded(states[part])), torch.tensor(targets[part]))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        total += loss.item() * len(states[part])
    return total / len(states)


@torch.no_grad()
def logits_of(classifier, states: list[torch.Tensor], batch_size: int = 64) -> torch.Tensor:
    """[n, labels]"""
    classifier.eval()
    parts = [classifier(*padded(states[i : i + batch_size])) for i in range(0, len(states), batch_size)]
    return torch.cat(parts)


def padded(states: list[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """(states [b, longest, d], lengths [b])"""
    return (torch.nn.utils.rnn.pad_sequence(states, batch_first=True).float(), torch.tensor([len(rows) for rows in states]))
