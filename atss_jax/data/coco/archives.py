"""Downloads COCO 2017: three archives, checked and unpacked into a folder."""

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
    """One zip file to download.

    Attributes:
        path: its path after the server's address.
        size: number of bytes.
        folder: the folder that it unpacks to.
        files: number of files in it.
    """

    path: str
    size: int
    folder: str
    files: int

    @property
    def name(self) -> str:
        """Name of the file."""
        return self.path.rpartition('/')[2]


# Small ones first: problems with the network or the disk then show early.
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

    Files that exist are not downloaded or unpacked again; to call this again after an
    interruption therefore completes the folder.

    Args:
        root: the folder; it is made if missing.
        base_url: address of the server, or of a mirror with the same paths.
        keep_archives: whether to keep an archive after it is unpacked.
        archives: what to download.

    Raises:
        ConnectionError: a download failed or was interrupted.
        ValueError: an archive is damaged or not the published one, or another file is
            in the way.
        OSError: the disk is too small, a file cannot be written, or another process is
            at work in this folder.
    """
    root = pathlib.Path(root).expanduser()
    root.mkdir(parents=True, exist_ok=True)
    with locked(root / '.lock', wait=False):
        missing = [archive for archive in archives if not _is_done(root, archive)]
        _check_space(root, _bytes_needed(root, missing, keep_archives))
        for archive in missing:
            _complete(root, archive, f'{base_url.rstrip("/")}/{archive.path}')
            if not keep_archives:
                (root / archive.name).unlink()
                (root / f'{archive.name}.lock').unlink(missing_ok=True)


def _complete(root: pathlib.Path, archive: Archive, url: str) -> None:
    """Downloads an archive, unless it is there, and unpacks what is missing."""
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
    """Whether all files exist. Archives are deleted only after the last is unpacked."""
    if (root / archive.name).exists():
        return False  # unpacking then looks at each file, and writes what is missing
    folder = root / archive.folder
    return folder.is_dir() and len(_finished(folder)) >= archive.files


def _finished(folder: pathlib.Path) -> list[os.DirEntry]:
    """The files of a folder, except one whose unpacking was interrupted."""
    if not folder.is_dir():
        return []
    with os.scandir(folder) as entries:
        return [entry for entry in entries if not entry.name.endswith('.part')]


def _bytes_needed(
    root: pathlib.Path, missing: list[Archive], keep_archives: bool
) -> int:
    """The largest number of bytes needed at any time, in addition to what is there.

    Images hardly shrink in an archive, so its size counts twice: packed and unpacked.
    """
    needed = peak = 0
    for archive in missing:
        parts = (root / archive.name, root / f'{archive.name}.part')
        have = max((part.stat().st_size for part in parts if part.exists()), default=0)
        files = _finished(root / archive.folder)
        unpacked = sum(file.stat().st_size for file in files)
        needed += max(archive.size - have, 0) + max(archive.size - unpacked, 0)
        peak = max(peak, needed)
        if not keep_archives:
            needed -= archive.size
    return peak


def _check_space(root: pathlib.Path, needed: int) -> None:
    free = shutil.disk_usage(root).free
    if needed > free:
        raise OSError(
            f'{root}: {needed / 1e9:.1f} GB are needed, {free / 1e9:.1f} GB are free; '
            'free some space, or choose another --root'
        )


# Unpacking ---------------------------------------------------------------------------


# What zipfile raises; RuntimeError if the file is encrypted or its compression unknown.
_DAMAGED = (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError)


def _unpack(file: pathlib.Path, root: pathlib.Path, archive: Archive) -> None:
    try:
        with zipfile.ZipFile(file) as content:
            members = _missing_members(content, root, archive)
            _check_space(root, sum(member.file_size for member in members))
            for member in tqdm.tqdm(
                members, f'unpack {archive.name}', unit='files', disable=None
            ):
                _extract(content, member, root / member.filename)
    except _DAMAGED as error:
        raise ValueError(
            f'{file}: damaged ({error}); delete it and run this again'
        ) from error


def _missing_members(
    content: zipfile.ZipFile, root: pathlib.Path, archive: Archive
) -> list[zipfile.ZipInfo]:
    """The files to unpack; checks all names first, since an archive is not trusted."""
    missing = []
    for member in content.infolist():
        _check_member(content.filename, member, archive.folder)
        path = root / member.filename
        if member.is_dir():
            continue
        if not path.exists():
            missing.append(member)
        elif path.stat().st_size != member.file_size:
            raise ValueError(
                f'{path}: has {path.stat().st_size:,} bytes, in {archive.name} it has '
                f'{member.file_size:,}; move it away and run this again'
            )
    return missing


def _check_member(file: str, member: zipfile.ZipInfo, folder: str) -> None:
    """Refuses a file that would be written outside of the archive's own folder."""
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
    """Writes one file, as `.part` until it is complete.

    What a killed process leaves is then overwritten by the next one.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f'{path.name}.part')
    with content.open(member) as source, open(part, 'wb') as target:
        shutil.copyfileobj(source, target, 1 << 20)  # checks the CRC as it reads
    os.replace(part, path)
