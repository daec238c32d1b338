"""onnxruntime-web: what runs a detector in a browser, from its npm package."""

import hashlib
import pathlib
import re
import tarfile
from typing import NamedTuple

from atss_jax.files.download import cache_folder, download

VERSION = '1.30.0'
_NAME = f'onnxruntime-web-{VERSION}.tgz'
_URL = f'https://registry.npmjs.org/onnxruntime-web/-/{_NAME}'
_SHA256 = 'd2228df7e4616bc3348bf504ee888f3bec43789a273f0a63f3e68d203ce3bf71'
_SCRIPT = 'package/dist/ort.wasm.bundle.min.mjs'
_WASM = 'package/dist/ort-wasm-simd-threaded.wasm'
_USED = ('InferenceSession', 'Tensor', 'env')


class WebRuntime(NamedTuple):
    """The two parts of the runtime.

    Attributes:
        script: JavaScript for a worker, which sets `ort`.
        wasm: the WebAssembly module that it loads.
    """

    script: str
    wasm: bytes


def load() -> WebRuntime:
    """The runtime; its package, 33 MB, is downloaded once.

    Raises:
        ConnectionError: it cannot be downloaded; says what to fetch and where to put
            it.
        ValueError: it is not the package that is expected.
    """
    package = cache_folder() / _NAME
    download(_URL, package, _problem)
    if reason := _problem(package):
        raise ValueError(f'{package}: {reason}; remove it, to download it again')
    with tarfile.open(package) as archive:
        script, wasm = (archive.extractfile(name).read() for name in (_SCRIPT, _WASM))
    return WebRuntime(as_worker_script(script.decode()), wasm)


def _problem(package: pathlib.Path) -> str | None:
    """What is wrong with a downloaded package; None if nothing is."""
    with open(package, 'rb') as file:
        digest = hashlib.file_digest(file, 'sha256').hexdigest()
    if digest != _SHA256:
        return f'not {_NAME}: its sha256 is {digest}, expected {_SHA256}'
    return None


def as_worker_script(module: str) -> str:
    """The module as a script that sets `ort`.

    A page that was opened as a file may start workers, but these may not import
    modules, so that neither `export` nor `import.meta` can stand in the script. The
    address in place of the latter is never asked for: the runtime's other part is given
    to it.
    """
    exports = re.findall(r'\bexport\s*\{([^}]*)\};?', module)
    if len(exports) != 1:
        raise ValueError(f'{_SCRIPT}: expected one list of exports, got {len(exports)}')
    names = {}
    for entry in exports[0].split(','):
        inside, _, outside = entry.strip().partition(' as ')
        names[outside or inside] = inside
    members = ','.join(f'{name}:{names[name]}' for name in _USED)
    script = re.sub(
        r'\bexport\s*\{[^}]*\};?', lambda _: f'self.ort={{{members}}};', module
    )
    script = script.replace('import.meta.url', '"https://detector.invalid/"')
    return re.sub(r'(?m)^//# sourceMappingURL=.*$', '', script)
