"""The pickles of PyTorch checkpoints, read without running anything that stands in them.

A pickle is a program for a small stack machine; what makes it dangerous is that it may import any name and call it.
This machine knows the instructions that torch.save writes (protocols 2 to 5) and imports nothing: a name is only
remembered (`Global`), and what calling it would give is a `Tensor` for torch's own rebuild functions, a dict for
the mappings of `collections`, and for all others an inert `Foreign`, which takes every argument and every state.
The number of instructions and of bytes is limited, memory grows only with them, and nothing here recurses.
"""
import struct

from speechmerge.storage.safetensors_file import TORCH

MOST_STEPS = 5_000_000  # instructions; a model of 1,000 tensors needs about 30,000
LARGEST = 1 << 26  # bytes of one pickle, without the weights
MOST_DIMENSIONS = 64  # of a tensor, the limit of torch
LARGEST_COUNT = 1 << 62  # elements

STORAGES = {  # name of the storage class -> (type as safetensors names it or None, bytes of one element)
    "DoubleStorage": ("F64", 8), "FloatStorage": ("F32", 4), "HalfStorage": ("F16", 2), "BFloat16Storage": ("BF16", 2),
    "LongStorage": ("I64", 8), "IntStorage": ("I32", 4), "ShortStorage": ("I16", 2), "CharStorage": ("I8", 1),
    "ByteStorage": ("U8", 1), "BoolStorage": ("BOOL", 1), "UntypedStorage": (None, 1), "_UntypedStorage": (None, 1),
    "ComplexFloatStorage": (None, 8), "ComplexDoubleStorage": (None, 16), "QInt8Storage": (None, 1),
    "QUInt8Storage": (None, 1), "QInt32Storage": (None, 4), "QUInt4x2Storage": (None, 1), "QUInt2x4Storage": (None, 1),
}
TYPES = {f"torch.{name}": dtype for dtype, name in TORCH.items()}
DAMAGE = (IndexError, KeyError, TypeError, ValueError, EOFError, OverflowError, struct.error)


class Global:
    """A name that the pickle wants imported. It is not."""

    __slots__ = ("name",)

    def __init__(self, name: str):
        self.name = name


class Foreign:
    """What calling a foreign name would have made: `kind` (the name), its arguments, state and items."""

    __slots__ = ("kind", "args", "state", "items")

    def __init__(self, kind: str, args=()):
        self.kind, self.args, self.state, self.items = kind, args, None, None


class Storage:
    """A run of `count` elements of `width` bytes; `offset`: where it begins in the storage `key` of the file."""

    __slots__ = ("key", "dtype", "width", "count", "offset")

    def __init__(self, key: str, dtype, width: int, count: int, offset: int = 0):
        self.key, self.dtype, self.width, self.count, self.offset = key, dtype, width, count, offset


class Tensor:
    """A view of a storage; `offset` and `strides` in elements. `refused`: why it is none that can be read, or None."""

    __slots__ = ("storage", "dtype", "offset", "shape", "strides", "refused")

    def __init__(self, storage=None, dtype=None, offset=0, shape=(), strides=(), refused=None):
        self.storage, self.dtype, self.offset = storage, dtype, offset
        self.shape, self.strides, self.refused = shape, strides, refused


