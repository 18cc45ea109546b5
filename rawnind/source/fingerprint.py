"""Whether a scene's photos are still the files that it was made from, without reading those that were not touched."""

import hashlib
import json

from rawnind.reasons import Reason
from rawnind.records import ImageRef, Scene, SceneResult, SeenFiles
from rawnind.source.storage import open_photo, photo_stat


def fingerprint(scene: Scene) -> bytes:
    """Sixteen bytes that change when one of the scene's files appears, goes, or changes its size or its time."""
    return fingerprint_of(seen_files(scene))


def seen_files(scene: Scene) -> SeenFiles:
    """What a fingerprint is made from."""
    return tuple(_stat(ref) for ref in _photos(scene))


def fingerprint_of(seen: SeenFiles) -> bytes:
    """The fingerprint of a scene, from its `seen_files`."""
    return hashlib.sha256(json.dumps(seen).encode()).digest()[:16]


def is_unchanged(scene: Scene, result: SceneResult) -> bool:
    """Whether the photos still are the files of a committed result; reads them all.

    Used where fingerprints differ: a copied data set has new modification times and the same bytes.
    """
    failed = {(file.photo.sha1, file.photo.ground_truth): file.reason for file in result.failed_files}
    return all(_same_bytes(ref, failed.get((ref.sha1, ref.ground_truth))) for ref in _photos(scene))


def _same_bytes(ref: ImageRef, reason: Reason | None) -> bool:
    sha1 = _sha1(ref)
    if reason is Reason.MISSING_FILE:
        return sha1 is None
    if reason is Reason.SHA1_MISMATCH:
        return sha1 is not None and sha1 != ref.sha1
    return reason not in _MAY_BE_REPAIRED and sha1 == ref.sha1


_MAY_BE_REPAIRED = (Reason.TRUNCATED, Reason.UNREADABLE)


def _photos(scene: Scene) -> tuple[ImageRef, ...]:
    return scene.ground_truths + scene.noisy


def _stat(ref: ImageRef) -> tuple[str, int, int] | tuple[str]:
    try:
        found = photo_stat(ref.path)
    except OSError:
        return (ref.sha1,)
    return (ref.sha1, *found) if found else (ref.sha1,)


def _sha1(ref: ImageRef) -> str | None:
    try:
        with open_photo(ref.path) as file:
            return hashlib.file_digest(file, "sha1").hexdigest()
    except OSError:
        return None
