"""Three versions of the package in folders of their own: the last release's, today's, and one that is still to come.

The release is what its wheel holds, in `baseline/`, named by the schema it needs. `python -m tests.upgrade.versions`
freezes today's package as the new one: when a release is made, and at no other time.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
from dataclasses import dataclass
from pathlib import Path

from celery_workmanager.migrations import HEAD

ROOT = Path(__file__).parents[2]
_FROZEN = Path(__file__).parent / "baseline"
#: The revision after today's, as some release will have one.
NEXT = f"{int(HEAD) + 1:04}"
#: One more, that is an index and nothing else.
NEXT_INDEX = f"{int(HEAD) + 2:04}"


@dataclass(frozen=True)
class Version:
    """A version of the package below `folder`, whose schema is `revision`."""

    name: str
    folder: Path
    revision: str

    def environment(self, **more: str) -> dict[str, str]:
        """What lets a process be of this version. It must not be started where another version lies."""
        path = os.pathsep.join([str(self.folder), str(ROOT)])
        return {**os.environ, "PYTHONPATH": path, "PYTHONWARNINGS": "ignore", "UPGRADE_VERSION": self.name, **more}


def frozen() -> Path:
    """The archive of the last release."""
    (archive,) = _FROZEN.glob("*.tar.xz")
    return archive


def old(folder: Path) -> Version:
    """The last release, unpacked into `folder`: migrations must be files."""
    with tarfile.open(frozen()) as archive:
        archive.extractall(folder / "old", filter="data")
    return Version("old", folder / "old", frozen().name.partition(".")[0])


def today() -> Version:
    """What is in this repository."""
    return Version("today", ROOT, HEAD)


def coming(folder: Path, *, oldest: str | None = None) -> Version:
    """Today's package with two migrations more; they give up what versions before `oldest` need, if it is given."""
    target = folder / "coming"
    package = target / "celery_workmanager"
    shutil.copytree(ROOT / "celery_workmanager", package, ignore=shutil.ignore_patterns("__pycache__"))
    scripts, said = package / "migrations" / "versions", "" if oldest is None else f"    fits_only({oldest!r})\n"
    (scripts / f"v{NEXT}_next.py").write_text(_EXPANDS.format(revision=NEXT, before=HEAD) + said)
    (scripts / f"v{NEXT_INDEX}_index.py").write_text(_INDEXES.format(revision=NEXT_INDEX, before=NEXT))
    words = package / "migrations" / "__init__.py"
    words.write_text(words.read_text().replace(f'HEAD = "{HEAD}"', f'HEAD = "{NEXT_INDEX}"'))
    version = package / "version.py"
    version.write_text(version.read_text().replace('"0.', '"9.'))
    return Version("coming", target, NEXT_INDEX)


_HEADER = '''"""Of a release that is still to come."""

import sqlalchemy as sa
from alembic import op

from celery_workmanager.migrations.steps import add_index, fits_only

revision = "{revision}"
down_revision = "{before}"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Do it."""
'''
_EXPANDS = f"""{_HEADER}    op.add_column("workmanager_work", sa.Column("colour", sa.Integer(), nullable=True))
    op.add_column("workmanager_work", sa.Column("weight", sa.Integer(), nullable=False, server_default="1"))
    op.create_table("workmanager_colour", sa.Column("name", sa.String(length=255), primary_key=True))
"""
_INDEXES = f"""{_HEADER}    add_index("workmanager_work_colour", "workmanager_work", ["colour", "id"], "colour")
"""


def _freeze() -> None:
    made = ROOT / "build" / "baseline"
    shutil.rmtree(made, ignore_errors=True)
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", str(made), str(ROOT)]
    subprocess.run(command, check=True)
    (wheel,) = made.glob("*.whl")
    shutil.unpack_archive(wheel, made / "content", "zip")
    shutil.rmtree(_FROZEN, ignore_errors=True)
    # One stream of them all: half as long as the wheel.
    print(shutil.make_archive(str(_FROZEN / HEAD), "xztar", made / "content"))


if __name__ == "__main__":
    _freeze()