class Machine:
    """Reads one pickle after the other from an open file of `size` bytes.

    `tensors`: every tensor that was made, in order; `storages`: key -> Storage, as it lies in the file. `load` raises
    one of DAMAGE for what is no pickle of torch.save.
    """

    def __init__(self, file, size: int):
        self.file, self.size, self.steps, self.tensors, self.storages = file, size, MOST_STEPS, [], {}

    def load(self):
        """What the pickle describes: dicts, lists, tuples, strings, numbers, Tensor, Storage, Global and Foreign."""
        self.memo, self.stack, self.marks = {}, [], []
        self.left = min(LARGEST, self.size - self.file.tell())
        while (code := self.take(1)) != b".":
            self.steps -= 1
            if self.steps < 0:
                raise ValueError(f"more than {MOST_STEPS:,} instructions")
            action = ACTIONS.get(code)
            if action is None:
                raise ValueError(f"instruction {code!r} is none that torch.save writes")
            action(self)
        return self.stack.pop()

    def take(self, count: int) -> bytes:
        if count > self.left:
            raise EOFError(f"the pickle ends early, or is larger than {LARGEST:,} bytes")
        self.left -= count
        data = self.file.read(count)
        if len(data) != count:
            raise EOFError("the file was cut off while it was read")
        return data

    def number(self, size: int) -> int:
        return int.from_bytes(self.take(size), "little")

    def text(self, size: int) -> str:
        return self.take(self.number(size)).decode("utf-8", "surrogatepass")

    def line(self) -> str:
        data = self.file.readline(1 << 12)
        self.left -= len(data)
        if not data.endswith(b"\n"):
            raise EOFError("a name does not end")
        return data[:-1].decode("utf-8")

    def push(self, value):
        self.stack.append(value)

    def items(self) -> list:
        """What was pushed since the last mark."""
        found, self.stack = self.stack, self.marks.pop()
        return found

    def mark(self):
        self.marks.append(self.stack)
        self.stack = []

    def pop_one(self):
        if self.stack:
            self.stack.pop()
        else:
            self.items()

    def remember(self, index: int):
        self.memo[index] = self.stack[-1]

    def tuple_of(self, count: int):
        if len(self.stack) < count:
            raise IndexError("a tuple of what is not there")
        self.stack[-count:] = [tuple(self.stack[-count:])]

    def name(self, module: str, name: str):
        self.push(Global(f"{module}.{name}"))

    def name_from_stack(self):
        name, module = self.stack.pop(), self.stack.pop()
        if type(name) is not str or type(module) is not str:
            raise TypeError("a global without a name")
        self.name(module, name)

    def add(self, values: list):
        """list.append, list.extend and set.update."""
        target = self.stack[-1]
        if type(target) is Foreign:
            target.items = target.items if type(target.items) is list else []
            target = target.items
        if type(target) is not list:
            raise TypeError(f"items for a {type(target).__name__}")
        target.extend(values)

    def set(self, values: list):
        """d[key] = value for keys and values in turn."""
        target = self.stack[-1]
        if type(target) is Foreign:
            target.items = target.items if type(target.items) is dict else {}
            target = target.items
        if type(target) is not dict or len(values) % 2:
            raise TypeError(f"keys for a {type(target).__name__}")
        for key, value in zip(values[::2], values[1::2]):
            target[hashable(key)] = value

    def call(self, *more):
        """function(*args) for the two on top of the stack: never the real function."""
        args, function = self.stack.pop(), self.stack.pop()
        made = self.made(function.name, args) if type(function) is Global and type(args) is tuple else None
        self.push(Foreign("an unknown object", (function, args, *more)) if made is None else made)

    def made(self, name: str, args: tuple):
        self.steps -= len(args) + sum(len(arg) for arg in args if type(arg) is list)  # may be copied
        if name in MADE:
            value = MADE[name](*args)
        elif name.startswith(("torch._utils._rebuild", "torch._tensor._rebuild", "torch.sparse")):
            value = Tensor(refused=f"made by {name[:80]!r}")
        else:
            value = Foreign(name, args)
        if type(value) is Tensor:
            self.tensors.append(value)
        return value

    def call_with_keywords(self):
        self.call(self.stack.pop())

    def build(self):
        """Set an object's state. Only foreign objects have one that may matter."""
        state = self.stack.pop()
        if type(self.stack[-1]) is Foreign:
            self.stack[-1].state = state

    def stored(self):
        """A storage, from what torch.save wrote in its place: ("storage", class, key, device, count[, view])."""
        kind, of, key, _, count, *view = self.stack.pop()
        if type(kind) is not str or kind != "storage" or type(key) is not str or type(of) is not Global:
            raise TypeError("no storage of torch")
        dtype, width = STORAGES.get(of.name.rpartition(".")[2], (None, None))
        if width is None or not of.name.startswith("torch."):
            raise ValueError(f"storage {key[:20]!r} is of the unknown type {of.name[:80]!r}")
        storage = Storage(key, dtype, width, counted(count))
        known = self.storages.setdefault(key, storage)
        if (known.dtype, known.width, known.count) != (dtype, width, storage.count):
            raise ValueError(f"storage {key[:20]!r} is described twice and differently")
        self.push(viewed(storage, view[0]) if view and view[0] is not None else known)


