"""Reads an mmdetection config file and its bases into plain dicts, as mmengine does.

Source: mmengine.config.Config (the text style, not the one that imports).
"""

import ast
import operator
import os
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

_BASE, _DELETE = '_base_', '_delete_'
_MAX_DEPTH = 30  # bases of bases


def read(
    path: str | os.PathLike, mmdet_configs: str | os.PathLike | None = None
) -> dict[str, Any]:
    """All names that a config file and its `_base_` files assign, merged.

    Args:
        path: the `.py` file.
        mmdet_configs: folder that `mmdet::` in a base refers to, mmdetection's
            `configs`.

    Raises:
        ValueError: something in a file is not supported; says file and line.
        OSError: a file does not exist.
    """
    try:
        return _read(pathlib.Path(path), mmdet_configs, ())
    except RecursionError as error:
        raise ValueError(f'{path}: nested too deeply') from error


def _read(path, mmdet_configs, parents):
    if path.resolve() in parents or len(parents) > _MAX_DEPTH:
        chain = ' -> '.join(str(file) for file in (*parents, path))
        raise ValueError(f'a config is its own base: {chain}')
    if path.suffix != '.py':
        raise ValueError(f'{path}: expected a Python config file (.py)')
    if not path.is_file():
        child = f', the base of {parents[-1]}' if parents else ''
        raise FileNotFoundError(f'no config file {path}{child}')
    try:
        tree = ast.parse(path.read_bytes(), str(path))
    except (SyntaxError, ValueError, MemoryError) as error:
        raise ValueError(f'{path}: not Python: {error}') from error
    parents = (*parents, path.resolve())
    base: dict[str, Any] = {}
    for name in _base_names(path, tree):
        file = _base_path(name, path, mmdet_configs)
        values = _read(file, mmdet_configs, parents)
        if duplicates := sorted(base.keys() & values.keys()):
            raise ValueError(f'{path}: several of its bases assign {duplicates}')
        base |= values
    return merge(_assigned(path, tree, base), base)


def _evaluator(path, names):
    predefined = {
        'fileDirname': str(path.parent),
        'fileBasename': path.name,
        'fileBasenameNoExtension': path.stem,
        'fileExtname': path.suffix,
    }
    return Evaluator(str(path), names, predefined)


def _is_base_line(statement):
    return isinstance(statement, ast.Assign) and any(
        isinstance(target, ast.Name) and target.id == _BASE
        for target in statement.targets
    )


def _base_names(path, tree):
    evaluate = _evaluator(path, {})
    for statement in filter(_is_base_line, tree.body):
        names = evaluate(statement.value)
        names = names if isinstance(names, list | tuple) else [names]
        if not all(isinstance(name, str) for name in names):
            raise evaluate.refuse(statement, 'expected file names')
        return names
    return []


def _base_path(name, path, mmdet_configs):
    package, marker, inside = name.partition('::')
    if not marker:
        return pathlib.Path(os.path.normpath(path.parent / name))
    if package != 'mmdet':
        raise ValueError(
            f'{path}: its base {name} belongs to the package {package}, only mmdet is '
            'supported'
        )
    if mmdet_configs is None:
        raise ValueError(
            f'{path}: its base {name} belongs to mmdetection; give its folder configs '
            'with --mmdet_configs'
        )
    return pathlib.Path(mmdet_configs) / inside


def _assigned(path, tree, base):
    """Values that the file itself assigns; `_base_` in it refers to its bases."""
    names: dict[str, Any] = {_BASE: base}
    evaluate = _evaluator(path, names)
    for statement in tree.body:
        match statement:
            case ast.Expr(ast.Constant(str())):
                pass  # a docstring
            case ast.Assign() if _is_base_line(statement):
                pass
            case ast.Assign(targets, value):
                result = evaluate(value)
                for target in targets:
                    _bind(evaluate, names, target, result)
            case ast.AnnAssign(ast.Name(name), _, ast.expr() as value):
                names[name] = evaluate(value)
            case ast.Import() | ast.ImportFrom() | ast.With():
                raise evaluate.refuse(
                    statement,
                    'configs with imports are not supported; write the config with '
                    "mmengine's Config.dump and give this file",
                )
            case _:
                raise evaluate.refuse(statement, 'only assignments are supported')
    del names[_BASE]
    return {name: x for name, x in names.items() if not name.startswith('__')}


def _bind(evaluate, names, target, value):
    if isinstance(target, ast.Name):
        names[target.id] = value
        return
    is_tuple = isinstance(target, ast.Tuple | ast.List)
    if not is_tuple or not isinstance(value, list | tuple):
        raise evaluate.refuse(target, 'only assignments to names are supported')
    if len(target.elts) != len(value):
        raise evaluate.refuse(target, f'{len(value)} values are assigned')
    for element, element_value in zip(target.elts, value, strict=True):
        _bind(evaluate, names, element, element_value)


def merge(child: Mapping[str, Any], base: Mapping[str, Any]) -> dict[str, Any]:
    """Merges dicts of `child` into those of `base`; replaces all other values.

    A dict of `child` with `_delete_=True` replaces that of `base`.

    Raises:
        ValueError: a dict would be merged into something that is not a dict.
    """
    merged = dict(base)
    for name, value in child.items():
        base_value = base.get(name)
        if not isinstance(value, dict) or name not in base or value.get(_DELETE):
            merged[name] = _clean(value)
        elif isinstance(base_value, dict):
            merged[name] = merge(value, base_value)
        else:
            raise ValueError(
                f'{name} is a dict, but in the base it is {base_value!r}; replace it '
                f'with {_DELETE}=True in the dict'
            )
    merged.pop(_DELETE, None)
    return merged


def _clean(value):
    """A copy without `_delete_` at all levels."""
    if isinstance(value, dict):
        return {k: _clean(x) for k, x in value.items() if k != _DELETE}
    if isinstance(value, list | tuple):
        return type(value)(_clean(x) for x in value)
    return value


# Expressions --------------------------------------------------------------------------

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
