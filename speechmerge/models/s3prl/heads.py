"""Heads of tasks on an upstream's hidden states, as SUPERB has them, and what is kept of one beside an adapter.

    head.json           kind, sizes, which layers it hears, vocabulary or labels
    head.safetensors    its weights

ctc-linear, ctc-blstm    symbols per frame        transcripts, frames, any text
mean, attention          one label per utterance  mean or attention pooling
xvector                  TDNN, statistics pooling, AMSoftmax over speakers or labels; its embedding verifies speakers
"""
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from torch import nn

from speechmerge.errors import SpeechMergeError, UsageError
from speechmerge.files import read_mapping, write_json
from speechmerge.registry import nearest

FILE, WEIGHTS = "head.json", "head.safetensors"
IGNORED = -100  # label of positions without loss
AM_SCALE, AM_MARGIN = 30.0, 0.4  # of AMSoftmax (Wang et al. 2018), as SUPERB's ASV has them
TDNN = ((5, 1), (3, 2), (3, 3), (1, 1), (1, 1))  # (kernel, dilation) of the x-vector (Snyder et al. 2018)


@dataclass(frozen=True)
class HeadSpec:
    """What a head is made of; the content of head.json."""

    kind: str  # one of HEADS
    task: str
    features: str  # "last" hidden state, or "weighted" sum of all
    width: int  # of the upstream's states
    layers: int  # that the upstream has; only counts where they are weighted
    symbols: tuple[str, ...]  # of CTC (the blank before them is not named), or the labels
    units: str = "char"  # what a symbol of CTC is: "char", or "word" for whatever stands between spaces
    size: int = 256
    depth: int = 2  # recurrent layers
    dropout: float = 0.0


class Output(NamedTuple):
    """`scores`: (batch, frames, 1 + symbols) log-probabilities of CTC, or (batch, labels) scores before the softmax;
    `lengths`: frames of each row."""

    scores: torch.Tensor
    lengths: torch.Tensor


def heard_frames(states, lengths):
    """(batch, frames, 1): which frames are not padding."""
    return (torch.arange(states.shape[1], device=states.device) < lengths[:, None])[..., None]


class Head(nn.Module):
    """Weighting of layers and projection; subclasses add what follows in `build` and `score`."""

    ctc = False

    def __init__(self, spec: HeadSpec):
        super().__init__()
        self.spec, self.weighted = spec, spec.features == "weighted"
        if self.weighted:
            self.weights = nn.Parameter(torch.zeros(spec.layers))
        self.projection = nn.Linear(spec.width, spec.size)
        self.dropout = nn.Dropout(spec.dropout)
        self.build(spec)

    def build(self, spec: HeadSpec):
        raise NotImplementedError

    def score(self, hidden, lengths) -> torch.Tensor:
        raise NotImplementedError

    def project(self, states):
        """(batch, layers or 1, frames, width) -> (batch, frames, size)."""
        states = states.to(self.projection.weight.dtype)
        if self.weighted:
            mixed = torch.einsum("l,blfd->bfd", self.weights.softmax(0).to(states.dtype), states)
        else:
            mixed = states[:, -1]
        return self.dropout(self.projection(mixed))

    def forward(self, states, lengths) -> Output:
        return Output(self.score(self.project(states), lengths), lengths)

    def loss_sum(self, output: Output, labels):
        """Summed over utterances: cross-entropy of the label."""
        return nn.functional.cross_entropy(output.scores.float(), labels[:, 0], reduction="sum")


class CTCHead(Head):
    ctc = True

    def loss_sum(self, output, labels):
        """Negative log-probability of the texts, summed; symbols are counted from 1, 0 is the blank."""
        sizes = labels.ne(IGNORED).sum(1)
        return nn.functional.ctc_loss(output.scores.float().transpose(0, 1), labels.clamp(min=0),
                                      output.lengths.to(sizes.device), sizes, reduction="sum", zero_infinity=True)


