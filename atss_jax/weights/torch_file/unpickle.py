"""Reads pickles of torch tensors as NumPy arrays without running code from the file.

A pickle is a small program. Python's unpickler calls whatever the file names, and even
with a restricted `find_class` a file can still modify the objects that it gets, by
BUILD. Therefore the stack machine is implemented here. A name in the file becomes a
record (`Placeholder`), never the object of this name; a call looks up the name among a
few safe functions (`rebuild.FUNCTIONS`). All other names are refused.

Names in `OPEN_NAMESPACES` are an exception. Training checkpoints of mmengine have
objects of its classes (`message_hub` has a `HistoryBuffer` for every logged number) in
the same pickle as the weights. They are not created but remain `Placeholder`s.
"""

import collections
import pickletools
import re
from collections.abc import Callable
from typing import BinaryIO

import numpy as np

from atss_jax.weights.torch_file.rebuild import (
    FUNCTIONS,
    OPEN_NAMESPACES,
    VALUES,
    Placeholder,
    fill_array,
)


def unpickle(stream: BinaryIO, storage: Callable[[tuple], np.ndarray]) -> object:
    """Reads one pickle, up to its STOP.

    Args:
        stream: an mmap or BytesIO. `read(n)` must not allocate more than the rest of
            the stream: a string in a short file may claim to have 2**60 bytes.
        storage: maps a persistent id, `('storage', type, key, ...)`, to a flat array.

    Raises:
        ValueError: the pickle is damaged or has a name that is not allowed, such as
            'posix.system'.
    """
    machine = _Machine(storage)
    try:
        for opcode, arg, _ in pickletools.genops(stream):
            if opcode.name == 'STOP':
                return machine.stack.pop()
            machine.step(opcode.name, arg)
    except (
        *(IndexError, KeyError, TypeError, AttributeError),
        *(OverflowError, RecursionError, MemoryError),
    ) as error:
        raise ValueError(f'damaged pickle: {error!r}') from error
    raise ValueError('damaged pickle: no end')


_LITERALS = {
    *('INT', 'BININT', 'BININT1', 'BININT2', 'LONG', 'LONG1', 'LONG4'),
    *('FLOAT', 'BINFLOAT', 'STRING', 'BINSTRING', 'SHORT_BINSTRING'),
    *('BINBYTES', 'SHORT_BINBYTES', 'BINBYTES8', 'BYTEARRAY8'),
    *('UNICODE', 'BINUNICODE', 'SHORT_BINUNICODE', 'BINUNICODE8'),
}
_NEW = {
    'NONE': lambda: None,
    'NEWTRUE': lambda: True,
    'NEWFALSE': lambda: False,
    'EMPTY_TUPLE': tuple,
    'EMPTY_LIST': list,
    'EMPTY_DICT': dict,
    'EMPTY_SET': set,
}


