"""Evaluates the expressions in mmdetection's config files without running code.

The syntax tree is evaluated; anything except literals, `dict(...)`, names and
arithmetic is refused with its file and line.
"""

import ast
import operator
from collections.abc import Callable, Mapping
from typing import Any

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
_BUILDERS = {'list': list, 'tuple': tuple}


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
        text = ' '.join(ast.unparse(node).split())
        text = text if len(text) <= 70 else f'{text[:67]}...'
        return ValueError(f'{self._file}, line {line}: {reason}: {text}')

    def __call__(self, node: ast.expr) -> Any:
        """Returns the value of an expression.

        Raises:
            ValueError: the expression is not supported; says file and line.
        """
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
        kind = type(node).__name__
        raise self.refuse(node, f'{kind} is not supported, only values are')

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
                values.append(self(element))
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
            values[name] = self(value)
        return values

    def _call(self, node):
        name = node.func.id if isinstance(node.func, ast.Name) else None
        if name == 'dict' and len(node.args) < 2:
            values = {}
            for argument in node.args:
                values |= self._mapping(argument, self(argument))
            for keyword in node.keywords:
                value = self(keyword.value)
                if keyword.arg is None:
                    values |= self._mapping(keyword.value, value)
                else:
                    values[keyword.arg] = value
            return values
        if name in _BUILDERS and len(node.args) == 1 and not node.keywords:
            value = self(node.args[0])
            if isinstance(value, list | tuple):
                return _BUILDERS[name](value)
        raise self.refuse(node, 'calls are not supported, except dict(...)')

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
        if not isinstance(value, str | int | float | bool | None):
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


def _length(kind, left, right):
    """Length of a sum of strings or lists, or of one times a number; otherwise 0."""
    sizes = [len(x) if hasattr(x, '__len__') else x for x in (left, right)]
    if not all(isinstance(size, int) for size in sizes):
        return 0
    return sizes[0] + sizes[1] if kind is ast.Add else sizes[0] * sizes[1]
