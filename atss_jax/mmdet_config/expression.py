"""Evaluates the expressions of mmdet's config files; nothing in them is run.

A value that cannot be evaluated is an error only where it is used: many values of a
config (logging, devices, folders) change nothing here.
"""

import ast
import operator
from collections.abc import Callable, Mapping
from typing import Any

DELETE = '_delete_'

# Length of a string or list, bits of a number: a config needs no larger values.
_MAX_SIZE = 100_000
_NUMBERS: dict[type, Callable] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.Pow: operator.pow,
}
# Functions without effects. Those of `_SIZED` take anything that has a length.
_SIZED: dict[str, Callable] = {'list': list, 'tuple': tuple, 'len': len}
_PURE: dict[str, Callable] = {
    'abs': abs,
    'bool': bool,
    'float': float,
    'int': int,
    'max': max,
    'min': min,
    'sorted': sorted,
    'str': str,
    'sum': sum,
}
_KINDS = {
    ast.ListComp: 'a comprehension',
    ast.DictComp: 'a comprehension',
    ast.SetComp: 'a comprehension',
    ast.GeneratorExp: 'a comprehension',
    ast.IfExp: 'a choice by a condition',
    ast.Compare: 'a comparison',
    ast.BoolOp: "'and' or 'or'",
    ast.Lambda: 'a function',
}
_STRING_METHODS = ('lower', 'split', 'strip', 'upper')


class Unevaluated:
    """A value that could not be evaluated, with the error that says why.

    Attributes:
        error: raised where the value is used.
    """

    def __init__(self, error: ValueError, text: str):
        self.error = error
        self._text = text

    def __repr__(self):
        return self._text


def check_evaluated(value: Any) -> Any:
    """Returns the value.

    Raises:
        ValueError: it, or something inside it, could not be evaluated.
    """
    if isinstance(value, Unevaluated):
        raise value.error
    inside = value.values() if isinstance(value, Mapping) else value
    if isinstance(value, Mapping | list | tuple):
        for element in inside:
            check_evaluated(element)
    return value


