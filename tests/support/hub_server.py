"""A server on this machine that speaks enough of the Hugging Face Hub's protocol.

It serves folders as repositories of data sets: their list of files, the information
about some of them, and their content.
"""

import contextlib
import hashlib
import http.server
import json
import pathlib
import threading
import urllib.parse
from collections.abc import Iterator

COMMIT = '0123456789' * 4


class Server(http.server.ThreadingHTTPServer):
    """Serves `repositories`, folders by OWNER/NAME; `requests` lists paths asked."""

    def __init__(self):
        super().__init__(('127.0.0.1', 0), Handler)
        self.repositories: dict[str, pathlib.Path] = {}
        self.requests: list[str] = []
        self.url = f'http://127.0.0.1:{self.server_port}'


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        url = urllib.parse.urlsplit(self.path)
        self.server.requests.append(url.path)
        parts = [urllib.parse.unquote(part) for part in url.path.split('/')[1:]]
        is_api = parts[0] == 'api'
        kind, *rest = parts[1:] if is_api else parts
        folder = self.server.repositories.get('/'.join(rest[:2]))
        if kind != 'datasets' or folder is None:
            return self._send(404, b'', {'X-Error-Code': 'RepoNotFound'})
        action, inside = ''.join(rest[2:3]), '/'.join(rest[4:])
        if action == 'resolve':
            return self._send_file(folder / inside)
        if action == 'tree':
            if not (folder / inside).is_dir():
                return self._send(404, b'', {'X-Error-Code': 'EntryNotFound'})
            recursive = 'recursive=true' in url.query.lower()
            return self._send_json(_entries(folder, folder / inside, recursive))
        if action == 'paths-info':
            return self._send_json(self._asked(folder))
        files = [{'rfilename': entry['path']} for entry in _entries(folder, folder)]
        info = {'id': '/'.join(rest[:2]), 'sha': COMMIT, 'siblings': files}
        return self._send_json({**info, 'private': False, 'tags': []})

    do_HEAD = do_POST = do_GET

    def _asked(self, folder):
        body = self.rfile.read(int(self.headers['Content-Length'])).decode()
        if self.headers['Content-Type'].startswith('application/json'):
            names = json.loads(body)['paths']
        else:
            names = urllib.parse.parse_qs(body)['paths']
        return [entry for entry in _entries(folder, folder) if entry['path'] in names]

    def _send_json(self, value):
        self._send(
            200, json.dumps(value).encode(), {'Content-Type': 'application/json'}
        )

    def _send_file(self, file):
        if not file.is_file():
            return self._send(404, b'', {'X-Error-Code': 'EntryNotFound'})
        content = file.read_bytes()
        digest = hashlib.sha1(content).hexdigest()
        self._send(200, content, {'ETag': f'"{digest}"', 'X-Repo-Commit': COMMIT})

    def _send(self, status, content, headers):
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header('Content-Length', str(len(content)))
        self.end_headers()
        if self.command != 'HEAD':
            self.wfile.write(content)

    def log_message(self, *_args):
        pass


def _entries(root, folder, recursive=True):
    """Descriptions of the files and folders in a folder of a repository."""
    found = sorted(folder.rglob('*') if recursive else folder.iterdir())
    return [_entry(path, str(path.relative_to(root))) for path in found]


def _entry(path, name):
    if path.is_dir():
        digest = hashlib.sha1(name.encode()).hexdigest()
        return {'type': 'directory', 'path': name, 'size': 0, 'oid': digest}
    content = path.read_bytes()
    digest = hashlib.sha1(content).hexdigest()
    return {'type': 'file', 'path': name, 'size': len(content), 'oid': digest}


@contextlib.contextmanager
def serving() -> Iterator[Server]:
    """A running server."""
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()
