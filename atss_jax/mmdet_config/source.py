"""Reads a config file of mmdetection with its bases into plain dicts, as mmengine does.

Source: mmengine.config.Config (the text style, not the one that imports).
"""

import ast
import os
import pathlib
from collections.abc import Mapping
from typing import Any

from atss_jax.mmdet_config.expression import Evaluator

_BASE, _DELETE = '_base_', '_delete_'
_DEEPEST = 30  # bases of bases


def read(
    path: str | os.PathLike, mmdet_configs: str | os.PathLike | None = None
) -> dict[str, Any]:
    """All names that a config file and its `_base_` files assign, merged.

    Args:
        path: the `.py` file.
        mmdet_configs: folder that `mmdet::` in a base stands for: mmdetection's
            `configs`.

    Raises:
        ValueError: something in a file is not supported; says file and line.
        OSError: a file is not there.
    """
    try:
        return _read(pathlib.Path(path), mmdet_configs, ())
    except RecursionError as error:
        raise ValueError(f'{path}: nested too deeply') from error


def _read(path, mmdet_configs, above):
    if path.resolve() in above or len(above) > _DEEPEST:
        chain = ' -> '.join(str(file) for file in (*above, path))
        raise ValueError(f'a config is its own base: {chain}')
    if path.suffix != '.py':
        raise ValueError(f'{path}: expected a Python config file (.py)')
    if not path.is_file():
        by = f', the base of {above[-1]}' if above else ''
        raise FileNotFoundError(f'no config file {path}{by}')
    try:
        tree = ast.parse(path.read_bytes(), str(path))
    except (SyntaxError, ValueError, MemoryError) as error:
        raise ValueError(f'{path}: not Python: {error}') from error
    above = (*above, path.resolve())
    base: dict[str, Any] = {}
    for name in _base_names(path, tree):
        file = _base_path(name, path, mmdet_configs)
        more = _read(file, mmdet_configs, above)
        if twice := sorted(base.keys() & more.keys()):
            raise ValueError(f'{path}: several of its bases assign {twice}')
        base |= more
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
        raise ValueError(f'{path}: its base {name} is of the package {package}')
    if mmdet_configs is None:
        raise ValueError(
            f"{path}: its base {name} is one of mmdetection's; say with "
            '--mmdet_configs where its folder configs is'
        )
    return pathlib.Path(mmdet_configs) / inside


def _assigned(path, tree, base):
    """What the file's own lines assign; `_base_` in them is what the bases say."""
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
                    'configs that import are not supported; write it out with '
                    "mmengine's Config.dump and give that file",
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
        raise evaluate.refuse(target, 'only names can be assigned to')
    if len(target.elts) != len(value):
        raise evaluate.refuse(target, f'{len(value)} values for it')
    for part, element in zip(target.elts, value, strict=True):
        _bind(evaluate, names, part, element)


def merge(child: Mapping[str, Any], base: Mapping[str, Any]) -> dict[str, Any]:
    """`base` with what `child` says on top: dicts are merged, all else is replaced.

    A dict of `child` with `_delete_=True` replaces that of `base`.

    Raises:
        ValueError: a dict is to be merged into what is none.
    """
    merged = dict(base)
    for name, value in child.items():
        there = base.get(name)
        if not isinstance(value, dict) or name not in base or value.get(_DELETE):
            merged[name] = _clean(value)
        elif isinstance(there, dict):
            merged[name] = merge(value, there)
        else:
            raise ValueError(
                f'{name} is a dict, but in the base it is {there!r}; '
                f'{_DELETE}=True in it would replace that'
            )
    merged.pop(_DELETE, None)
    return merged


def _clean(value):
    """A copy without `_delete_`, which has done its work."""
    if isinstance(value, dict):
        return {k: _clean(x) for k, x in value.items() if k != _DELETE}
    if isinstance(value, list | tuple):
        return type(value)(_clean(x) for x in value)
    return value
