"""Log-probabilities of many labels after one conversation: its keys and values are computed once and never copied.

The labels' tokens are laid out as a tree (see models/label_tree.py) behind the cache: a token sees the conversation, its
ancestors and itself, at the position that it would have if its label stood there alone.
"""
import contextlib

import torch

from speechmerge.models.label_tree import attention, chunks, label_tree

TREE_TOKENS = 768  # at once: attention within a tree grows with the square
BLOCK_BYTES = 1 << 28  # of logits that are held at once


def positions_of(mask: torch.Tensor) -> torch.Tensor:
    """Position of every token (rows, length), padding on the left not counted; mask: 1 for tokens."""
    return (mask.long().cumsum(-1) - 1).clamp(min=0)


def score_labels(core, embeds: torch.Tensor, mask: torch.Tensor, targets: list[list[int]]) -> torch.Tensor:
    """Mean log-probability per token, (rows, labels), float32 on the CPU.

    core: network with `model.language_model` and `lm_head`; embeds (rows, length, d), padded on the left; mask (rows,
    length), 1 for tokens; targets: token ids of each label, its end included.
    """
    decoder = core.model.language_model
    with any_mask(decoder):
        first = decoder(inputs_embeds=embeds, attention_mask=mask, position_ids=positions_of(mask), use_cache=True)
        cache, last = first.past_key_values, first.last_hidden_state[:, -1:]
        scores = torch.empty(len(embeds), len(targets))
        for chosen in chunks(targets, TREE_TOKENS):
            tree = label_tree([targets[index] for index in chosen])
            hidden = last
            if tree.tokens:
                hidden = torch.cat([last, nodes(core, cache, mask, tree, embeds.dtype)], dim=1)
                cache.crop(-len(tree.tokens))
            found = edge_scores(core, hidden, tree)
            scores[:, chosen] = torch.stack([found[:, path].mean(dim=1) for path in tree.paths], dim=1).cpu()
    return scores


def nodes(core, cache, mask: torch.Tensor, tree, dtype) -> torch.Tensor:
    """Hidden states (rows, nodes, d) of a tree's tokens after the cached conversation, which they extend."""
    tokens = torch.tensor(tree.tokens, device=mask.device).expand(len(mask), -1)
    depths = torch.tensor([len(above) - 1 for above in tree.ancestors], device=mask.device)
    among = attention(tree, 0, dtype).to(mask.device).expand(len(mask), -1, -1, -1)
    before = torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill(mask == 0, torch.finfo(dtype).min)
    before = before[:, None, None].expand(-1, -1, len(tree.tokens), -1)
    return core.model.language_model(
        inputs_embeds=core.get_input_embeddings()(tokens), attention_mask=torch.cat([before, among], dim=-1),
        position_ids=mask.long().sum(-1, keepdim=True) + depths, past_key_values=cache, use_cache=True,
    ).last_hidden_state


def edge_scores(core, hidden: torch.Tensor, tree) -> torch.Tensor:
    """Log-probability (rows, edges) of the step from a node (hidden[:, 0]: the conversation's end) to a token."""
    edges = torch.tensor(tree.edges, device=hidden.device) + torch.tensor([1, 0], device=hidden.device)
    found = torch.empty(len(hidden), len(tree.edges), device=hidden.device)
    head = core.get_output_embeddings()
    rows = max(1, BLOCK_BYTES // (4 * len(hidden) * head.out_features))
    for start in range(0, hidden.shape[1], rows):
        logs = head(hidden[:, start : start + rows]).float().log_softmax(-1)
        own = ((edges[:, 0] >= start) & (edges[:, 0] < start + rows)).nonzero()[:, 0]
        found[:, own] = logs[:, edges[own, 0] - start, edges[own, 1]]
    return found


@contextlib.contextmanager
def any_mask(decoder):
    """FlashAttention takes no mask that is a tree: within the block it is replaced by PyTorch's own attention."""
    kind = decoder.config._attn_implementation
    if kind is None or not kind.startswith("flash"):
        yield
        return
    decoder.set_attn_implementation("sdpa")
    try:
        yield
    finally:
        decoder.set_attn_implementation(kind)
