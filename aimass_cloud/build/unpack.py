"""Taking an uploaded ``tar.gz`` apart, in the child process: plain files only, by their last name, within bounds."""

from __future__ import annotations

import re
import tarfile
import zlib
from pathlib import Path, PurePosixPath

from aimass.errors import ModelInvalidError
from aimass_cloud.build.findings import Job

MAX_MEMBERS = 200
CHUNK_BYTES = 1 << 20
FILE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._+-]{0,127}")
HINT = "make it with: tar czf model.tar.gz model.onnx [weight files] [manifest.json]"


def unpack_here(job: Job) -> tuple[str, ...]:
    """Unpack ``job.main_file`` beside itself; returns the names of the files.

    Folders inside the archive are dropped, links and devices refused, sizes counted while they are written: what an
    archive says about itself is not believed.

    Raises:
        ModelInvalidError: no archive, cut off, too large, or names that a package cannot hold.
    """
    names: list[str] = []
    folder, left = Path(job.folder), job.limits.max_model_bytes
    try:
        with tarfile.open(folder / job.main_file, "r|gz") as archive:
            for member in archive:
                if member.isdir():
                    continue
                name = PurePosixPath(member.name).name
                if not member.isfile() or FILE_NAME.fullmatch(name) is None or name in {*names, job.main_file}:
                    raise _refused(f"{member.name[:100]!r} in the archive is no plain file, or there twice")
                if len(names) == MAX_MEMBERS:
                    raise _refused(f"the archive holds more than {MAX_MEMBERS} files")
                left -= _write(archive, member, folder / name, left)
                names.append(name)
    except EOFError as exc:
        raise _refused("the archive is cut off", reason="cut_off") from exc
    except (tarfile.TarError, OSError, zlib.error) as exc:
        if "unexpected end" in str(exc):
            raise _refused("the archive is cut off", reason="cut_off") from exc
        raise _refused(f"the archive cannot be read: {exc}"[:300]) from exc
    return tuple(names)


def _write(archive: tarfile.TarFile, member: tarfile.TarInfo, target: Path, left: int) -> int:
    source = archive.extractfile(member)
    assert source is not None
    size = 0
    with target.open("xb") as file:
        while chunk := source.read(CHUNK_BYTES):
            size += len(chunk)
            if size > left:
                raise _refused("the archive's files are above the limit together", reason="too_large")
            file.write(chunk)
    return size


def _refused(message: str, reason: str = "archive") -> ModelInvalidError:
    return ModelInvalidError(message, hint=HINT, reason=reason)
