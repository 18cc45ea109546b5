"""Finished chunks of large scenes: files `attempts/chunks/<scene>/<number>-<count>-<run>-<start of SHA-256>`.

A worker writes one when it has processed a chunk of a scene, after the chunk's shards. The scene is committed, as a whole, when
its run has one of each chunk. A later run takes over those that it would make again: same photos, recipe and code, nothing
failed, and every shard still has its SHA-256.
"""

import hashlib
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass

from pydantic import TypeAdapter, ValidationError

from rawnind.errors import OutputError
from rawnind.output.attempts import CHUNK_NAME, CHUNKS, scene_digest
from rawnind.output.store import Store
from rawnind.reasons import Outcome
from rawnind.records import Scene, SceneResult, SeenFiles, Shard


@dataclass(frozen=True, kw_only=True, slots=True)
class FinishedChunk:
    """What a worker has made of a chunk.

    Attributes:
        result: of the scene with the chunk's noisy photos alone.
        seen: the files of its photos, before they were read.
        code: what the worker ran.
        photos: noisy photos of the whole scene.
        telemetry: seconds and bytes by stage.
    """

    result: SceneResult
    seen: SeenFiles
    code: str
    photos: int
    telemetry: dict[str, int | float]

    def is_what_would_be_made(self, part: Scene, recipe: str, seen: SeenFiles, code: str) -> bool:
        """Whether processing the chunk again would give this result; what failed is tried again instead.

        Args:
            part: the scene with the chunk's noisy photos alone.
            recipe: digest of the recipe.
            seen: the files of its photos as they are now.
            code: what would process it.
        """
        result = self.result
        failed = result.failed_files or any(pair.outcome is Outcome.FAILED for pair in result.pairs)
        return not failed and (result.scene, result.recipe, self.seen, self.code) == (
            part,
            recipe,
            seen,
            code,
        )


_CHUNK = TypeAdapter(FinishedChunk)
_NAME = re.compile(CHUNK_NAME)


class FinishedChunks:
    """The finished chunks of one scene.

    Args:
        store: the output folder.
        run: the run's name.
        key: the scene's key.
        count: chunks of the scene.
    """

    def __init__(self, store: Store, run: str, key: str, count: int) -> None:
        self._store = store
        self._run = run
        self._folder = f"{CHUNKS}/{scene_digest(key)}"
        self._count = count

    def add(self, number: int, chunk: FinishedChunk) -> None:
        """Writes a chunk of this run; it counts when this returns.

        Args:
            number: of the chunk, from 0.
            chunk: what became of it; its shards are complete.

        Raises:
            OutputError: The storage reports an error; the chunk does not count.
        """
        data = _CHUNK.dump_json(chunk)
        name = f"{number}-{self._count}-{self._run}-{hashlib.sha256(data).hexdigest()[:16]}"
        with suppress(FileExistsError):  # a worker that was taken for dead wrote it
            self._store.write(f"{self._folder}/{name}", data)

    def of_earlier_runs(self, number: int) -> Iterator[FinishedChunk]:
        """A chunk as other runs have finished it, where the files are sound.

        Args:
            number: of the chunk, from 0.
        """
        for each in self._files():
            is_earlier = each["number"] == str(number) and each["run"] != self._run
            if is_earlier and (chunk := self._read(each.string)):
                yield chunk

    def of_this_run(self) -> dict[int, list[str]]:
        """Numbers of the chunks that this run has finished, and their files, for `read`."""
        found: dict[int, list[str]] = {}
        for each in self._files():
            if each["run"] == self._run:
                found.setdefault(int(each["number"]), []).append(each.string)
        return found

    def read(self, files: Sequence[str]) -> FinishedChunk:
        """A chunk of this run from its files; where there are several, a worker that was taken for dead wrote the others.

        Args:
            files: of the chunk, from `of_this_run`.

        Raises:
            OutputError: The storage reports an error, or no file is sound.
        """
        found = next(filter(None, map(self._read, files)), None)
        if not found:
            raise OutputError(
                f"{self._folder}/{files[0]} in {self._store.location} is damaged or gone; run the same command again"
            )
        return found

    def _files(self) -> Iterator[re.Match[str]]:
        """The files of a scene that was divided as it is now."""
        for entry in self._store.list(self._folder):
            found = _NAME.fullmatch(entry.path.rpartition("/")[2])
            if found and found["count"] == str(self._count):
                yield found

    def _read(self, name: str) -> FinishedChunk | None:
        return _read(self._store, f"{self._folder}/{name}")

    def has_sound_shards(self, result: SceneResult) -> bool:
        """Whether the shards of a result have the bytes that were written. All of them are read: another run wrote them.

        Args:
            result: of a chunk.
        """
        self._store.require_unlinked(f"shards/{result.scene.key}")
        return all(self._is_sound(pair.shard) for pair in result.pairs if pair.shard)

    def _is_sound(self, shard: Shard) -> bool:
        with suppress(FileNotFoundError):
            return (
                self._store.size(shard.path) == shard.size and self._store.digest(shard.path) == shard.sha256
            )
        return False


@dataclass(frozen=True, kw_only=True, slots=True)
class SceneProgress:
    """How far a scene is of which some chunks are finished.

    Attributes:
        scene: the scene's key.
        done: noisy photos of the finished chunks, of whichever run.
        photos: noisy photos of the scene.
    """

    scene: str
    done: int
    photos: int

    def __str__(self) -> str:
        return f"{self.scene}: {self.done} of {self.photos} noisy photos are done"


def unfinished_scenes(store: Store, committed: Iterable[str]) -> list[SceneProgress]:
    """Scenes that are not committed and of which chunks are finished, sorted by key.

    Args:
        store: the output folder.
        committed: keys of scenes that are.
    """
    found: dict[str, dict[str, str]] = {}
    for entry in store.list(CHUNKS):
        *_, folder, name = entry.path.split("/")
        if chunk := _NAME.fullmatch(name):
            found.setdefault(folder, {})[chunk["number"]] = entry.path
    for key in committed if found else ():
        found.pop(scene_digest(key), None)
    progress = [
        _progress(list(filter(None, (_read(store, path) for path in each.values()))))
        for each in found.values()
    ]
    return sorted(filter(None, progress), key=lambda each: each.scene)


def _progress(chunks: Sequence[FinishedChunk]) -> SceneProgress | None:
    if not chunks:
        return None
    done = sum(len(chunk.result.scene.noisy) for chunk in chunks)
    return SceneProgress(scene=chunks[0].result.scene.key, done=done, photos=chunks[0].photos)


def _read(store: Store, path: str) -> FinishedChunk | None:
    """A chunk; None where the file is damaged, of another version, or was removed by a run that has taken the folder over."""
    with suppress(FileNotFoundError, ValidationError):
        data = store.read(path)
        if path.endswith(hashlib.sha256(data).hexdigest()[:16]):
            return _CHUNK.validate_json(data)
    return None
