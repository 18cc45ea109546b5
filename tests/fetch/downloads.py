"""What the tests of fetching share: impatience, and what lies in a folder."""

from rawnind.fetch.selection import Wanted
from rawnind.planning import SceneFilter
from rawnind.source.http_client import Patience
from rawnind.source.names import FETCH_FOLDER

EVERYTHING = Wanted(scenes=SceneFilter())
HASTY = Patience(attempts=4, delay=0.02, longest=0.1, connect=5, read=1)


def ignore(counts):
    """Shows nothing."""


def whole(server, root):
    return {name for name in server.files.values() if (root / name).is_file() and (root / name).read_bytes() == server.data(name)}  # fmt: skip


def below(folder):
    return {
        path.relative_to(folder).as_posix() for path in folder.rglob("*") if FETCH_FOLDER not in path.parts
    }
