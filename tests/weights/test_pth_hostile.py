"""Malicious checkpoints and other files: each is refused by name, and nothing runs."""

import pickle
import random
import zipfile

import numpy as np
import pytest

from atss_jax.weights.torch_file import pth
from tests.support import pickles
from tests.support.pickles import call, literal, mapping, name, tensor

FLOATS = np.arange(12, dtype=np.float32)
RAW = FLOATS.tobytes()


@pytest.fixture(params=['zip', 'legacy'])
def form(request):
    return request.param


@pytest.fixture
def file(tmp_path):
    return tmp_path / 'weights.pth'


def hostile(witness) -> dict[str, tuple[bytes, str]]:
    """Opcodes that would make the file `witness`, and what the error must name."""
    shell = f'touch {witness}'
    code = f'open({str(witness)!r}, "w")'
    text = literal(shell)
    inner = pickles.MAGIC.to_bytes(10, 'little')
    mm = 'mmengine.logging.history_buffer.HistoryBuffer'
    allowed = name('collections.OrderedDict')
    return {
        'system': (call('posix.system', text), 'posix.system'),
        'os_system': (call('os.system', text), 'os.system'),
        'stack_global': (
            literal('posix') + literal('system') + b'\x93' + text + b'\x85R',
            'posix.system',
        ),
        'inst': (f"(S'{shell}'\niposix\nsystem\n".encode(), 'posix.system'),
        'obj': (b'(' + name('posix.system') + text + b'o', 'posix.system'),
        'newobj': (name('subprocess.Popen') + text + b'\x85\x81', 'subprocess.Popen'),
        'newobj_ex': (
            name('subprocess.Popen') + text + b'\x85}\x92',
            'subprocess.Popen',
        ),
        'eval': (call('builtins.eval', literal(code)), 'builtins.eval'),
        'exec': (call('__builtin__.exec', literal(code)), '__builtin__.exec'),
        'import': (
            call(
                'builtins.getattr',
                call('builtins.__import__', literal('os')),
                literal('system'),
            ),
            'builtins.__import__',
        ),
        'getattr_of_allowed': (
            call('builtins.getattr', allowed, literal('__subclasses__')),
            'builtins.getattr',
        ),
        'getattr_of_tensor_function': (
            call(
                'builtins.getattr',
                name('torch._utils._rebuild_tensor_v2'),
                literal('__globals__'),
            ),
            'builtins.getattr',
        ),
        'dotted': (
            call('collections.OrderedDict.fromkeys', literal([1])),
            'collections.OrderedDict.fromkeys',
        ),
        'lambda': (
            call(
                'types.FunctionType',
                call('marshal.loads', literal(b'c')),
                literal({}),
            ),
            'types.FunctionType',
        ),
        'main_lambda': (call('__main__.<lambda>'), '__main__.<lambda>'),
        'partial': (
            call('functools.partial', name('posix.system'), text),
            'functools.partial',
        ),
        'setstate': (
            name('types.SimpleNamespace')
            + b')\x81}'
            + literal('__setstate__')
            + name('posix.system')
            + b's'
            + text
            + b'b',
            'types.SimpleNamespace',
        ),
        'setstate_on_allowed': (
            allowed
            + b')R}'
            + literal('__setstate__')
            + name('nt.system')
            + b'sb'
            + text
            + b'b',
            'nt.system',
        ),
        'pickle_in_pickle': (
            call('torch.storage._load_from_bytes', literal(inner)),
            'torch.storage._load_from_bytes',
        ),
        'unknown_class': (call('my_project.models.Net'), 'my_project.models.Net'),
        'rewritten_name': (
            # A name in an open namespace whose record is then given another name.
            name(mm)
            + b'}'
            + literal('name')
            + literal('posix.system')
            + b'sb0'
            + call('posix.system', text),
            'posix.system',
        ),
        'calls_a_type': (call('torch.FloatStorage', text), 'torch.FloatStorage'),
        'codec': (
            call('_codecs.encode', text, literal('rot13')),
            '_codecs.encode',
        ),
        'persistent_text': (b'Pposix\n', 'PERSID'),
        'extension': (b'\x82\x01', 'EXT1'),
        'numpy_objects': (
            # Bytes that would be read as object pointers.
            call('numpy.dtype', literal('O8'), b'\x89', b'\x88')
            + b'0'
            + call(
                'numpy.core.multiarray.scalar',
                call('numpy.dtype', literal('O8'), b'\x89', b'\x88'),
                literal('12345678'),
            ),
            "'O8'",
        ),
    }


