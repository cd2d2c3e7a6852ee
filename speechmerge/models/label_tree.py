"""Many labels in one pass of a decoder: their tokens as a tree, laid out along the sequence.

Labels that begin alike share their first tokens. A token sees the prefix, its ancestors in the tree and itself, and has
the position that it would have if its label stood there alone, so that every log-probability is that of the label by
itself. The encoder's keys and values are used once instead of being copied for every label.
"""
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Tree:
    """Nodes, parents first. An edge is the step from a node (-1: the end of the prefix) to a token, which is
    a node of its own unless it ends a label."""
    tokens: list[int]  # of each node
    ancestors: list[tuple[int, ...]]  # of each node, itself included
    edges: list[tuple[int, int]]  # (node, next token), each once
    paths: list[list[int]]  # of each label, the edges it is made of


def label_tree(targets: list[list[int]]) -> Tree:
    """Of token ids that all end with the same end token."""
    tokens, ancestors, edges, paths, nodes = [], [], {}, [], {}
    for target in targets:
        path, here = [], -1
        for place, token in enumerate(target):
            path.append(edges.setdefault((here, token), len(edges)))
            if place + 1 == len(target):
                break
            if (here, token) not in nodes:
                nodes[here, token] = len(tokens)
                ancestors.append((*(ancestors[here] if here >= 0 else ()), len(tokens)))
                tokens.append(token)
            here = nodes[here, token]
        paths.append(path)
    return Tree(tokens, ancestors, list(edges), paths)


def chunks(targets: list[list[int]], most: int):
    """Yield lists of indices into `targets`: neighbours in the order of tokens, `most` tokens (or one label)."""
    chunk, size = [], 0
    for index in sorted(range(len(targets)), key=targets.__getitem__):
        if chunk and size + len(targets[index]) > most:
            yield chunk
            chunk, size = [], 0
        chunk.append(index)
        size += len(targets[index])
    if chunk:
        yield chunk


def attention(tree: Tree, start: int, dtype) -> torch.Tensor:
    """Additive mask (1, 1, n, n) of `start` tokens of prefix and the tree's nodes after them."""
    count = start + len(tree.tokens)
    seen = torch.zeros(count, count, dtype=torch.bool)
    seen[:start, :start] = torch.ones(start, start).tril().bool()
    seen[start:, :start] = True
    for node, above in enumerate(tree.ancestors):
        seen[start + node, [start + other for other in above]] = True
    return torch.zeros(count, count, dtype=dtype).masked_fill(~seen, torch.finfo(dtype).min)[None, None]


def score_tree(core, encoded, prefix, targets: list[list[int]], block_bytes: int) -> torch.Tensor:
    """Mean log-probability per token (size, labels). core: a Whisper; encoded (size, positions, d); prefix (size,
    start); block_bytes: how large the logits that are held at once may be."""
    tree, (size, start) = label_tree(targets), prefix.shape
    tokens = torch.tensor(tree.tokens, dtype=prefix.dtype, device=prefix.device).expand(size, -1)
    depths = [len(above) - 1 for above in tree.ancestors]
    positions = torch.tensor([*range(start), *(start + depth for depth in depths)], device=prefix.device)
    hidden = core.model.decoder(
        input_ids=torch.cat([prefix, tokens], dim=1), encoder_hidden_states=encoded, use_cache=False,
        attention_mask=attention(tree, start, encoded.dtype).to(prefix.device).expand(size, -1, -1, -1),
        position_ids=positions.expand(size, -1),
    ).last_hidden_state[:, start - 1:]  # row 0: the end of the prefix, then the nodes
    edges = torch.tensor(tree.edges, device=prefix.device) + torch.tensor([1, 0], device=prefix.device)
    found = torch.empty(size, len(tree.edges), device=prefix.device)
    rows = max(1, block_bytes // (4 * size * core.config.vocab_size))
    for first in range(0, hidden.shape[1], rows):
        logs = core.proj_out(hidden[:, first : first + rows]).float().log_softmax(-1)
        own = ((edges[:, 0] >= first) & (edges[:, 0] < first + rows)).nonzero()[:, 0]
        found[:, own] = logs[:, edges[own, 0] - first, edges[own, 1]]
    return torch.stack([found[:, path].mean(dim=1) for path in tree.paths], dim=1)