class LinearCTC(CTCHead):
    def build(self, spec):
        self.out = nn.Linear(spec.size, len(spec.symbols) + 1)

    def score(self, hidden, lengths):
        return self.out(hidden).log_softmax(-1)


class RecurrentCTC(CTCHead):
    """SUPERB's recogniser: bidirectional LSTMs."""

    def build(self, spec):
        self.recurrent = nn.LSTM(spec.size, spec.size, spec.depth, batch_first=True, bidirectional=True,
                                 dropout=spec.dropout if spec.depth > 1 else 0.0)
        self.out = nn.Linear(2 * spec.size, len(spec.symbols) + 1)

    def score(self, hidden, lengths):
        packed = nn.utils.rnn.pack_padded_sequence(hidden, lengths.cpu(), batch_first=True, enforce_sorted=False)
        read, _ = nn.utils.rnn.pad_packed_sequence(self.recurrent(packed)[0], batch_first=True,
                                                   total_length=hidden.shape[1])
        return self.out(self.dropout(read)).log_softmax(-1)


class MeanPool(Head):
    def build(self, spec):
        self.out = nn.Linear(spec.size, len(spec.symbols))

    def pool(self, hidden, lengths):
        heard = heard_frames(hidden, lengths)
        return (hidden * heard).sum(1) / lengths[:, None]

    def score(self, hidden, lengths):
        return self.out(self.pool(hidden, lengths))

    def embed(self, states, lengths):
        return self.pool(self.project(states), lengths)


class AttentionPool(MeanPool):
    """One learned query."""

    def build(self, spec):
        super().build(spec)
        self.query = nn.Linear(spec.size, 1)

    def pool(self, hidden, lengths):
        heard = heard_frames(hidden, lengths)
        scores = self.query(hidden).float().masked_fill(~heard, float("-inf"))
        return (hidden * scores.softmax(1).to(hidden.dtype)).sum(1)


class XVector(Head):
    """TDNN, mean and deviation over time, embedding; scores are cosines with one direction per label."""

    def build(self, spec):
        self.layers = nn.ModuleList([nn.Conv1d(spec.size, spec.size, kernel, dilation=dilation, padding="same")
                                     for kernel, dilation in TDNN])
        self.embedding = nn.Linear(2 * spec.size, spec.size)
        self.directions = nn.Parameter(torch.empty(len(spec.symbols), spec.size))
        nn.init.xavier_normal_(self.directions)

    def embed(self, states, lengths):
        return self.pool(self.project(states), lengths)

    def pool(self, hidden, lengths):
        heard = heard_frames(hidden, lengths)
        for layer in self.layers:
            hidden = layer((hidden * heard).transpose(1, 2)).relu().transpose(1, 2)
        count = lengths[:, None]
        mean = (hidden * heard).sum(1) / count
        variance = ((hidden - mean[:, None]).square() * heard).sum(1) / count
        return self.embedding(torch.cat([mean, (variance + 1e-5).sqrt()], -1))

    def score(self, hidden, lengths):
        found = nn.functional.normalize(self.pool(hidden, lengths), dim=-1)
        return AM_SCALE * found @ nn.functional.normalize(self.directions, dim=-1).T

    def loss_sum(self, output, labels):
        """The right label's cosine has to be ahead by the margin."""
        ahead = AM_SCALE * AM_MARGIN * nn.functional.one_hot(labels[:, 0], output.scores.shape[1])
        return nn.functional.cross_entropy(output.scores.float() - ahead, labels[:, 0], reduction="sum")


HEADS = {"ctc-linear": LinearCTC, "ctc-blstm": RecurrentCTC, "mean": MeanPool, "attention": AttentionPool,
         "xvector": XVector}


DEFAULT_HEADS = {"classification": "mean", "verification": "xvector"}  # by kind of task; others: ctc-linear