class TestHostile:
    def test_the_payload_would_act(self, tmp_path):
        witness = tmp_path / 'witness'
        body, _ = hostile(witness)['system']
        pickle.loads(b'\x80\x02' + body + b'.')
        assert witness.exists()

    @pytest.mark.parametrize('container', ['zip', 'legacy', 'plain'])
    @pytest.mark.parametrize('attack', hostile('/x'))
    def test_refused_by_name(self, tmp_path, file, attack, container):
        witness = tmp_path / 'witness'
        body, named = hostile(witness)[attack]
        path = getattr(pickles, f'write_{container}')(file, body)
        with pytest.raises(ValueError) as error:
            pth.load(path)
        assert named in str(error.value)
        assert str(file) in str(error.value)
        assert not witness.exists()

    def test_open_namespaces_hold_nothing_real(self, tmp_path, file):
        witness = tmp_path / 'witness'
        system = literal('mmengine.runner') + literal('os.system') + b'\x93'
        pickles.write_zip(file, system + literal(f'touch {witness}') + b'\x85R')
        loaded = pth.load(file)
        assert loaded.name == 'mmengine.runner.os.system'
        assert loaded.args == (f'touch {witness}',)
        assert not witness.exists()

    def test_called_twice_is_refused(self, file):
        pickles.write_zip(file, call('mmcv.Config') + b')R')
        with pytest.raises(ValueError, match=r'mmcv\.Config'):
            pth.load(file)

    def test_mutations_give_value_errors(self, file):
        """Damage of any kind is a ValueError, not a crash and not 2**60 bytes."""
        body = mapping(
            a=tensor('0', 'Float', 12, 0, (3, 4), (4, 1)),
            b=pickle.dumps([np.float64(1), np.arange(3)], 2)[2:-1],
        )
        chance = random.Random(0)
        for form in ('zip', 'legacy'):
            good = pickles.write(form, file, body, {'0': FLOATS}).read_bytes()
            for _ in range(300):
                bad = bytearray(good)
                for _ in range(chance.randint(1, 3)):
                    bad[chance.randrange(len(bad))] = chance.randrange(256)
                file.write_bytes(bad[: chance.choice([len(bad), len(bad), 200])])
                try:
                    pth.load(file)
                except ValueError as error:
                    assert str(file) in str(error)


