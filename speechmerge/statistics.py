"""Statistics of adapters on their tasks' data -> <adapter>/statistics/<kind>.{safetensors,json}, for merges.

    gram               inputs of the adapted linear layers, base + adapter: X'X / rows
    fisher             squared gradients of the log-likelihood with respect to what the adapter changes, per example
    regmean_plus_plus  as gram, but block by block on a model in which all earlier blocks are merged already

A result is kept under a key of everything that went into it. Memory is bounded: sums of as many parameters as fit into
the limit are collected in one pass over the examples, others in further passes; for regmean_plus_plus one block at a
time, of all adapters.
"""
import contextlib
import functools
import logging
import os
import random
import time
from dataclasses import dataclass
from pathlib import Path

from speechmerge.blocks import block_of
from speechmerge.data.directory import DataDir
from speechmerge.errors import SpeechMergeError, UsageError
from speechmerge.files import fingerprint, lock, read_json, sha256_file, write_json
from speechmerge.merge.read import read
from speechmerge.merge.statistics import statistics_file
from speechmerge.merge.task_vector import TaskVector, check_shapes
from speechmerge.provenance import provenance
from speechmerge.storage.safetensors_writer import Writer, longest_header
from speechmerge.systems import System, content_files

log = logging.getLogger(__name__)
HEADER = {"format": "pt"}


@dataclass(frozen=True)
class Options:
    max_examples: int = 256
    seed: int = 0
    off_diagonal: float = 0.9  # of regmean_plus_plus: what `merge` will be told
    memory_mb: int = 4096  # for float64 sums; changes no result

    def __post_init__(self):
        for name in ("max_examples", "memory_mb"):
            if getattr(self, name) < 1:
                raise UsageError(f"--{name.replace('_', '-')}: found {getattr(self, name)}, expected at least 1")
        if not 0 <= self.off_diagonal <= 1:
            raise UsageError(f"--off-diagonal: found {self.off_diagonal}, expected a number from 0 to 1")


class Source:
    """An adapter (or fully fine-tuned model) and the examples that it is measured on."""

    def __init__(self, model, system: System, task, data: DataDir, split: str, options: Options):
        from speechmerge.train.run import usable
        from speechmerge.train.statistics import Batches

        self.model, self.system, self.task, self.data, self.split = model, system, task, data, split
        self.vector = read(system.path, model.path)
        self.weights = self.vector.details["sha256"].value()
        examples = usable(model, task, task.examples(data), data)
        if len(examples) > options.max_examples:
            chosen = random.Random(options.seed).sample(examples, options.max_examples)
            examples = sorted(chosen, key=lambda example: example.id)
        self.batches = Batches(model, task, examples, system.path)

    def facts(self) -> dict:
        """What went into it."""
        return {"files": [(path.name, sha256_file(path)) for path in content_files(self.system)],
                "data": self.data.fingerprint(), "task": self.task.name,
                "examples": [example.id for example in self.batches.examples]}

    def record(self) -> dict:
        return {"adapter": self.system.name, "weights": self.weights, "task": self.task.name, "split": self.split,
                "data": str(self.data.path), "examples": len(self.batches)}


def collect(sources: list[Source], kind: str, options: Options, force: bool = False) -> list[str]:
    """"made" or "kept" for each source. Of regmean_plus_plus all of them are one result."""
    if kind == "regmean_plus_plus":
        return [_collect(sources, kind, options, force)] * len(sources)
    return [_collect([source], kind, options, force) for source in sources]


def _collect(sources: list[Source], kind: str, options: Options, force: bool) -> str:
    job = Job(sources, kind, options)
    with contextlib.ExitStack() as stack:
        for path in sorted(job.paths):  # in one order, so that two commands cannot wait for each other
            stack.enter_context(lock(path))
        if not force and job.done():
            return "kept"
        start = time.monotonic()
        job.make()
        log.info("%s of %s: %s examples, %.1f s", kind, ", ".join(source.system.name for source in sources),
                 "+".join(str(len(source.batches)) for source in sources), time.monotonic() - start)
    return "made"