def viewed(storage: Storage, view) -> Storage:
    """A part of a storage, as torch before 0.4 wrote it: (key of the view, first element, number of elements)."""
    _, first, count = view
    if counted(first) + counted(count) > storage.count:
        raise ValueError(f"a view beyond the end of storage {storage.key[:20]!r}")
    return Storage(storage.key, storage.dtype, storage.width, count, first)


def counted(value) -> int:
    if type(value) is not int or not 0 <= value < LARGEST_COUNT:
        raise ValueError("a size that is none")
    return value


def hashable(key):
    """A key that can be looked up at once whatever the pickle made it of: others than plain ones lose their value."""
    plain = type(key) in (str, bool, float, type(None)) or type(key) is int and abs(key) < 1 << 63
    return key if plain else Foreign(type(key).__name__)


def rebuilt(storage, offset, shape, strides, *more) -> Tensor:
    """torch._utils._rebuild_tensor and _rebuild_tensor_v2 (more: requires_grad, hooks, what the bits mean)."""
    if type(storage) is not Storage or len(shape) != len(strides) or len(shape) > MOST_DIMENSIONS:
        raise ValueError("a tensor that is none")
    shape, strides = (tuple(map(counted, value)) for value in (shape, strides))
    refused = None if storage.dtype else "of a type that cannot be merged"
    if len(more) > 2 and more[2]:  # {"conj": True} or {"neg": True}
        refused = "a conjugate or negative view"
    return Tensor(storage, storage.dtype, counted(offset), shape, strides, refused)


def rebuilt_typed(storage, offset, shape, strides, gradient, hooks, dtype, *more) -> Tensor:
    """torch._utils._rebuild_tensor_v3: types without a storage class of their own; the storage counts bytes."""
    tensor = rebuilt(storage, offset, shape, strides, gradient, hooks, *more)
    name = dtype.name if type(dtype) is Global else "unknown"
    tensor.dtype = TYPES.get(name)
    tensor.refused = None if tensor.dtype and storage.width == 1 else f"of type {name[:80]!r}"
    return tensor


def rebuilt_parameter(tensor, *_):
    if type(tensor) is not Tensor:
        raise TypeError("a parameter without a tensor")
    return tensor


def rebuilt_subclass(function, kind, args, *_) -> Tensor:
    """torch._tensor._rebuild_from_type_v2: a tensor with attributes of its own, or of a class of its own."""
    plain = ("torch.Tensor", "torch._tensor.Tensor", "torch.nn.parameter.Parameter")
    if type(kind) is not Global or type(function) is not Global or type(args) is not tuple or len(args) > 10:
        raise TypeError("a tensor that is none")
    if kind.name in plain and function.name in REBUILT:
        return REBUILT[function.name](*args)
    return Tensor(refused=f"of the class {kind.name[:80]!r} made by {function.name[:80]!r}")


def mapping(*args) -> dict:
    """OrderedDict(), OrderedDict([(key, value), ...]), Counter({...}), defaultdict(function)."""
    given = args[-1] if args else {}
    if type(given) is dict:
        return given
    return {hashable(key): value for key, value in given} if type(given) is list else {}


def sized(*args) -> tuple:
    """torch.Size((2, 3))."""
    if len(args) != 1 or type(args[0]) not in (tuple, list):
        raise TypeError("a size that is none")
    return tuple(args[0])