class _Machine:
    """The stack machine; `step` runs one opcode as decoded by `pickletools`."""

    def __init__(self, storage: Callable[[tuple], np.ndarray]):
        self.stack: list = []
        self._below: list[list] = []  # the stacks under the open MARKs
        self._memo: dict[int, object] = {}
        self._storage = storage

    def step(self, name: str, arg: object) -> None:
        """Runs one opcode."""
        if name in _LITERALS:
            self.stack.append(arg)
        elif name in _NEW:
            self.stack.append(_NEW[name]())
        elif name not in ('PROTO', 'FRAME') and not self._collect(name, arg):
            value = self._construct(name, arg)  # may replace `self.stack`
            self.stack.append(value)

    def _pop_mark(self) -> list:
        items, self.stack = self.stack, self._below.pop()
        return items

    def _pop(self, count: int) -> list:
        start = len(self.stack) - count
        if start < 0:
            raise ValueError('damaged pickle: the stack is empty')
        items = self.stack[start:]
        del self.stack[start:]
        return items

    def _collect(self, name: str, arg: object) -> bool:
        """Runs opcodes of the stack, memo and collections; False: it is another one."""
        match name:
            case 'MARK':
                self._below.append(self.stack)
                self.stack = []
            case 'POP':
                self._pop(1)
            case 'POP_MARK':
                self._pop_mark()
            case 'PUT' | 'BINPUT' | 'LONG_BINPUT':
                self._memo[arg] = self.stack[-1]
            case 'MEMOIZE':
                self._memo[len(self._memo)] = self.stack[-1]
            case 'APPEND':
                items = self._pop(1)
                _extend(self.stack[-1], items)
            case 'APPENDS' | 'ADDITEMS':
                items = self._pop_mark()
                _extend(self.stack[-1], items)
            case 'SETITEM':
                items = self._pop(2)
                _set_items(self.stack[-1], items)
            case 'SETITEMS':
                items = self._pop_mark()
                _set_items(self.stack[-1], items)
            case 'BUILD':
                (state,) = self._pop(1)
                _set_state(self.stack[-1], state)
            case _:
                return False
        return True

    def _construct(self, name: str, arg: object) -> object:
        """Runs opcodes that create one object."""
        match name:
            case 'DUP':
                return self.stack[-1]
            case 'GET' | 'BINGET' | 'LONG_BINGET':
                return self._memo[arg]
            case 'TUPLE':
                return tuple(self._pop_mark())
            case 'TUPLE1' | 'TUPLE2' | 'TUPLE3':
                return tuple(self._pop(int(name[-1])))
            case 'LIST':
                return self._pop_mark()
            case 'FROZENSET':
                return frozenset(self._pop_mark())
            case 'DICT':
                items = self._pop_mark()
                return dict(zip(items[::2], items[1::2], strict=True))
            case 'GLOBAL':
                return _named(*arg.split(' ', 1))
            case 'STACK_GLOBAL':
                return _named(*self._pop(2))
            case 'INST':
                return _call(_named(*arg.split(' ', 1)), tuple(self._pop_mark()))
            case 'OBJ':
                function, *args = self._pop_mark()
                return _call(function, tuple(args))
            case 'REDUCE' | 'NEWOBJ':
                return _call(*self._pop(2))
            case 'BINPERSID':
                return self._storage(*self._pop(1))
        raise ValueError(f'the pickle opcode {name} is not allowed in checkpoints')


def _named(module: object, name: object) -> Placeholder:
    if not isinstance(module, str) or not isinstance(name, str):
        raise ValueError('damaged pickle: a name that is not text')
    full = f'{module}.{name}'
    # Renamed in Python 3 and NumPy 2; protocol 2 writes the old names.
    known = re.sub(r'^__builtin__\.', 'builtins.', full)
    known = re.sub(r'^numpy\._core\.', 'numpy.core.', known)
    known = re.sub(r'^torch\.cuda\.(?=\w+Storage$)', 'torch.', known)
    if not (known in FUNCTIONS or known in VALUES or known.startswith(OPEN_NAMESPACES)):
        raise ValueError(
            f'the file refers to {full!r}, which is not allowed; nothing was run'
        )
    return Placeholder(known)


def _call(function: object, args: object) -> object:
    if not isinstance(function, Placeholder) or not isinstance(args, tuple):
        kinds = f'{type(function).__name__} with a {type(args).__name__}'
        raise ValueError(f'damaged pickle: a call of a {kinds}')
    if function.args is None and function.name in FUNCTIONS:
        return FUNCTIONS[function.name](*args)
    if function.args is None and function.name.startswith(OPEN_NAMESPACES):
        return Placeholder(function.name, args)
    raise ValueError(
        f'the file calls {function.name!r}, which is not allowed; nothing was run'
    )


def _extend(target: object, items: list) -> None:
    match target:
        case list():
            target.extend(items)
        case set():
            target.update(items)
        case Placeholder():
            target.items.extend(items)
        case _:
            raise ValueError(f'damaged pickle: appends to a {type(target).__name__}')


def _set_items(target: object, items: list) -> None:
    pairs = list(zip(items[::2], items[1::2], strict=True))
    match target:
        case dict():
            for key, value in pairs:  # not `update`: a Counter would add
                target[key] = value
        case Placeholder():
            target.items.extend(pairs)
        case _:
            raise ValueError(f'damaged pickle: sets items of a {type(target).__name__}')


def _set_state(target: object, state: object) -> None:
    match target:
        case Placeholder():
            target.state = state
        case np.ndarray():
            fill_array(target, state)
        case collections.OrderedDict():
            pass  # `_metadata`: versions of modules, attached to a state_dict by torch
        case _:
            raise ValueError(f'damaged pickle: sets state of a {type(target).__name__}')