class Job:
    """One kind of statistics of one adapter, or of several that depend on each other."""

    def __init__(self, sources: list[Source], kind: str, options: Options):
        self.sources, self.kind, self.options, self.model = sources, kind, options, sources[0].model
        weights = [source.weights for source in sources]
        self.paths = [statistics_file(source.system.path, kind, weights) for source in sources]
        if len(set(self.paths)) < len(self.paths):
            raise UsageError(f"--kind {kind}: the same adapter twice, {self.paths[0].parent.parent}")

    @functools.cached_property
    def key(self) -> str:
        model, context = self.model, self.model.context
        blockwise = {"off_diagonal": self.options.off_diagonal} if self.kind == "regmean_plus_plus" else {}
        return fingerprint({"kind": self.kind, "base": model.fingerprint(), "dtype": str(model.dtype), **blockwise,
                            "context": [context.kind, context.minimum, context.step],
                            "sources": sorted((source.facts() for source in self.sources), key=fingerprint)})

    def done(self) -> bool:
        """Whether all files are there, of these inputs and whole."""
        for path in self.paths:
            if not path.is_file() or not path.with_suffix(".json").is_file():
                return False
            record = read_json(path.with_suffix(".json"))
            if record["key"] != self.key or record["size"] != path.stat().st_size:
                return False
        return True

    def make(self):
        """Files are written beside their places and renamed, their records last."""
        parts = [path.with_name(f".{path.name}.{os.getpid()}.part") for path in self.paths]
        try:
            with contextlib.ExitStack() as stack:
                writers = [self._writer(stack, part, source) for part, source in zip(parts, self.sources)]
                rows = self._collect(writers)
                for writer in writers:
                    writer.close(HEADER)
            for path, part, source, seen in zip(self.paths, parts, self.sources, rows):
                path.with_suffix(".json").unlink(missing_ok=True)
                os.replace(part, path)
                self._write_record(path, source, seen)
        finally:
            for part in parts:
                part.unlink(missing_ok=True)

    def _writer(self, stack, part: Path, source: Source) -> Writer:
        part.parent.mkdir(parents=True, exist_ok=True)
        dimensions = max(len(delta.shape) for delta in source.vector.deltas.values())
        return stack.enter_context(Writer(part, longest_header(source.vector.deltas, max(dimensions, 2), HEADER)))

    def _collect(self, writers) -> list[dict]:
        """Write the tensors; for each source: parameter -> rows that were seen."""
        if self.kind == "regmean_plus_plus":
            return merge_blockwise(self.sources, writers, self.options.off_diagonal)
        measure = gram_parts if self.kind == "gram" else fisher_parts
        return [measure(self.sources[0], writers[0], self.options.memory_mb << 20)]

    def _write_record(self, path: Path, source: Source, rows: dict):
        model, context = self.model, self.model.context
        several = {}
        if self.kind == "regmean_plus_plus":
            several = {"adapters": sorted(other.system.name for other in self.sources),
                       "off_diagonal": self.options.off_diagonal}
        write_json(path.with_suffix(".json"), {
            "kind": self.kind, "key": self.key, "size": path.stat().st_size, **source.record(), **several, "rows": rows,
            "seed": self.options.seed, "base": {"source": model.source, "fingerprint": model.fingerprint()},
            "audio_context": {"kind": context.kind, "min": context.minimum, "step": context.step},
            "dtype": str(model.dtype), **provenance(),
        })


def put(writer: Writer, tensors: dict):
    for name, tensor in sorted(tensors.items()):
        writer.write(writer.allocate(name, "F32", tensor.shape), 0, tensor)


def passes(sizes: dict[str, int], limit: int) -> list[list[str]]:
    """Parameter -> bytes of its sum; lists of parameters whose sums fit into `limit` bytes (or single larger ones)."""
    found, used = [], 0
    for name, size in sizes.items():
        if not found or used + size > limit:
            found.append([])
            used = 0
        found[-1].append(name)
        used += size
    return found


