"""Connectionist temporal classification: from log-probabilities per frame to texts, and the score of a given text."""
import math

import torch
from torch import nn

BLANK = 0


def greedy(scores) -> list[int]:
    """scores (frames, symbols) -> symbols of the best path: repetitions once, blanks left out."""
    path = torch.unique_consecutive(scores.argmax(-1)).tolist()
    return [symbol for symbol in path if symbol != BLANK]


def beam_search(scores, beams: int) -> list[int]:
    """The most probable text by prefix beam search (Hannun et al. 2014): paths that spell the same text are summed.

    scores (frames, symbols): log-probabilities. A prefix has two probabilities: its last frame was a blank, or not.
    """
    kept = {(): (0.0, -math.inf)}
    for row in scores.double().cpu():
        _, likely = row.topk(min(2 * beams, len(row)))
        logs, found = row.tolist(), {}
        for prefix, (blank, spoken) in kept.items():
            total = _add(blank, spoken)
            _collect(found, prefix, total + logs[BLANK], -math.inf)
            if prefix:
                _collect(found, prefix, -math.inf, spoken + logs[prefix[-1]])
            for symbol in likely.tolist():
                if symbol != BLANK:
                    before = blank if prefix and symbol == prefix[-1] else total
                    _collect(found, (*prefix, symbol), -math.inf, before + logs[symbol])
        best = sorted(found.items(), key=lambda entry: (-_add(*entry[1]), entry[0]))
        kept = dict(best[:beams])
    return list(next(iter(kept)))


def _collect(found, prefix, blank, spoken):
    there = found.get(prefix, (-math.inf, -math.inf))
    found[prefix] = (_add(there[0], blank), _add(there[1], spoken))


def _add(a: float, b: float) -> float:
    """log(exp a + exp b)"""
    high, low = max(a, b), min(a, b)
    return high if low == -math.inf else high + math.log1p(math.exp(low - high))


def text_scores(scores, lengths, texts: list[list[int]]):
    """log P(text | utterance), summed over all paths: (batch, texts). -inf where a text needs more frames."""
    columns = []
    for text in texts:
        targets = torch.tensor(text, device=scores.device).expand(len(scores), -1)
        sizes = torch.full((len(scores),), len(text), device=scores.device)
        columns.append(-nn.functional.ctc_loss(scores.float().transpose(0, 1), targets, lengths.to(sizes.device), sizes,
                                               reduction="none"))
    return torch.stack(columns, dim=1)


def needed_frames(text: list) -> int:
    """The fewest frames that can hold a text: between equal neighbours stands a blank."""
    return len(text) + sum(a == b for a, b in zip(text, text[1:]))
