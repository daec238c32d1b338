"""A running Python of another environment that answers pickled calls.

Times are measured in this process, so that both sides are timed by the same clock.
"""

import contextlib
import pathlib
import pickle
import subprocess
from typing import Any


class Peer:
    """A running script of another environment.

    A context manager; the process ends with it.

    Args:
        python: the program that runs the script.
        script: the file, which reads and answers as `mmdet_side.py` does.
        hint: end of the error messages about an unusable environment.
    """

    def __init__(self, python: str, script: pathlib.Path, hint: str):
        self._hint = hint
        try:
            self._process = subprocess.Popen(
                [python, str(script)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
            )
        except OSError as error:
            raise ValueError(
                f'cannot run {python}: {error.strerror}; {hint}'
            ) from error

    def __enter__(self) -> 'Peer':
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(BrokenPipeError):  # unread calls are lost
            self._process.stdin.close()
        self._process.wait()

    def __call__(self, name: str, *arguments: Any) -> Any:
        """Calls a function of the script and waits for its result.

        Raises:
            ValueError: the script refuses and says why, or has ended.
        """
        try:
            pickle.dump((name, arguments), self._process.stdin)
            self._process.stdin.flush()
            problem, answer = pickle.load(self._process.stdout)
        except (EOFError, BrokenPipeError, pickle.UnpicklingError) as error:
            code = self._process.wait()
            python = self._process.args[0]
            raise ValueError(
                f'{python} ended (exit status {code}) without an answer; '
                f'its output is above; {self._hint}'
            ) from error
        if problem:
            raise ValueError(f'{problem}; {self._hint}')
        return answer