class Evaluator:
    """Evaluates expressions.

    Args:
        file: name of the file, for messages.
        names: values that the file has assigned so far; `_base_` has those of its
            bases.
        predefined: values of `{{ NAME }}` inside strings.
    """

    def __init__(self, file: str, names: dict[str, Any], predefined: Mapping[str, str]):
        self._file = file
        self._names = names
        self._predefined = predefined

    def refuse(self, node: ast.AST, reason: str) -> ValueError:
        """Returns an error with file, line and source of the node."""
        line = getattr(node, 'lineno', '?')
        return ValueError(f'{self._file}, line {line}: {reason}: {_source(node)}')

    def later(self, node: ast.expr) -> Any:
        """Returns the value of an expression, or an `Unevaluated`."""
        try:
            return self(node)
        except ValueError as error:
            return Unevaluated(error, _source(node))

    def __call__(self, node: ast.expr) -> Any:
        """Returns the value of an expression; values inside it may be `Unevaluated`.

        Raises:
            ValueError: the expression is not supported; says file and line.
        """
        value = self._value(node)
        if isinstance(value, Unevaluated):
            raise value.error
        return value

    def _value(self, node):
        match node:
            case ast.Constant():
                return self._constant(node)
            case ast.Name(id):
                if id not in self._names:
                    raise self.refuse(node, f'the name {id!r} is not known here')
                return self._names[id]
            case ast.List(elements) | ast.Tuple(elements):
                values = self._elements(elements)
                return values if isinstance(node, ast.List) else tuple(values)
            case ast.Dict():
                return self._dict(node)
            case ast.Call():
                return self._call(node)
            case ast.UnaryOp() | ast.BinOp():
                return self._arithmetic(node)
            case ast.JoinedStr(parts):
                text = ''.join(self._part(part) for part in parts)
                if len(text) > _MAX_SIZE:
                    raise self.refuse(node, 'too long')
                return text
            case ast.Subscript() | ast.Attribute():
                return self._lookup(node)
            case ast.Set([ast.Set([reference])]):  # {{_base_.x}}
                return self(reference)
        kind = _KINDS.get(type(node), type(node).__name__)
        raise self.refuse(node, f'{kind} is not supported; write its value instead')

    def _constant(self, node):
        value = node.value
        if isinstance(value, bytes | complex) or value is ...:
            raise self.refuse(node, f'a {type(value).__name__} is not supported')
        if not isinstance(value, str) or '{{' not in value:
            return value
        for name, text in self._predefined.items():
            for form in (f'{{{{ {name} }}}}', f'{{{{{name}}}}}'):
                value = value.replace(form, text)
        if '{{' in value:
            raise self.refuse(node, 'an unknown placeholder')
        return value

    def _elements(self, elements):
        values = []
        for element in elements:
            if isinstance(element, ast.Starred):
                more = self(element.value)
                if not isinstance(more, list | tuple):
                    raise self.refuse(element, 'only lists and tuples can be unpacked')
                values.extend(more)
            else:
                values.append(self.later(element))
        return values

    def _mapping(self, node, value):
        if not isinstance(value, dict):
            raise self.refuse(node, 'expected a dict')
        return value

    def _dict(self, node):
        values = {}
        for key, value in zip(node.keys, node.values, strict=True):
            if key is None:
                values |= self._mapping(value, self(value))
                continue
            name = self(key)
            if not isinstance(name, str | int | float | bool | tuple | None):
                raise self.refuse(key, 'not supported as a key of a dict')
            values[name] = self._field(name, value)
        return values

    def _field(self, name, node):
        """The value of a field of a dict."""
        return self(node) if name == DELETE else self.later(node)

    def _call(self, node):
        name = node.func.id if isinstance(node.func, ast.Name) else None
        if name == 'dict' and len(node.args) < 2:
            values = {}
            for argument in node.args:
                values |= self._mapping(argument, self(argument))
            for keyword in node.keywords:
                if keyword.arg is None:
                    value = self(keyword.value)
                    values |= self._mapping(keyword.value, value)
                else:
                    values[keyword.arg] = self._field(keyword.arg, keyword.value)
            return values
        try:
            if not node.keywords and (name == 'range' or name in {**_SIZED, **_PURE}):
                return self._pure(node, name)
            if not node.keywords and isinstance(node.func, ast.Attribute):
                return self._string_method(node)
        except (TypeError, OverflowError) as error:
            raise self.refuse(node, str(error)) from error
        raise self.refuse(
            node, 'calls are not supported, except dict(...), len(...) and the like'
        )

    def _pure(self, node, name):
        """The result of a function without effects, as a value of a config."""
        arguments = self._elements(node.args)
        if name == 'range':
            numbers = range(*arguments)
            if len(numbers) > _MAX_SIZE:
                raise self.refuse(node, 'too long')
            return list(numbers)
        if name in _SIZED:
            if [isinstance(x, str | list | tuple | dict) for x in arguments] != [True]:
                raise self.refuse(node, 'expected one string, list, tuple or dict')
            return _SIZED[name](*arguments)
        is_plain = _is_scalar if name == 'str' else _is_flat
        if not all(map(is_plain, arguments)):
            raise self.refuse(node, 'only numbers, strings and lists of them can be')
        try:
            return _PURE[name](*arguments)
        except ValueError as error:
            raise self.refuse(node, str(error)) from error

    def _string_method(self, node):
        owner, method = self(node.func.value), node.func.attr
        if not isinstance(owner, str) or method not in _STRING_METHODS:
            raise self.refuse(node, f'calls of {method!r} are not supported')
        return getattr(owner, method)(*self._elements(node.args))

    def _arithmetic(self, node):
        try:
            if isinstance(node, ast.UnaryOp):
                return self._unary(node)
            left, right = self(node.left), self(node.right)
            return self._binary(node, left, right)
        except (TypeError, ZeroDivisionError, OverflowError) as error:
            raise self.refuse(node, str(error)) from error

    def _unary(self, node):
        value = self(node.operand)
        match node.op:
            case ast.Not():
                return not value
            case ast.USub():
                return -value
            case ast.UAdd():
                return +value
        raise self.refuse(node, 'this operator is not supported')

    def _binary(self, node, left, right):
        numbers = isinstance(left, int | float) and isinstance(right, int | float)
        kind = type(node.op)
        if kind not in _NUMBERS:
            raise self.refuse(node, 'this operator is not supported')
        if not numbers and kind not in (ast.Add, ast.Mult):
            raise self.refuse(node, 'arithmetic is supported for numbers only')
        if kind is ast.Pow and abs(right) > 64:
            raise self.refuse(node, 'too large a power')
        if not numbers and _length(kind, left, right) > _MAX_SIZE:
            raise self.refuse(node, 'too long')
        value = _NUMBERS[kind](left, right)
        if isinstance(value, complex):
            raise self.refuse(node, 'not a real number')
        if isinstance(value, int) and value.bit_length() > _MAX_SIZE:
            raise self.refuse(node, 'too large a number')
        return value

    def _part(self, part):
        """Returns the text of a part of an f-string."""
        if isinstance(part, ast.Constant):
            return part.value
        if part.format_spec is not None or part.conversion != -1:
            raise self.refuse(part, 'formats are not supported')
        value = self(part.value)
        if not _is_scalar(value):
            raise self.refuse(part, 'only strings and numbers are supported here')
        return str(value)

    def _lookup(self, node):
        """Returns the value of `a['b']`, `a[0]`, `a[1:]` or `_base_.a.b`."""
        owner = self(node.value)
        if isinstance(node, ast.Attribute):
            if isinstance(owner, dict) and node.attr in owner:
                return owner[node.attr]
            raise self.refuse(node, f'no {node.attr!r} in it')
        if isinstance(node.slice, ast.Slice):
            bounds = (node.slice.lower, node.slice.upper, node.slice.step)
            key = slice(*(None if bound is None else self(bound) for bound in bounds))
        else:
            key = self(node.slice)
        try:
            return owner[key]
        except (TypeError, KeyError, IndexError, ValueError) as error:
            raise self.refuse(node, f'{error!r}') from error


def _source(node):
    """The source of a node on one line, shortened."""
    text = ' '.join(ast.unparse(node).split())
    return text if len(text) <= 70 else f'{text[:67]}...'


def _is_scalar(value):
    return isinstance(value, str | int | float | bool | None)


def _is_flat(value):
    """Whether a value is a number or string, or a list or dict of these."""
    is_many = isinstance(value, list | tuple | dict)
    return all(map(_is_scalar, value)) if is_many else _is_scalar(value)


def _length(kind, left, right):
    """Length of a sum of strings or lists, or of one times a number; otherwise 0."""
    sizes = [len(x) if hasattr(x, '__len__') else x for x in (left, right)]
    if not all(isinstance(size, int) for size in sizes):
        return 0
    return sizes[0] + sizes[1] if kind is ast.Add else sizes[0] * sizes[1]
