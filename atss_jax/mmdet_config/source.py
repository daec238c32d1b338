"""Reads an mmdetection config file and its bases into plain dicts, as mmengine does.

Source: mmengine.config.Config (the text style, not the one that imports).
"""

import ast
import os
import pathlib
from collections.abc import Mapping
from typing import Any

from atss_jax.mmdet_config.expression import (
    DELETE,
    Evaluator,
    Unevaluated,
    check_evaluated,
)

_BASE = '_base_'
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
    return check_evaluated(read_lazily(path, mmdet_configs))


def read_lazily(
    path: str | os.PathLike, mmdet_configs: str | os.PathLike | None = None
) -> dict[str, Any]:
    """As `read`, but values that are not supported are `Unevaluated`, not errors."""
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
        names = check_evaluated(evaluate(statement.value))
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


_IMPORT = (
    'what configs import is not supported; write the config with Config.dump of '
    'mmengine or mmcv and give this file'
)


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
                result = evaluate.later(value)
                for target in targets:
                    _bind(evaluate, names, target, result)
            case ast.AnnAssign(ast.Name(name), _, ast.expr() as value):
                names[name] = evaluate.later(value)
            case ast.Import(aliases) | ast.ImportFrom(_, aliases) if all(
                alias.name != '*' for alias in aliases
            ):
                error = evaluate.refuse(statement, _IMPORT)
                for alias in aliases:
                    name = alias.asname or alias.name.partition('.')[0]
                    names[name] = Unevaluated(error, ast.unparse(statement))
            case ast.Import() | ast.ImportFrom() | ast.With():
                raise evaluate.refuse(statement, _IMPORT)
            case _:
                raise evaluate.refuse(statement, 'only assignments are supported')
    del names[_BASE]
    return {name: x for name, x in names.items() if not name.startswith('__')}


def _bind(evaluate, names, target, value):
    if isinstance(target, ast.Name):
        names[target.id] = value
        return
    if isinstance(value, Unevaluated) and isinstance(target, ast.Tuple | ast.List):
        for element in target.elts:
            _bind(evaluate, names, element, value)
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
        if not isinstance(value, dict) or name not in base or value.get(DELETE):
            merged[name] = _clean(value)
        elif isinstance(base_value, dict):
            merged[name] = merge(value, base_value)
        elif isinstance(base_value, Unevaluated):
            raise base_value.error
        else:
            raise ValueError(
                f'{name} is a dict, but in the base it is {base_value!r}; replace it '
                f'with {DELETE}=True in the dict'
            )
    merged.pop(DELETE, None)
    return merged


def _clean(value):
    """A copy without `_delete_` at all levels."""
    if isinstance(value, dict):
        return {k: _clean(x) for k, x in value.items() if k != DELETE}
    if isinstance(value, list | tuple):
        return type(value)(_clean(x) for x in value)
    return value
