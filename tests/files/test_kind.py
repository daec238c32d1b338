"""What a file is that is not what its name says, by its first bytes."""

import pytest

from atss_jax.files.kind import describe, describe_file


@pytest.mark.parametrize(
    ('content', 'part'),
    [
        (b'<!DOCTYPE html>', 'web page'),
        (b'\xef\xbb\xbf\n<HTML>', 'web page'),
        (b'<?xml version="1.0"?><Error>', 'XML'),
        (b'version https://git-lfs.github.com/spec/v1\noid', 'git lfs pull'),
        (b'\x1f\x8b\x08', 'decompress'),
        (b'BZh9', 'decompress'),
        (b'PK\x03\x04', '.pth'),
        (b'\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.', '.pth'),
        (bytes(257) + b'ustar', 'tar'),
        (b'\x30' + bytes(7) + b'{"a":', '.safetensors'),
        (b'{"message": "Not Found"}', 'JSON'),
        (bytes(512), 'zeros'),
    ],
)
def test_known(tmp_path, content, part):
    assert part in describe(content)
    (tmp_path / 'x').write_bytes(content)
    assert describe_file(tmp_path / 'x') == describe(content)


@pytest.mark.parametrize('content', [b'', b'oops', b'\xff\xd8\xff\xe0', b'\x89PNG'])
def test_unknown(content):
    assert describe(content) is None
