"""Checkpoints read and written without torch; `test_pth_torch.py` uses torch itself."""

import collections
import os
import pickle
import zipfile

import ml_dtypes
import numpy as np
import pytest

from atss_jax.weights.torch_file import pth
from atss_jax.weights.torch_file.rebuild import Placeholder
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


class TestLoad:
    def test_views_of_one_storage(self, form, file):
        body = mapping(
            whole=tensor('0', 'Float', 12, 0, (3, 4), (4, 1)),
            transposed=tensor('0', 'Float', 12, 0, (4, 3), (1, 4)),
            corner=tensor('0', 'Float', 12, 5, (2, 2), (4, 1)),
            scalar=tensor('0', 'Float', 12, 7, (), ()),
            expanded=tensor('0', 'Float', 12, 3, (2, 3), (0, 1)),
            empty=tensor('0', 'Float', 12, 12, (0, 5), (5, 1)),
        )
        loaded = pth.load(pickles.write(form, file, body, {'0': FLOATS}))
        whole = FLOATS.reshape(3, 4)
        np.testing.assert_array_equal(loaded['whole'], whole)
        np.testing.assert_array_equal(loaded['transposed'], whole.T)
        np.testing.assert_array_equal(loaded['corner'], whole[1:, 1:3])
        np.testing.assert_array_equal(loaded['expanded'], [FLOATS[3:6]] * 2)
        assert loaded['scalar'].shape == () and loaded['scalar'] == 7
        assert loaded['empty'].shape == (0, 5)
        assert type(loaded) is collections.OrderedDict
        loaded['whole'][0, 0] = 99  # one storage, as in torch
        assert loaded['transposed'][0, 0] == 99

    @pytest.mark.parametrize(
        ('kind', 'dtype'),
        [
            *[('Float', 'f4'), ('Double', 'f8'), ('Half', 'f2'), ('Long', 'i8')],
            *[('Int', 'i4'), ('Short', 'i2'), ('Char', 'i1'), ('Byte', 'u1')],
            *[('Bool', '?'), ('ComplexFloat', 'c8')],
            ('BFloat16', ml_dtypes.bfloat16),
        ],
    )
    def test_dtypes(self, form, file, kind, dtype):
        array = np.array([0, 1, 1, 100]).astype(dtype)
        path = pickles.write(
            form, file, tensor('a', kind, 4, 0, (4,), (1,)), {'a': array}
        )
        loaded = pth.load(path)
        assert loaded.dtype == dtype
        assert loaded.tobytes() == array.tobytes()

    def test_old_rebuild_and_parameter(self, form, file):
        arguments = [pickles.storage('0', 'Float', 12), *map(literal, (2, (2,), (3,)))]
        old = call('torch._utils._rebuild_tensor', *arguments)
        body = call('torch._utils._rebuild_parameter', old, literal(True), b'N')
        loaded = pth.load(pickles.write(form, file, body, {'0': FLOATS}))
        np.testing.assert_array_equal(loaded, [2, 5])

    def test_parameters_of_torch_0_1(self, file):
        path = pickles.write('legacy', file, pickles.OLD_PARAMETER, {'0': FLOATS})
        np.testing.assert_array_equal(pth.state_dict(path)['w'], FLOATS[2:6])

    def test_storage_view_of_a_legacy_file(self, file):
        body = tensor('0', 'Float', 12, 1, (2,), (1,), view=[('view', 4, 6)])
        np.testing.assert_array_equal(
            pth.load(pickles.write('legacy', file, body, {'0': FLOATS})), [5, 6]
        )

    @pytest.mark.parametrize('folder', ['', 'epoch_12/', 'a/b/'])
    def test_any_folder_name(self, file, folder):
        body = tensor('0', 'Float', 12, 0, (12,), (1,))
        pickles.write_zip(file, body, {'0': RAW}, folder)
        np.testing.assert_array_equal(pth.load(file), FLOATS)

    @pytest.mark.parametrize(
        ('kind', 'dtype'), [('Float', 'f4'), ('ComplexFloat', 'c8')]
    )
    def test_big_endian(self, file, kind, dtype):
        swapped = FLOATS.astype(dtype).astype(np.dtype(dtype).newbyteorder('>'))
        body = tensor('0', kind, 12, 0, (12,), (1,))
        extra = {'byteorder': b'big'}
        pickles.write_zip(file, body, {'0': swapped.tobytes()}, extra=extra)
        np.testing.assert_array_equal(pth.load(file), FLOATS)

    @pytest.mark.parametrize('protocol', [0, 1, 2, 4, 5])
    def test_meta_of_a_checkpoint(self, form, file, protocol):
        meta = {
            'epoch': 12,
            'CLASSES': ('person', 'a\nb é'),
            'best': np.float32(0.375),
            'counts': np.arange(6, dtype='>i4').reshape(2, 3),
            'mean': np.array([1.5, 2.5]),
            'fortran': np.asfortranarray(np.arange(6.0).reshape(2, 3)),
            'names': np.array(['a', 'bc']),
            'flag': np.bool_(True),
            'big': 2**70,
            'set': {1, 2},
            'none': None,
            'nested': [{'x': [1.5, True, b'\xff']}],
            'milestones': collections.Counter({8: 1, 11: 2}),
        }
        loaded = pth.load(pickles.write(form, file, pickle.dumps(meta, protocol)[:-1]))
        for key in ('counts', 'mean', 'names', 'fortran'):
            native = meta[key].dtype.newbyteorder('=')
            assert loaded[key].dtype.newbyteorder('=') == native
            np.testing.assert_array_equal(loaded.pop(key), meta.pop(key))
        assert loaded == meta

    def test_python2_text(self, file):
        # Python 2 wrote str as bytes: SHORT_BINSTRING; and NumPy's bytes likewise.
        dtype = call('numpy.dtype', b'U\x02f4', literal(0), literal(1))
        dtype += b'(K\x03U\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb'
        scalar = call('numpy.core.multiarray.scalar', dtype, b'U\x04\x00\x00\xc0\x3f')
        path = pickles.write_zip(file, b'}U\x01a' + scalar + b's')
        assert pth.load(path) == {'a': 1.5}

    def test_metadata_of_a_state_dict_is_dropped(self, form, file):
        body = (
            mapping(a=literal(1)) + literal({'_metadata': {'': {'version': 1}}}) + b'b'
        )
        assert pth.load(pickles.write(form, file, body)) == {'a': 1}

    def test_mmengine_classes_become_placeholders(self, form, file):
        buffer = name('mmengine.logging.history_buffer.HistoryBuffer')
        minimum = call('__builtin__.getattr', buffer, literal('min'))
        state = b'}(' + literal('max_length') + literal(10**6)
        state += literal('_log_history') + pickle.dumps(np.arange(3.0), 2)[2:-1]
        state += literal('statistics_methods') + b'}' + literal('min') + minimum + b'su'
        history = buffer + b')\x81' + state + b'b'
        weight = tensor('0', 'Float', 12, 0, (12,), (1,))
        config = call('mmengine.config.config.ConfigDict') + literal('x') + b'K\x01s'
        body = mapping(
            message_hub=mapping(loss=history), state_dict=mapping(w=weight), cfg=config
        )
        path = pickles.write(form, file, body, {'0': FLOATS})
        loaded = pth.load(path)
        found = loaded['message_hub']['loss']
        assert isinstance(found, Placeholder)
        assert found.name == 'mmengine.logging.history_buffer.HistoryBuffer'
        assert found.state['_log_history'].tolist() == [0, 1, 2]
        assert found.state['statistics_methods']['min'].name.endswith('Buffer.min')
        assert loaded['cfg'].items == [('x', 1)]
        assert not callable(found)
        np.testing.assert_array_equal(pth.state_dict(path)['w'], FLOATS)