def gram_parts(source: Source, writer: Writer, limit: int) -> dict[str, int]:
    from speechmerge.train.statistics import grams, linear_parameters

    model, rows = source.model, {}
    names = linear_parameters(model, source.vector.deltas)
    if not names:
        raise SpeechMergeError(f"{source.system.path}: changes no linear layer, so there are no Gram matrices")
    with model.adapter(source.system.path):
        for part in passes({name: 8 * source.vector.deltas[name].shape[1] ** 2 for name in names}, limit):
            tensors, seen = grams(model, source.batches, part)
            put(writer, tensors)
            rows.update(seen)
    return rows


def fisher_parts(source: Source, writer: Writer, limit: int) -> dict[str, int]:
    from speechmerge.train.statistics import fishers

    model, deltas = source.model, source.vector.deltas
    own = dict(model.core.named_parameters(remove_duplicate=False))
    names = [name for name in sorted(deltas) if name in own]
    with model.adapter(source.system.path):
        for part in passes({name: 8 * own[name].numel() for name in names}, limit):
            put(writer, fishers(model, source.batches, part))
    return {}


def merge_blockwise(sources: list[Source], writers, off_diagonal: float) -> list[dict]:
    """RegMean++ (arXiv 2508.03121): the blocks in the order of the forward pass. A block's Gram matrices are those of
    each adapter's own block on its own data behind the merged blocks; then it is merged with them.

    Parameters in no block with linear layers (embeddings, convolutions, final norms) are averaged before the first.
    """
    from speechmerge.train.statistics import call_order, linear_parameters

    model, vectors = sources[0].model, [source.vector for source in sources]
    check_shapes(vectors)
    shared = sorted(set.intersection(*(set(vector.deltas) for vector in vectors)))
    linear = call_order(model, sources[0].batches, linear_parameters(model, shared))
    if not linear:
        raise SpeechMergeError(f"no linear layer is changed by all of {', '.join(s.system.name for s in sources)}")
    blocks, others = in_blocks(shared, linear)
    firsts = [next(name for name in linear if name in names) for names in blocks]
    rows = [{} for _ in sources]
    with contextlib.ExitStack() as merged:
        merged.enter_context(averaged(vectors, others, off_diagonal).applied(model.core))
        for names, after in zip(blocks, [*firsts[1:], None]):
            layers, grams = [name for name in names if name in linear], []
            for source, writer, seen in zip(sources, writers, rows):
                grams.append(block_grams(source, names, layers, after, seen))
                put(writer, grams[-1])
            merged.enter_context(averaged(vectors, names, off_diagonal, grams).applied(model.core))
            log.info("merged %s", block_name(names[0]))
    return rows


def averaged(vectors, names, off_diagonal: float, grams=()) -> TaskVector:
    """The parameters `names` merged: by their Gram matrices where all vectors have one, else their mean."""
    from speechmerge.merge.delta import concatenate
    from speechmerge.merge.kernels.regression import regression_mean

    merged = {}
    for name in names:
        deltas, found = [vector.deltas[name] for vector in vectors], [part[name] for part in grams if name in part]
        if len(found) == len(vectors):
            merged[name] = regression_mean(deltas, found, off_diagonal)
        else:
            merged[name] = concatenate(deltas, [1 / len(vectors)] * len(vectors))
    return TaskVector(merged)


def block_grams(source: Source, names, layers, after, rows: dict) -> dict:
    """Gram matrices of the linear layers of a block, with the source's own parameters `names` in it."""
    from speechmerge.train.statistics import grams

    with TaskVector({name: source.vector.deltas[name] for name in names}).applied(source.model.core):
        found, seen = grams(source.model, source.batches, layers, until=after)
    rows.update(seen)
    return found


def in_blocks(names, linear) -> tuple[list[list[str]], list[str]]:
    """(blocks in the order of `linear`, parameters outside). A linear layer in no block is one of its own."""
    order = {}
    for name in linear:
        order.setdefault(block_of(name) or name, [])
    others = []
    for name in names:
        order.get(block_of(name) or name, others).append(name)
    return list(order.values()), others


def block_name(name: str) -> str:
    place = block_of(name)
    return f"{place[0]} {place[1]}".strip() if place else name
