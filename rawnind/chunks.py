"""Chunks of a scene: a large one is processed by several workers, each of which takes some of its noisy photos at a time.

What the chunks of a scene make together is the result that one worker makes of the whole scene.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from rawnind.outcomes import scene_result
from rawnind.reasons import Outcome
from rawnind.recipe import Recipe
from rawnind.records import Scene, SceneResult

_MOST_UNDIVIDED = 24
"""Noisy photos of a scene that one worker processes in one go. RawNIND's largest scene has 15."""

_LEAST = 8
"""Noisy photos of a chunk: each chunk may decode the scene's ground truths anew, which for two takes as long as a pair."""

_MOST_CHUNKS = 64
"""Chunks of a scene: each is a row that names all photos of the scene."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Chunk:
    """What a worker takes of a scene at a time: all of it, or some of its noisy photos.

    Attributes:
        scene: the whole scene.
        number: of the chunk, from 0.
        count: chunks that the scene is divided into; 1: it is not.
    """

    scene: Scene
    number: int = 0
    count: int = 1

    @property
    def name(self) -> str:
        """What identifies the chunk in a run; of an undivided scene it is the scene's key.

        >>> from rawnind.records import Cfa
        >>> scene = Scene(name="cat", cfa=Cfa.BAYER, test_reserve=False, unknown_sensor=False, ground_truths=(), noisy=())
        >>> Chunk(scene=scene).name, Chunk(scene=scene, number=2, count=19).name
        ('bayer/cat', 'bayer/cat [3 of 19]')
        """
        return self.scene.key if self.count == 1 else f"{self.scene.key} [{self.number + 1} of {self.count}]"

    @property
    def part(self) -> Scene:
        """The scene with the chunk's noisy photos alone."""
        noisy = self.scene.noisy
        first, end = (len(noisy) * number // self.count for number in (self.number, self.number + 1))
        return replace(self.scene, noisy=noisy[first:end])


def scene_key(name: str) -> str:
    """The key of the scene that a chunk of that name belongs to.

    >>> scene_key("bayer/cat [3 of 19]"), scene_key("bayer/cat")
    ('bayer/cat', 'bayer/cat')
    """
    return name.partition(" [")[0]


def chunks_of(scene: Scene) -> list[Chunk]:
    """What workers take of a scene at a time, in order; all of it unless it is large.

    Chunks are of almost the same size, `_LEAST` noisy photos or a few more.
    """
    photos = len(scene.noisy)
    count = 1 if photos <= _MOST_UNDIVIDED else min(photos // _LEAST, _MOST_CHUNKS)
    return [Chunk(scene=scene, number=number, count=count) for number in range(count)]


def merged(scene: Scene, recipe: Recipe, results: Sequence[SceneResult]) -> SceneResult:
    """The result of a scene from those of its chunks; a ground truth that could not be used is listed once.

    Args:
        scene: as planned.
        recipe: what it was processed with.
        results: of all its chunks, in order.
    """
    failed = {file.photo: file for result in reversed(results) for file in result.failed_files}
    pairs = [pair for result in results for pair in result.pairs]
    return scene_result(scene, recipe, pairs, list(failed.values()))


def is_given_up(result: SceneResult) -> bool:
    """Whether a result says of a scene as a whole that it failed, without a file as the cause."""
    return result.outcome is Outcome.FAILED and not result.failed_files
