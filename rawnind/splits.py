"""Which scenes validate, and which cameras are held out: by the hash of a name, so that more scenes change no one's split."""

import hashlib
from collections.abc import Iterable


def validation_scenes(scenes: Iterable[str], share: float = 0.1) -> frozenset[str]:
    """The scenes of the validation split: those whose SHA-256(name) is below `share` * 2^256.

    The split of a scene depends on its name alone, so it does not change when scenes are added. Where every scene would be
    selected, the one with the largest hash is left for training.

    Args:
        scenes: names, without those of the test reserve.
        share: expected fraction of scenes, 0..1.

    >>> sorted(validation_scenes(["kitchen", "fabrics", "7D-2", "plant"], share=0.5))
    ['kitchen']
    """
    ranked = sorted((_fraction(scene), scene) for scene in set(scenes))
    return frozenset(scene for fraction, scene in ranked[:-1] if fraction < share)


def in_validation(scene: str, share: float = 0.1) -> bool:
    """Whether a scene's hash alone selects it for validation, for use while the other scenes are unknown.

    >>> in_validation("kitchen", share=0.5)
    True
    """
    return _fraction(scene) < share


def _fraction(scene: str) -> float:
    return int.from_bytes(hashlib.sha256(scene.encode()).digest()[:8], "big") / 2**64


def held_out_cameras(cameras: Iterable[str], share: float = 0.1) -> frozenset[str]:
    """The cameras that validate where a split is made by camera: the one with the smallest hash, and others below `share`.

    One camera at least is left for training.

    Args:
        cameras: names, at least two.
        share: expected fraction of cameras, 0..1.

    Raises:
        ValueError: There is one camera alone.

    >>> sorted(held_out_cameras(["SONY ILCE-7C", "Canon EOS 500D", "Panasonic DC-G90"]))
    ['SONY ILCE-7C']
    """
    ranked = sorted((_fraction(camera), camera) for camera in set(cameras))
    if len(ranked) < 2:
        raise ValueError("a split by camera needs photos of two cameras")
    return frozenset(camera for fraction, camera in ranked[:-1] if fraction < share) or frozenset(
        [ranked[0][1]]
    )
