"""Command lines, called in this process as a user calls them."""

import sys

from atss_jax.commands.main import main
from tests.conftest import ROOT


class Result:
    """Exit status and what was printed."""

    def __init__(self, status, out, err):
        self.status, self.out, self.err = status, out, err

    def refuses(self, *parts, lines=1):
        """One clear message on stderr, exit status 1, no traceback."""
        assert self.status == 1
        assert 'Traceback' not in self.err + self.out
        assert len(self.err.splitlines()) == lines, self.err
        for part in parts:
            assert str(part) in self.err
        return True


SCRIPTS = ('train', 'eval', 'predict')


def call_program(name, arguments, capsys, monkeypatch):
    """The `Result` of `python NAME.py ...` of the checkout, or of `atss NAME ...`.

    Args:
        name: 'train', 'eval', 'predict': the scripts; 'atss': a command is the first
            argument.
        arguments: of the command line.
    """
    words = [str(word) for word in arguments]
    script = f'{name}.py' if name in SCRIPTS else name
    monkeypatch.setattr(sys, 'argv', [script, *words])
    try:
        status = main([name, *words], script) if name in SCRIPTS else main(words)
    except SystemExit as end:
        status = end.code
    captured = capsys.readouterr()
    return Result(status, captured.out, captured.err)


def make_call(capsys, monkeypatch):
    """`call('train', '--config=...')`, run in the root of the repository."""
    monkeypatch.chdir(ROOT)
    return lambda name, *arguments: call_program(name, arguments, capsys, monkeypatch)
