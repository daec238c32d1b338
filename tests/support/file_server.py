"""A local web server with the faults that real servers have."""

import contextlib
import http.server
import re
import threading


class Server(http.server.ThreadingHTTPServer):
    """Serves `files`, also in ranges; `requests` lists the paths and ranges asked."""

    def __init__(self):
        super().__init__(('127.0.0.1', 0), Handler)
        self.files: dict[str, bytes] = {}
        self.requests: list[tuple[str, str | None]] = []
        self.ranges = True
        self.break_after = None
        self.wrong_start = 0
        self.url = f'http://127.0.0.1:{self.server_port}'

    def handle_error(self, *_args):
        pass  # clients may disconnect before the end


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        asked = self.headers.get('Range')
        self.server.requests.append((self.path, asked))
        content = self.server.files.get(self.path)
        if content is None:
            return self.send_error(404)
        start = 0
        if asked and self.server.ranges:
            start = self._start(asked, len(content))
            if start >= len(content):
                return self.send_error(416)
            self.send_response(206)
            start += self.server.wrong_start
            end = len(content) - 1
            self.send_header('Content-Range', f'bytes {start}-{end}/{len(content)}')
        else:
            self.send_response(200)
        self.send_header('Content-Length', str(len(content) - start))
        self.end_headers()
        if self.command != 'HEAD':
            self.wfile.write(content[start:][: self.server.break_after])

    do_HEAD = do_GET

    @staticmethod
    def _start(asked, size):
        """The first byte of a range `bytes=START-` or `bytes=-LAST`."""
        first, last = re.fullmatch(r'bytes=(\d*)-(\d*)', asked).groups()
        return int(first) if first else max(size - int(last), 0)

    def log_message(self, *_args):
        pass


@contextlib.contextmanager
def serving(monkeypatch):
    """A running server, reached without a proxy."""
    monkeypatch.setenv('no_proxy', '127.0.0.1')
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()