def units_of(task) -> str:
    """What a symbol of CTC is in this task's texts; a task of phones says "word"."""
    return getattr(task, "ctc_units", "char")


def split(text: str, units: str) -> list[str]:
    words = text.split()
    return words if units == "word" else list(" ".join(words))


def spec_for(task, examples, labels, options, width: int, layers: int) -> HeadSpec:
    """The head that TrainOptions ask for; its symbols are those of the examples, or the labels.

    Raises UsageError for a head that is unknown or that the task has no use for.
    """
    kind = options.head or DEFAULT_HEADS.get(task.kind, "ctc-linear")
    if kind not in HEADS:
        raise UsageError(f"--head {kind!r}; {nearest(kind, HEADS)}")
    if not HEADS[kind].ctc and labels is None:
        raise UsageError(f"--head {kind}: the task {task.name} writes texts; expected ctc-linear or ctc-blstm")
    if HEADS[kind].ctc:
        symbols = sorted({word for example in examples for word in split(task.written(example.target), units_of(task))})
    else:
        symbols = sorted({example.target for example in examples}) if task.kind == "verification" else labels
    return HeadSpec(kind, task.name, options.features or "last", width, layers, tuple(symbols), units_of(task),
                    options.head_size, options.head_layers, options.head_dropout)


def make_head(spec: HeadSpec) -> Head:
    return HEADS[spec.kind](spec)


def save_head(head: Head, folder: Path):
    from safetensors.torch import save_file

    weights = {name: tensor.detach().cpu().contiguous() for name, tensor in head.state_dict().items()}
    save_file(weights, folder / WEIGHTS)
    write_json(folder / FILE, asdict(head.spec))


def read_head(folder: Path, width: int, layers: int) -> Head:
    """The head in a folder. Raises SpeechMergeError where there is none or it was made for another upstream."""
    from speechmerge.models.adapters import read_all

    folder = Path(folder)
    if not (folder / FILE).is_file():
        raise SpeechMergeError(f"{folder}: no {FILE}: it was not trained on an upstream with a head; train it again")
    spec = read_spec(folder / FILE)
    if spec.width != width:
        raise SpeechMergeError(f"{folder / FILE}: the head hears {spec.width} channels, this upstream has {width}; "
                               "give the upstream that it was trained on, or train a head on this one")
    if spec.features == "weighted" and spec.layers != layers:
        raise SpeechMergeError(f"{folder / FILE}: the head weights {spec.layers} layers, this upstream has {layers}; "
                               "give the upstream that it was trained on, or train a head on this one")
    head, weights = make_head(spec), read_all(folder / WEIGHTS)
    expected = {name: tuple(tensor.shape) for name, tensor in head.state_dict().items()}
    for name in sorted(expected.keys() | weights.keys()):
        found = tuple(weights[name].shape) if name in weights else None
        if found != expected.get(name):
            raise SpeechMergeError(f"{folder / WEIGHTS}: {name}: found shape {found}, {FILE} asks for "
                                   f"{expected.get(name)}; copy both files of the head again")
    head.load_state_dict(weights)
    return head.eval()


def read_spec(path: Path) -> HeadSpec:
    found = read_mapping(path)
    known = HeadSpec.__dataclass_fields__
    if unknown := sorted(found.keys() - known.keys()):
        raise SpeechMergeError(f"{path}: key {unknown[0]}: {nearest(unknown[0], known)}")
    if found.get("kind") not in HEADS:
        raise SpeechMergeError(f"{path}: key kind: found {found.get('kind')!r}; {nearest(str(found.get('kind')), HEADS)}")
    if not isinstance(found.get("symbols"), list) or not all(isinstance(word, str) for word in found["symbols"]):
        raise SpeechMergeError(f"{path}: key symbols: expected a list of texts")
    try:
        return HeadSpec(**{**found, "symbols": tuple(found["symbols"])})
    except TypeError as error:
        raise SpeechMergeError(f"{path}: {error}; copy the files of the head again") from error