class TestSave:
    def test_round_trip(self, file):
        arrays = {
            'f4': np.arange(24, dtype='f4').reshape(2, 3, 4),
            'transposed': np.arange(6, dtype='f8').reshape(2, 3).T,
            'strided': np.arange(20, dtype='i8')[::3],
            'reversed': np.arange(5, dtype='i4')[::-1],
            'big_endian': np.arange(5, dtype='>f4'),
            'scalar': np.array(3, 'i2'),
            'empty': np.zeros((2, 0, 3), 'f2'),
            'bool': np.array([True, False]),
            'bf16': np.arange(7).astype(ml_dtypes.bfloat16),
            'i1': np.array([-1], 'i1'),
            'u1': np.array([255], 'u1'),
        }
        meta = {
            'text': 'é\n\U0001f600',
            'numbers': [0, -1, 255, 2**31, -(2**70), 1.5, float('inf')],
            'nested': {'tuple': (1, None, (True, False)), 3: []},
            'numpy': [np.float32(0.5), np.int64(7), np.bool_(True), np.float64(2.5)],
        }
        saved = {'state_dict': collections.OrderedDict(arrays), 'meta': meta}
        pth.save(file, saved)
        loaded = pth.load(file)
        assert loaded['meta'] == meta
        assert type(loaded['state_dict']) is collections.OrderedDict
        assert list(loaded['state_dict']) == list(arrays)
        for key, array in arrays.items():
            found = loaded['state_dict'][key]
            assert found.dtype == array.dtype.newbyteorder('=')
            assert found.shape == array.shape
            np.testing.assert_array_equal(found, array)

    def test_same_bytes_every_time(self, tmp_path):
        for file in ('a', 'b'):
            pth.save(tmp_path / file, {'w': FLOATS})
        assert (tmp_path / 'a').read_bytes() == (tmp_path / 'b').read_bytes()

    @pytest.mark.parametrize(
        ('value', 'message'),
        [
            ({'a': [1, {2}]}, r"set \(at \['a'\]\[1\]\)"),
            ({'w': np.array(['x'])}, r"<U1 \(at \['w'\]\)"),
            (object(), r'object \(at the top\)'),
            ({'w': np.zeros(2, 'u2')}, 'uint16'),
        ],
    )
    def test_refuses_other_types_and_keeps_the_old_file(self, file, value, message):
        pth.save(file, {'w': FLOATS})
        with pytest.raises(ValueError, match=message):
            pth.save(file, value)
        np.testing.assert_array_equal(pth.load(file)['w'], FLOATS)

    def test_a_failed_save_keeps_the_old_file(self, file, monkeypatch):
        pth.save(file, {'w': FLOATS})

        def fail(*_args):
            raise OSError('disk full')

        monkeypatch.setattr(zipfile.ZipFile, 'writestr', fail)
        with pytest.raises(OSError, match='disk full'):
            pth.save(file, {'w': FLOATS + 1})
        monkeypatch.undo()
        np.testing.assert_array_equal(pth.load(file)['w'], FLOATS)
        assert os.listdir(file.parent) == [file.name]


