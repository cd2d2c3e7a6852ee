"""Greedy and beam search on ESPnet's Transformer decoder, for a whole batch, with cached keys and values.

espnet2's own search takes one utterance at a time and computes the keys and values of the encoder's states anew for
every token. The hypotheses here are its: the same beam, the same end detection. With a CTC weight its search is used.
"""
import math

import torch
from torch import nn

from speechmerge.errors import SpeechMergeError

END_MARGIN, END_LENGTHS = -10.0, 3  # espnet's end_detect: log-probability that the last lengths are behind the best


class Steps:
    """The decoder a few tokens at a time. Row r of the tokens belongs to utterance r // (rows / utterances)."""

    def __init__(self, decoder, states: torch.Tensor):
        """states: (utterances, positions, d) of the encoder."""
        self.decoder, self.past = decoder, [None] * len(decoder.decoders)
        self.memory = [(_heads(layer.src_attn, "k", states), _heads(layer.src_attn, "v", states))
                       for layer in decoder.decoders]

    def __call__(self, tokens: torch.Tensor, new: int) -> torch.Tensor:
        """tokens: (rows, all so far); the last `new` were not seen yet. Log-probabilities (rows, new, vocabulary)."""
        x = self.decoder.embed(tokens)[:, -new:]
        for number, layer in enumerate(self.decoder.decoders):
            x = x + self._own(number, layer, layer.norm1(x))
            x = x + self._heard(number, layer, layer.norm2(x))
            x = x + layer.feed_forward(layer.norm3(x))
        return self.decoder.output_layer(self.decoder.after_norm(x)).float().log_softmax(-1)

    def select(self, rows: torch.Tensor):
        """Go on with these rows (repeated or left out) of the last call."""
        self.past = [(keys[rows], values[rows]) for keys, values in self.past]

    def _own(self, number, layer, x):
        attention, new = layer.self_attn, x.shape[1]
        query, keys, values = (_heads(attention, which, x) for which in "qkv")
        if self.past[number] is not None:
            keys, values = (torch.cat(pair, dim=2) for pair in zip(self.past[number], (keys, values)))
        self.past[number] = (keys, values)
        seen = torch.ones(new, keys.shape[2], dtype=torch.bool, device=x.device).tril(keys.shape[2] - new)
        return _attend(attention, query, keys, values, seen)

    def _heard(self, number, layer, x):
        """All rows of an utterance as one long query: its keys and values are not repeated."""
        attention, (keys, values) = layer.src_attn, self.memory[number]
        query, (rows, new, size) = _heads(attention, "q", x), x.shape
        query = query.transpose(1, 2).reshape(len(keys), -1, attention.h, attention.d_k).transpose(1, 2)
        heard = nn.functional.scaled_dot_product_attention(query, keys, values)
        return attention.linear_out(heard.transpose(1, 2).reshape(rows, new, size))


def check_decoder(decoder, where):
    """Raises SpeechMergeError for a decoder that Steps does not compute."""
    plain = all(layer.normalize_before and not layer.concat_after and layer.sequential_attn is None
                and type(layer.self_attn).__name__ == "MultiHeadedAttention" for layer in decoder.decoders)
    if type(decoder).__name__ != "TransformerDecoder" or not plain:
        raise SpeechMergeError(f"{where}: decoder {type(decoder).__name__}: only ESPnet's Transformer decoder with "
                               "normalize_before is supported, which OWSM has")


def _heads(attention, which: str, x):
    """(rows, length, d) -> (rows, heads, length, d / heads) of query, key or value."""
    parts = getattr(attention, f"linear_{which}")(x).view(len(x), -1, attention.h, attention.d_k).transpose(1, 2)
    return parts if which == "v" else getattr(attention, f"{which}_norm")(parts)


def _attend(attention, query, keys, values, seen):
    heard = nn.functional.scaled_dot_product_attention(query, keys, values, attn_mask=seen)
    return attention.linear_out(heard.transpose(1, 2).flatten(2))


class Beam:
    """One utterance's hypotheses; scores are sums of log-probabilities, longer ones are not favoured (as in espnet)."""

    def __init__(self, prefix: int):
        self.prefix, self.ended, self.done = prefix, [], False  # ended: (score, length of all tokens, answer)

    def take(self, step: int, last: bool, scores: list[float], answers: list[list[int]], eos: int) -> list[float]:
        """Move what has ended out of the beam. Returns the scores of what goes on, -inf for the rest."""
        left = []
        for score, answer in zip(scores, answers):
            ends = answer[-1] == eos or last
            if ends and score > -math.inf:
                text = [token for token in answer if token != eos]
                self.ended.append((score, self.prefix + len(answer) + last, text))
            left.append(-math.inf if ends else score)
        self.done = last or max(left) == -math.inf or self.detects_end(step)
        return left

    def detects_end(self, step: int) -> bool:
        """espnet's end_detect: hypotheses of the last three lengths are all far behind the best one."""
        if not self.ended:
            return False
        best = max(score for score, *_ in self.ended)
        found = [max((score for score, length, _ in self.ended if length == step - back), default=None)
                 for back in range(END_LENGTHS)]
        return all(score is not None and score - best < END_MARGIN for score in found)

    def best(self) -> list[int]:
        return max(self.ended, key=lambda hypothesis: hypothesis[0], default=(0.0, 0, []))[2]


