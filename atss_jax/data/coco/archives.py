"""Brings COCO 2017 to a folder: three archives, fetched, checked and unpacked."""

import dataclasses
import os
import pathlib
import shutil
import stat
import zipfile
import zlib

import tqdm

from atss_jax.files.download import download
from atss_jax.files.lock import locked

BASE_URL = 'http://images.cocodataset.org'


@dataclasses.dataclass(frozen=True)
class Archive:
    """One zip file.

    Attributes:
        path: below the server's address.
        size: in bytes.
        folder: the one that it unpacks to.
        files: number of files in it.
    """

    path: str
    size: int
    folder: str
    files: int

    @property
    def name(self) -> str:
        """File name."""
        return self.path.rpartition('/')[2]


# Small ones first: what is wrong with the network or the disk shows early.
# Source of the sizes: tensorflow_datasets 4.9.10, url_checksums/coco_captions.txt and
# datasets/lvis/checksums.tsv. Images: cocodataset.org/#download (118K and 5K), exact
# numbers from instances_train2017.json and instances_val2017.json.
ARCHIVES = (
    Archive('annotations/annotations_trainval2017.zip', 252907541, 'annotations', 6),
    Archive('zips/val2017.zip', 815585330, 'val2017', 5000),
    Archive('zips/train2017.zip', 19336861798, 'train2017', 118287),
)


def download_coco(
    root: str | os.PathLike,
    base_url: str = BASE_URL,
    keep_archives: bool = False,
    archives: tuple[Archive, ...] = ARCHIVES,
) -> None:
    """Fills `root` with `annotations/`, `train2017/` and `val2017/`.

    Whatever is there already is not fetched or unpacked again, so that a run that was
    stopped goes on where it was.

    Args:
        root: folder, made if need be.
        base_url: of a mirror with the same paths.
        keep_archives: do not delete an archive after it is unpacked.
        archives: what to fetch.

    Raises:
        ConnectionError: a download did not work, or stopped.
        ValueError: an archive is not the published one, or is damaged, or a file is in
            the way.
        OSError: the disk is too small, or a file cannot be written.
    """
    root = pathlib.Path(root).expanduser()
    root.mkdir(parents=True, exist_ok=True)
    with locked(root / '.lock', wait=False):
        left = [archive for archive in archives if not _is_done(root, archive)]
        _check_space(root, _bytes_needed(root, left, keep_archives))
        for archive in left:
            _bring(root, archive, f'{base_url.rstrip("/")}/{archive.path}')
            if not keep_archives:
                (root / archive.name).unlink()
                (root / f'{archive.name}.lock').unlink(missing_ok=True)


def _bring(root: pathlib.Path, archive: Archive, url: str) -> None:
    file = root / archive.name
    download(url, file, lambda part: _problem(part, archive), archive.size)
    if problem := _problem(file, archive):
        raise ValueError(f'{file}: {problem}; delete it and run this again')
    _unpack(file, root, archive)


def _problem(path: pathlib.Path, archive: Archive) -> str | None:
    size = path.stat().st_size
    if size == archive.size:
        return None
    return f'has {size:,} bytes, expected {archive.size:,}'


def _is_done(root: pathlib.Path, archive: Archive) -> bool:
    """An archive is deleted only after its last file stands in the folder."""
    if (root / archive.name).exists():
        return False  # unpacking looks at each file, and does only what is lacking
    folder = root / archive.folder
    return folder.is_dir() and len(_finished(folder)) >= archive.files


def _finished(folder: pathlib.Path) -> list[os.DirEntry]:
    if not folder.is_dir():
        return []
    with os.scandir(folder) as entries:
        return [entry for entry in entries if not entry.name.endswith('.part')]


def _bytes_needed(root: pathlib.Path, left: list[Archive], keep_archives: bool) -> int:
    """At the peak. Images hardly shrink in an archive: each counts twice."""
    taken = peak = 0
    for archive in left:
        parts = (root / archive.name, root / f'{archive.name}.part')
        have = max((part.stat().st_size for part in parts if part.exists()), default=0)
        files = _finished(root / archive.folder)
        unpacked = sum(file.stat().st_size for file in files)
        more = max(archive.size - have, 0) + max(archive.size - unpacked, 0)
        peak = max(peak, taken + more)
        taken += more - (0 if keep_archives else archive.size)
    return peak


def _check_space(root: pathlib.Path, needed: int) -> None:
    free = shutil.disk_usage(root).free
    if needed > free:
        raise OSError(
            f'{root}: {needed / 1e9:.1f} GB are needed, {free / 1e9:.1f} GB are free; '
            'free some, or choose another --root'
        )


# Unpacking ---------------------------------------------------------------------------


# What zipfile raises; RuntimeError where it is encrypted or compressed in a new way.
_DAMAGED = (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError)


def _unpack(file: pathlib.Path, root: pathlib.Path, archive: Archive) -> None:
    try:
        with zipfile.ZipFile(file) as content:
            members = _lacking(content, root, archive)
            _check_space(root, sum(member.file_size for member in members))
            for member in tqdm.tqdm(
                members, f'unpack {archive.name}', unit='files', disable=None
            ):
                _extract(content, member, root / member.filename)
    except _DAMAGED as error:
        raise ValueError(
            f'{file}: damaged ({error}); delete it and run this again'
        ) from error


def _lacking(
    content: zipfile.ZipFile, root: pathlib.Path, archive: Archive
) -> list[zipfile.ZipInfo]:
    """The files to unpack; checks all names first, since they come from outside."""
    lacking = []
    for member in content.infolist():
        _check_member(content.filename, member, archive.folder)
        path = root / member.filename
        if member.is_dir():
            continue
        if not path.exists():
            lacking.append(member)
        elif path.stat().st_size != member.file_size:
            raise ValueError(
                f'{path}: has {path.stat().st_size:,} bytes, in {archive.name} it has '
                f'{member.file_size:,}; move it away and run this again'
            )
    return lacking


def _check_member(file: str, member: zipfile.ZipInfo, folder: str) -> None:
    """Refuses what would be written anywhere but below the archive's own folder."""
    parts = member.filename.rstrip('/').split('/')
    mode = member.external_attr >> 16
    plain = stat.S_IFMT(mode) in (0, stat.S_IFREG, stat.S_IFDIR)
    harmful = {'', '.', '..'} & set(parts) or '\\' in member.filename
    if not plain or harmful or parts[0] != folder:
        raise ValueError(
            f'{file}: refused, it holds {member.filename!r}; expected plain files '
            f'in {folder}/ and nothing else'
        )


def _extract(
    content: zipfile.ZipFile, member: zipfile.ZipInfo, path: pathlib.Path
) -> None:
    """Under another name until it is whole, so that a stop leaves no broken file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f'{path.name}.part')
    with content.open(member) as source, open(part, 'wb') as target:
        shutil.copyfileobj(source, target, 1 << 20)  # checks the CRC as it reads
    os.replace(part, path)
