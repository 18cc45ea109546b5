"""The plan of a run: which scenes it processes, and which it leaves out for which reason."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from rawnind.outcomes import planned_pairs, whole_scene_result
from rawnind.reasons import Reason
from rawnind.recipe import Recipe
from rawnind.records import Cfa, Scene, SceneResult


@dataclass(frozen=True, kw_only=True, slots=True)
class SceneFilter:
    """Which scenes of a source a run processes; not part of the recipe.

    Attributes:
        cfa: only scenes with this CFA; None: all.
        exclude_test_reserve: leave out the scenes that are reserved for testing.
        limit: only the first scenes of the others, in sorted order; None: all.
    """

    cfa: Cfa | None = None
    exclude_test_reserve: bool = False
    limit: int | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """Every scene of a source, sorted by (name, CFA), and the reasons of those that are left out.

    Attributes:
        recipe: the recipe of all scenes.
        scenes: all scenes, including those that are left out.
        left_out: key of a scene -> the reason why it is left out.
    """

    recipe: Recipe
    scenes: tuple[Scene, ...]
    left_out: dict[str, Reason]

    @property
    def selected(self) -> tuple[Scene, ...]:
        """The scenes to process."""
        return tuple(scene for scene in self.scenes if scene.key not in self.left_out)

    @property
    def pair_count(self) -> int:
        """Number of planned pairs of all scenes."""
        return sum(len(planned_pairs(scene, self.recipe.pairing)) for scene in self.scenes)

    def filtered(self, scene: Scene) -> SceneResult:
        """The result of a scene that is left out."""
        return whole_scene_result(scene, self.recipe, self.left_out[scene.key])


def make_plan(scenes: Sequence[Scene], selection: SceneFilter, recipe: Recipe) -> Plan:
    """Applies a filter to the scenes of a source.

    Args:
        scenes: all scenes of the source.
        selection: which scenes to process.
        recipe: the recipe of the run.

    Raises:
        ValueError: Two scenes have the same key.
    """
    ordered = tuple(sorted(scenes, key=lambda scene: (scene.name, scene.cfa)))
    twice = [key for key, count in Counter(scene.key for scene in ordered).items() if count > 1]
    if twice:
        raise ValueError(f"scenes are listed twice: {', '.join(twice)}")
    left_out: dict[str, Reason] = {}
    taken = 0
    for scene in ordered:
        if reason := _reason_to_leave_out(scene, selection, taken):
            left_out[scene.key] = reason
        else:
            taken += 1
    return Plan(recipe=recipe, scenes=ordered, left_out=left_out)


def _reason_to_leave_out(scene: Scene, selection: SceneFilter, taken: int) -> Reason | None:
    if selection.cfa and scene.cfa is not selection.cfa:
        return Reason.CFA_FILTER
    if selection.exclude_test_reserve and scene.test_reserve:
        return Reason.TEST_RESERVE
    if selection.limit is not None and taken >= selection.limit:
        return Reason.SCENE_FILTER
    return None