@torch.no_grad()
def search(decoder, states, prefix, never: torch.Tensor, eos: int, beams: int, most: int) -> list[list[int]]:
    """The answers (token ids without end) of a batch.

    states (batch, positions, d); prefix (batch, tokens); never: token ids that are not written; most: tokens of an
    answer.
    """
    size, device = len(prefix), prefix.device
    steps, tokens, rows = Steps(decoder, states), prefix, 1
    scores = torch.zeros(size, 1, device=device)
    kept = [Beam(prefix.shape[1]) for _ in range(size)]
    new = prefix.shape[1]
    for step in range(most):
        logs = steps(tokens, new)[:, -1].view(size, rows, -1)
        logs[:, :, never] = -math.inf
        vocabulary = logs.shape[-1]
        scores, chosen = (scores[..., None] + logs).view(size, -1).topk(beams)
        parents = chosen // vocabulary + torch.arange(size, device=device)[:, None] * rows
        tokens = torch.cat([tokens[parents.flatten()], (chosen % vocabulary).view(-1, 1)], dim=1)
        rows, new = beams, 1
        answers = tokens[:, prefix.shape[1]:].view(size, beams, -1).tolist()
        left = scores.tolist()
        for index, beam in enumerate(kept):
            if not beam.done:
                left[index] = beam.take(step, step == most - 1, left[index], answers[index], eos)
        if all(beam.done for beam in kept):
            break
        scores = torch.tensor(left, device=device)
        steps.select(parents.flatten())
    return [beam.best() for beam in kept]


@torch.no_grad()
def score(decoder, states, prefix, targets: list[list[int]], most_bytes: int) -> torch.Tensor:
    """Mean log-probability per token (batch, targets) on the CPU; targets end with their end token.

    most_bytes: how large the logits that are held at once may be.
    """
    size, width = len(prefix), max(map(len, targets))
    steps = Steps(decoder, states)
    first = steps(prefix, prefix.shape[1])[:, -1]
    past, found = steps.past, []
    count = max(1, most_bytes // (4 * size * width * first.shape[-1]))
    for start in range(0, len(targets), count):
        chosen = targets[start : start + count]
        rows = torch.arange(size, device=prefix.device).repeat_interleave(len(chosen))
        ids = torch.tensor([ids + [-1] * (width - len(ids)) for ids in chosen], device=prefix.device).repeat(size, 1)
        logs = first[rows][:, None]
        if width > 1:
            steps.past = past
            steps.select(rows)
            told = torch.cat([prefix[rows], ids[:, :-1].clamp(min=0)], dim=1)
            logs = torch.cat([logs, steps(told, width - 1)], dim=1)
        own = logs.gather(-1, ids.clamp(min=0)[..., None])[..., 0] * (ids >= 0)
        found.append((own.sum(-1) / (ids >= 0).sum(-1)).view(size, -1).cpu())
    return torch.cat(found, dim=1)


@torch.no_grad()
def search_with_ctc(network, states, prefix, symbols, beams: int, weight: float, most: int) -> list[list[int]]:
    """The same with CTC prefix scores of this weight, by espnet's own steps, one utterance at a time.

    Its CTC counts the prefix as if it were spoken: prefix and answer together are no longer than the positions heard.
    """
    from espnet2.bin.s2t_inference import ScoreFilter
    from espnet.nets.batch_beam_search import BatchBeamSearch
    from espnet.nets.scorers.ctc import CTCPrefixScorer

    size = len(network.token_list)
    only = ScoreFilter(symbols.no_time, *symbols.times, network.sos, network.eos, size).to(states.device)
    scorers = {"decoder": network.decoder, "ctc": CTCPrefixScorer(network.ctc, network.eos), "scorefilter": only}
    beam = BatchBeamSearch(
        scorers, {"decoder": 1.0 - weight, "ctc": weight, "scorefilter": 1.0}, beams, size, network.sos, network.eos,
        pre_beam_score_key=None if weight == 1.0 else "full",
    ).to(states.device).eval()
    most = min(most, states.shape[1] - prefix.shape[1])
    if most < 1:
        raise SpeechMergeError(f"a prefix of {prefix.shape[1]} tokens, {states.shape[1]} positions heard: with a CTC "
                               "weight the prompt must be shorter than the audio; use --audio-context full, a "
                               "shorter prompt or no CTC")
    return [_spelled(beam, heard, told, most, network.eos) for heard, told in zip(states, prefix.tolist())]


def _spelled(beam, heard, told: list[int], most: int, eos: int) -> list[int]:
    """BatchBeamSearch.forward with a limit of its own beside the end detection."""
    from espnet.nets.e2e_asr_common import end_detect

    beam.set_hyp_primer(told)
    running, ended = beam.init_hyp(heard), []
    for step in range(most):
        running = beam.post_process(step, most, 0, 0.0, beam.search(running, heard), ended)
        if not len(running) or end_detect([hypothesis.asdict() for hypothesis in ended], step):
            break
    best = max(ended, key=lambda hypothesis: hypothesis.score).yseq.tolist()[len(told) :]
    return [token for token in best if token != eos]
