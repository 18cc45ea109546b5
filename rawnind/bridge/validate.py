"""The check that a result must pass before it is committed."""

from collections.abc import Iterator
from typing import NamedTuple

from rawnind.bridge.messages import Submission
from rawnind.errors import ManifestError
from rawnind.outcomes import problems, whole_scene_result
from rawnind.output.journal.journal import decode_result
from rawnind.output.store import Store
from rawnind.reasons import Reason
from rawnind.recipe import Recipe
from rawnind.records import Scene, SceneResult


class Checked(NamedTuple):
    """A result that may be committed.

    Attributes:
        submission: it.
        result: `validated`; None where its scene had an outcome already.
    """

    submission: Submission
    result: SceneResult | None


def validated(store: Store, scene: Scene, recipe: Recipe, data: bytes) -> SceneResult:
    """A scene's result, or `failed: invalid_result` with up to three problems.

    Args:
        store: the output folder, where the result's shards must be.
        scene: the scene as planned.
        recipe: that the result must have been made with.
        data: the result, from `journal.encode_result`.

    Raises:
        OutputError: The storage refuses.
    """
    try:
        result = decode_result(data)
    except ManifestError as error:
        return whole_scene_result(scene, recipe, Reason.INVALID_RESULT, str(error))
    found = [*problems(result, scene, recipe), *_shard_problems(store, result)]
    return whole_scene_result(scene, recipe, Reason.INVALID_RESULT, "; ".join(found[:3])) if found else result


def _shard_problems(store: Store, result: SceneResult) -> Iterator[str]:
    """Shards that are not what their worker wrote.

    From an object store only the length is asked: all pixels would pass through this one node, which would keep two or three busy.
    """
    shards = [pair.shard for pair in result.pairs if pair.shard]
    if shards:
        store.require_unlinked("shards")  # a shard that a link hides is no verdict on its scene
    for shard in shards:
        if not shard.path.startswith(f"shards/{result.scene.key}/") or ".." in shard.path:
            yield f"shard {shard.path} lies outside the scene's folder"
        elif (size := store.size(shard.path)) is None:
            yield f"shard {shard.path} is missing"
        elif size != shard.size:
            yield f"shard {shard.path} has {size} bytes, its worker wrote {shard.size}"
        elif store.is_local and store.digest(shard.path) != shard.sha256:
            yield f"shard {shard.path} does not have the SHA-256 that its worker computed"
