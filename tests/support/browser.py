"""Headless Chromium for tests, driven by its DevTools protocol over a pipe."""

import contextlib
import itertools
import json
import os
import pathlib
import select
import shutil
import signal
import subprocess
import tempfile
import time

NAMES = ('chromium', 'chromium-browser', 'google-chrome')
_FLAGS = (
    '--headless',
    '--no-sandbox',
    '--disable-gpu',
    '--disable-quic',
    '--no-first-run',
    '--disable-background-networking',
    '--disable-component-update',
    '--disable-sync',
    '--window-size=1280,900',
    '--remote-debugging-pipe',
)


def find() -> str | None:
    """Path of the browser, None if none is installed."""
    return next(filter(None, map(shutil.which, NAMES)), None)


class Page:
    """One page. `problems` lists console errors and exceptions, `requests` URLs."""

    def __init__(self, process, to_browser, from_browser):
        self._process, self._in, self._out = process, to_browser, from_browser
        self._ids, self._buffer, self._session = itertools.count(1), b'', None
        self.problems, self.requests, self._loaded = [], [], False
        target = self.call('Target.createTarget', url='about:blank')['targetId']
        attached = self.call('Target.attachToTarget', targetId=target, flatten=True)
        self._session = attached['sessionId']
        for domain in ('Page', 'Runtime', 'Log', 'Network'):
            self.call(f'{domain}.enable')

    def call(self, method: str, **params):
        """Calls a method of the protocol and returns its result."""
        number = next(self._ids)
        message = {'id': number, 'method': method, 'params': params}
        if self._session:
            message['sessionId'] = self._session
        os.write(self._in, json.dumps(message).encode() + b'\0')
        while True:
            answer = self._read()
            if answer.get('id') == number:
                assert 'error' not in answer, answer
                return answer['result']

    def _read(self):
        deadline = time.monotonic() + 60
        while b'\0' not in self._buffer:
            ready, _, _ = select.select([self._out], [], [], 1)
            if ready:
                self._buffer += os.read(self._out, 1 << 16)
            assert self._process.poll() is None, 'the browser has ended'
            assert time.monotonic() < deadline, 'the browser does not answer'
        text, self._buffer = self._buffer.split(b'\0', 1)
        message = json.loads(text)
        self._note(message.get('method'), message.get('params', {}))
        return message

    def _note(self, method, params):
        if method == 'Runtime.exceptionThrown':
            self.problems.append(params['exceptionDetails'])
        elif method == 'Runtime.consoleAPICalled' and params['type'] == 'error':
            self.problems.append(params['args'])
        elif method == 'Log.entryAdded' and params['entry']['level'] == 'error':
            self.problems.append(params['entry']['text'])
        elif method == 'Network.requestWillBeSent':
            self.requests.append(params['request']['url'])
        elif method == 'Page.loadEventFired':
            self._loaded = True

    def open(self, path: pathlib.Path) -> None:
        """Loads a file and waits until it is loaded."""
        self._loaded = False
        self.call('Page.navigate', url=path.absolute().as_uri())
        while not self._loaded:
            self._read()

    def run(self, script: str):
        """The value of a JavaScript expression."""
        result = self.call('Runtime.evaluate', expression=script, returnByValue=True)
        assert 'exceptionDetails' not in result, result
        return result['result'].get('value')

    def choose_file(self, selector: str, path: pathlib.Path) -> None:
        """Gives a file to an input, as a user who chose it."""
        root = self.call('DOM.getDocument')['root']['nodeId']
        node = self.call('DOM.querySelector', nodeId=root, selector=selector)
        files = [str(path)]
        self.call('DOM.setFileInputFiles', files=files, nodeId=node['nodeId'])

    def wait_for(self, condition: str, seconds: float = 90) -> None:
        """Waits until a JavaScript expression is true."""
        deadline = time.monotonic() + seconds
        while not self.run(f'Boolean({condition})'):
            assert time.monotonic() < deadline, f'never: {condition}'
            time.sleep(0.05)

    def press(self, key: str, text: str = '') -> None:
        """Presses and releases a key as a user does."""
        codes = {'Enter': 13, ' ': 32, 'Tab': 9, 'ArrowDown': 40}
        code = codes[key] if key in codes else ord(key.upper())
        common = {'key': key, 'windowsVirtualKeyCode': code}
        down = 'keyDown' if text else 'rawKeyDown'
        self.call('Input.dispatchKeyEvent', type=down, text=text, **common)
        self.call('Input.dispatchKeyEvent', type='keyUp', **common)

    def keep_downloads(self, folder: pathlib.Path) -> None:
        """Saves what the page downloads to a folder, without asking."""
        path = str(folder)
        self.call('Page.setDownloadBehavior', behavior='allow', downloadPath=path)

    def set_width(self, width: int) -> None:
        """Emulates a window of another width."""
        size = {'width': width, 'height': 900, 'deviceScaleFactor': 1, 'mobile': False}
        self.call('Emulation.setDeviceMetricsOverride', **size)

    def set_scheme(self, scheme: str) -> None:
        """Emulates a user who prefers 'dark' or 'light' pages."""
        feature = {'name': 'prefers-color-scheme', 'value': scheme}
        self.call('Emulation.setEmulatedMedia', features=[feature])


@contextlib.contextmanager
def page(*flags: str):
    """A new browser with one page, closed at the end.

    Args:
        flags: further ones of Chromium.
    """
    to_browser, from_browser = os.pipe(), os.pipe()

    def as_3_and_4():
        # Moved above both first, because one of the two ends may be 3 or 4 itself.
        high = [os.dup2(to_browser[0], 100), os.dup2(from_browser[1], 101)]
        os.dup2(high[0], 3)
        os.dup2(high[1], 4)

    # Errors are ignored: processes that are being killed may still write there.
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        process = subprocess.Popen(
            [find(), *_FLAGS, *flags, f'--user-data-dir={profile}'],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            preexec_fn=as_3_and_4,
            close_fds=False,
            start_new_session=True,
        )
        os.close(to_browser[0])
        os.close(from_browser[1])
        try:
            yield Page(process, to_browser[1], from_browser[0])
        finally:
            process.terminate()
            process.wait(20)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # what it started
            os.close(to_browser[1])
            os.close(from_browser[0])