class TestNotACheckpoint:
    @pytest.mark.parametrize(
        ('content', 'message'),
        [
            (b'', 'empty'),
            (b'\xff\xd8\xff\xe0\x00\x10JFIF', 'not a PyTorch checkpoint'),
            (b'<!DOCTYPE html><html>404', 'not a PyTorch checkpoint'),
            (b'{"message": "not found"}', 'not a PyTorch checkpoint'),
            (b'version https://git-lfs.github.com/spec/v1\n', 'not a PyTorch'),
            (pickle.dumps({'a': 1}), 'a pickle, but not a PyTorch checkpoint'),
            (pickle.dumps(pickles.MAGIC) + pickle.dumps(7), 'torch format 7'),
            (b'PK\x03\x04' + bytes(100), 'not a zip file'),
        ],
    )
    def test_other_content(self, file, content, message):
        file.write_bytes(content)
        with pytest.raises(ValueError, match=message) as error:
            pth.load(file)
        assert str(file) in str(error.value)

    def test_torchscript(self, file):
        pickles.write_zip(file, literal(1), extra={'constants.pkl': b'\x80\x02).'})
        with pytest.raises(ValueError, match='TorchScript'):
            pth.load(file)

    def test_other_zip(self, file):
        np.savez(file.with_suffix('.npz'), a=FLOATS)
        with pytest.raises(ValueError, match=r'data\.pkl'):
            pth.load(file.with_suffix('.npz'))

    def test_truncated_anywhere(self, form, file):
        body = mapping(a=tensor('0', 'Float', 12, 0, (12,), (1,)))
        good = pickles.write(form, file, body, {'0': FLOATS}).read_bytes()
        for length in range(0, len(good), 7):
            file.write_bytes(good[:length])
            with pytest.raises(ValueError, match=r'weights\.pth'):
                pth.load(file)

    def test_storage_larger_than_the_file(self, form, file):
        body = tensor('0', 'Float', 2**40, 0, (2**40,), (1,))
        path = pickles.write(form, file, body, {'0': FLOATS})
        with pytest.raises(ValueError, match='4398046511104'):
            pth.load(path)

    def test_string_larger_than_the_file(self, form, file):
        path = pickles.write(
            form, file, b'\x8d' + (2**60).to_bytes(8, 'little') + b'abc'
        )
        with pytest.raises(ValueError, match='bytes'):
            pth.load(path)

    @pytest.mark.parametrize(
        'view',
        [(0, (13,), (1,)), (10, (2, 2), (2, 1)), (-1, (2,), (1,)), (4, (3,), (-1,))],
    )
    def test_tensor_outside_its_storage(self, form, file, view):
        path = pickles.write(form, file, tensor('0', 'Float', 12, *view), {'0': FLOATS})
        with pytest.raises(ValueError, match='damaged tensor'):
            pth.load(path)

    def test_array_with_too_few_bytes(self, form, file):
        whole = pickle.dumps(np.zeros(1000), 4)
        body = whole[:-1].replace(b'M\xe8\x03\x85', b'M\xe9\x03\x85')
        assert body != whole[:-1]
        with pytest.raises(ValueError, match='damaged NumPy array'):
            pth.load(pickles.write(form, file, body))

    def test_endless_view_is_no_sequence(self, form, file):
        endless = tensor('0', 'Float', 12, 0, (2**50,), (0,))
        path = pickles.write(form, file, call('torch.Size', endless), {'0': FLOATS})
        with pytest.raises(ValueError, match='ndarray instead of a sequence'):
            pth.load(path)

    def test_entry_that_inflates(self, file):
        with zipfile.ZipFile(file, 'w', zipfile.ZIP_DEFLATED) as archive:
            archive.writestr('archive/data.pkl', b'\x80\x02' + b'N0' * 10**6 + b'N.')
        assert file.stat().st_size < 10**4
        with pytest.raises(ValueError, match='compressed'):
            pth.load(file)

    def test_entries_that_overlap(self, file):
        pickles.write_zip(file, literal(1), {'0': bytes(1000)})
        with zipfile.ZipFile(file, 'a') as archive:
            archive.filelist += [archive.getinfo('archive/data/0')] * 50
            archive._didModify = True
        with pytest.raises(ValueError, match='claim'):
            pth.load(file)

    def test_missing_storage(self, file):
        pickles.write_zip(file, tensor('5', 'Float', 12, 0, (12,), (1,)), {'0': RAW})
        with pytest.raises(ValueError, match='data/5 is missing'):
            pth.load(file)

    def test_damaged_data(self, file):
        pickles.write_zip(file, tensor('0', 'Float', 12, 0, (12,), (1,)), {'0': RAW})
        file.write_bytes(file.read_bytes().replace(RAW, RAW[:-1] + b'\x01'))
        with pytest.raises(ValueError, match='CRC'):
            pth.load(file)

    def test_no_file(self, tmp_path):
        with pytest.raises(FileNotFoundError):
            pth.load(tmp_path / 'nothing.pth')