class TestStateDict:
    @pytest.mark.parametrize(
        'content',
        [
            {'meta': {'epoch': 1}, 'state_dict': {'a.weight': FLOATS}},
            {'a.weight': FLOATS},
            {'module.a.weight': FLOATS},
            {'state_dict': {'module.a.weight': FLOATS}},
        ],
    )
    def test_finds_the_weights(self, file, content):
        pth.save(file, content)
        assert list(pth.state_dict(file)) == ['a.weight']

    def test_keeps_a_prefix_that_only_some_have(self, file):
        pth.save(file, {'module.a': FLOATS, 'b': FLOATS})
        assert list(pth.state_dict(file)) == ['module.a', 'b']

    @pytest.mark.parametrize(
        ('content', 'message'),
        [
            ({'epoch': 3, 'model': {'a': FLOATS}}, r"keys \['epoch', 'model'\]"),
            ({'state_dict': {}}, r"found \['state_dict'\]"),
            ({'state_dict': {'a': 1}}, r"\['a'\] are not tensors"),
            ([FLOATS], 'found list'),
        ],
    )
    def test_names_what_there_is(self, file, content, message):
        pth.save(file, content)
        with pytest.raises(ValueError, match=message) as error:
            pth.state_dict(file)
        assert str(file) in str(error.value)