REBUILT = {
    "torch._utils._rebuild_tensor": rebuilt,
    "torch._utils._rebuild_tensor_v2": rebuilt,
    "torch._utils._rebuild_tensor_v3": rebuilt_typed,
    "torch._utils._rebuild_parameter": rebuilt_parameter,
    "torch._utils._rebuild_parameter_with_state": rebuilt_parameter,
}
MADE = {
    **REBUILT,
    "torch._tensor._rebuild_from_type_v2": rebuilt_subclass,
    "torch.Size": sized,
    "collections.OrderedDict": mapping,
    "collections.Counter": mapping,
    "collections.defaultdict": mapping,
}
ACTIONS = {
    b"\x80": lambda m: m.take(1),  # PROTO
    b"\x95": lambda m: m.take(8),  # FRAME
    b"N": lambda m: m.push(None),
    b"\x88": lambda m: m.push(True),
    b"\x89": lambda m: m.push(False),
    b"K": lambda m: m.push(m.number(1)),  # BININT1
    b"M": lambda m: m.push(m.number(2)),  # BININT2
    b"J": lambda m: m.push(int.from_bytes(m.take(4), "little", signed=True)),  # BININT
    b"\x8a": lambda m: m.push(int.from_bytes(m.take(m.number(1)), "little", signed=True)),  # LONG1
    b"\x8b": lambda m: m.push(int.from_bytes(m.take(m.number(4)), "little", signed=True)),  # LONG4
    b"G": lambda m: m.push(struct.unpack(">d", m.take(8))[0]),  # BINFLOAT
    b"\x8c": lambda m: m.push(m.text(1)),  # SHORT_BINUNICODE
    b"X": lambda m: m.push(m.text(4)),  # BINUNICODE
    b"\x8d": lambda m: m.push(m.text(8)),  # BINUNICODE8
    b"U": lambda m: m.push(m.text(1)),  # SHORT_BINSTRING, of Python 2
    b"T": lambda m: m.push(m.text(4)),  # BINSTRING
    b"C": lambda m: m.push(m.take(m.number(1))),  # SHORT_BINBYTES
    b"B": lambda m: m.push(m.take(m.number(4))),  # BINBYTES
    b"\x8e": lambda m: m.push(m.take(m.number(8))),  # BINBYTES8
    b"\x96": lambda m: m.push(m.take(m.number(8))),  # BYTEARRAY8
    b"(": Machine.mark,
    b"0": Machine.pop_one,
    b"1": Machine.items,  # POP_MARK
    b"2": lambda m: m.push(m.stack[-1]),  # DUP
    b"}": lambda m: m.push({}),
    b"]": lambda m: m.push([]),
    b"\x8f": lambda m: m.push([]),  # EMPTY_SET
    b")": lambda m: m.push(()),
    b"t": lambda m: m.push(tuple(m.items())),
    b"\x91": lambda m: m.push(tuple(m.items())),  # FROZENSET
    b"\x85": lambda m: m.tuple_of(1),
    b"\x86": lambda m: m.tuple_of(2),
    b"\x87": lambda m: m.tuple_of(3),
    b"a": lambda m: m.add([m.stack.pop()]),  # APPEND
    b"e": lambda m: m.add(m.items()),  # APPENDS
    b"\x90": lambda m: m.add(m.items()),  # ADDITEMS
    b"s": lambda m: m.set([m.stack.pop(), m.stack.pop()][::-1]),  # SETITEM
    b"u": lambda m: m.set(m.items()),  # SETITEMS
    b"q": lambda m: m.remember(m.number(1)),  # BINPUT
    b"r": lambda m: m.remember(m.number(4)),  # LONG_BINPUT
    b"\x94": lambda m: m.remember(len(m.memo)),  # MEMOIZE
    b"h": lambda m: m.push(m.memo[m.number(1)]),  # BINGET
    b"j": lambda m: m.push(m.memo[m.number(4)]),  # LONG_BINGET
    b"c": lambda m: m.name(m.line(), m.line()),  # GLOBAL
    b"\x93": Machine.name_from_stack,  # STACK_GLOBAL
    b"R": Machine.call,  # REDUCE
    b"\x81": Machine.call,  # NEWOBJ
    b"\x92": Machine.call_with_keywords,  # NEWOBJ_EX
    b"b": Machine.build,  # BUILD
    b"Q": Machine.stored,  # BINPERSID
}
