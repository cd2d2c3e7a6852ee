"""The average of several decoders' token distributions, step by step, for greedy and beam search alike.

Every utterance is decoded `k` times side by side, each time with another adapter; what the output layer gives is
replaced in all of its rows by the weighted average, so that all rows choose the same token.
"""
import contextlib

import torch


def repeated(weights: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    """[utterances, labels] -> one-hot rows [utterances * k, labels], and their shares [utterances, k] with a sum of 1."""
    shares, places = weights.topk(min(k, weights.shape[1]), dim=-1)
    rows = torch.nn.functional.one_hot(places.flatten(), weights.shape[1]).to(weights.dtype)
    return rows, shares / shares.sum(-1, keepdim=True)


@contextlib.contextmanager
def averaging(model, shares: torch.Tensor):
    """Within the block the output layer gives log sum_i share_i softmax(logits_i) for all rows of an utterance.

    shares: [utterances, k]. Rows lie utterance by utterance, k for each, then beams or labels.
    """
    logs = shares.log()[:, :, None, None, None]

    def average(module, inputs, logits):
        utterances, k = shares.shape
        apart = logits.float().log_softmax(-1).reshape(utterances, k, -1, logits.shape[-2], logits.shape[-1])
        mean = (apart + logs.to(apart.device)).logsumexp(1, keepdim=True)
        return mean.expand_as(apart).reshape(logits.shape).to(logits.dtype)

    hook = model.core.get_output_embeddings().register_forward_hook(average)
    try:
        yield
    finally:
        hook.remove()
