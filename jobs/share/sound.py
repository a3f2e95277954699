"""Makes sure that the bytes of a file are those that were released, at the cost of reading each file once."""

from __future__ import annotations

import threading
from pathlib import Path

from jobs.errors import Tampered
from jobs.lake.objects import is_object, sha256_of

# A file that was written again has another time of change, even if its size and its time of modification were kept.
_Seen = tuple[str, int, int, int, int]
_sound: dict[_Seen, str] = {}
_KEPT = 100_000
_guard = threading.Lock()


def require_released(path: Path, size: int, sha256: str) -> None:
    """Refuse a file whose bytes are not those of the release.

    Each file is digested when it is first asked for, and again whenever it was written since. An object is not: the
    store keeps a checksum of it, and upkeep digests what is live in turn.

    Args:
        path: the file.
        size: its bytes in the manifest.
        sha256: its digest in the manifest.

    Raises:
        Tampered: size or digest differ.
    """
    status = path.stat()
    if status.st_size != size:
        raise _tampered("a file's size differs from its release's manifest", path)
    if is_object(path):
        return
    seen = (str(path), size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino)
    if _sound.get(seen) == sha256:
        return
    if sha256_of(path) != sha256:
        raise _tampered("a file's bytes differ from its release's manifest", path)
    with _guard:
        while len(_sound) >= _KEPT:
            _sound.pop(next(iter(_sound)))
        _sound[seen] = sha256


def _tampered(what: str, path: Path) -> Tampered:
    return Tampered(what, where=str(path), next_step="run `exchange verify` on the release, and restore the file")
