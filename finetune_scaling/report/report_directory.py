"""The directory of a report: a new report is complete before it replaces the earlier one, whose other files it removes.

fit.json lists the report's files, so that files of users in the same directory are never touched.
"""

import contextlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath

from finetune_scaling.errors import WorkdirError
from finetune_scaling.files import (
    check_writable,
    disk_errors,
    read_json,
    unfinished_directory,
    write_json_atomically,
)

RECORD, PAGE, TABLES, PLOTS = "fit.json", "report.html", "tables", "plots"
_FIX = "move it away, or give another directory for the report"


def check_report_directory(out: Path, fix: str = _FIX) -> None:
    """Raise WorkdirError if a report cannot be written to `out`, or would replace there what no report wrote.

    fix: what the user can do about the file that is in the way.
    """
    with disk_errors(out):
        _earlier_files(out, fix)
    check_writable(out, "give a directory that you own for the report")


@contextlib.contextmanager
def new_report(out: Path) -> Iterator[Path]:
    """Yield a temporary directory in `out`, whose files replace those of the earlier report at the end of the block.

    The block writes at least fit.json. An error leaves `out` as it was.
    """
    with disk_errors(out):
        earlier, is_new = _earlier_files(out), not out.exists()
        out.mkdir(parents=True, exist_ok=True)
        try:
            with unfinished_directory(out / "report") as folder:
                yield folder
                _move(folder, out, earlier)
        except BaseException:
            if is_new:
                with contextlib.suppress(OSError):  # it holds something by now
                    out.rmdir()
            raise


def _earlier_files(out: Path, fix: str = _FIX) -> list[str]:
    """Return the files of the report in `out`, as its fit.json lists them; none without a report."""
    if out.exists() and not out.is_dir():
        raise WorkdirError(f"{out}: is a file where a report's directory would be; {fix}")
    taken = [name for name in (RECORD, PAGE, TABLES, PLOTS) if (out / name).exists()]
    if not taken:
        return []
    record = read_json(out / RECORD, fix=fix) if RECORD in taken else None
    if not isinstance(record, dict) or "fits" not in record:
        raise WorkdirError(f"{out / taken[0]}: would be replaced by a report, but no report wrote it; {fix}")
    files = [PurePosixPath(name) for name in record.get("files", ())]
    return [str(file) for file in files if not file.is_absolute() and ".." not in file.parts]


def _move(folder: Path, out: Path, earlier: Sequence[str]) -> None:
    """Move the files of `folder` to `out` and remove the other earlier ones.

    fit.json lists all of them until the end, so that the next report can complete what a killed process began.
    """
    files = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    vanished = [name for name in earlier if name not in files]
    record = read_json(folder / RECORD)

    def move_record(listed: Sequence[str]) -> None:
        write_json_atomically(folder / RECORD, record | {"files": listed})
        os.replace(folder / RECORD, out / RECORD)

    move_record([*files, *vanished])
    for name in files:
        if name != RECORD:
            (out / name).parent.mkdir(exist_ok=True)
            os.replace(folder / name, out / name)
    for name in vanished:
        (out / name).unlink(missing_ok=True)
    move_record(files)
