"""Outcomes of scenes and pairs, and the reasons for them."""

from enum import StrEnum


class Outcome(StrEnum):
    """The one fate that every planned scene and pair has at the end of a run."""

    COLLECTED = "collected"
    FILTERED = "filtered"
    REJECTED = "rejected"
    FAILED = "failed"


class Reason(StrEnum):
    """Why something was not collected. `outcome` and `sentence` explain it."""

    TEST_RESERVE = "test_reserve"
    CFA_FILTER = "cfa_filter"
    SCENE_FILTER = "scene_filter"

    NO_GROUND_TRUTH = "no_ground_truth"
    NO_NOISY = "no_noisy"
    ALIGNMENT_UNCERTAIN = "alignment_uncertain"
    ALIGNMENT_LOSS = "alignment_loss"
    MISALIGNED = "misaligned"
    EXPOSURE = "exposure"
    MASK_MEAN = "mask_mean"
    CFA_MISMATCH = "cfa_mismatch"
    SIZE_MISMATCH = "size_mismatch"
    TOO_SMALL = "too_small"
    NO_VALID_CROP = "no_valid_crop"
    NO_COLOR_MATRIX = "no_color_matrix"
    CAMERA_MISMATCH = "camera_mismatch"
    COLOR_MISMATCH = "colour_mismatch"
    ROLES_SWAPPED = "roles_swapped"
    LIGHT_MISMATCH = "light_mismatch"
    LEVEL_MISMATCH = "level_mismatch"

    MISSING_FILE = "missing_file"
    SHA1_MISMATCH = "sha1_mismatch"
    TRUNCATED = "truncated"
    UNREADABLE = "unreadable"
    ALL_ZERO = "all_zero"
    INCOMPLETE = "incomplete"
    UNSUPPORTED_CFA = "unsupported_cfa"
    UNSUPPORTED_LEVELS = "unsupported_levels"
    WORKER_DIED = "worker_died"
    TIMEOUT = "timeout"
    TOO_LARGE = "too_large"
    INVALID_RESULT = "invalid_result"

    @property
    def outcome(self) -> Outcome:
        """The outcome that this reason explains.

        >>> Reason.TRUNCATED.outcome
        <Outcome.FAILED: 'failed'>
        """
        return _REASONS[self][0]

    @property
    def sentence(self) -> str:
        """What happened, for people."""
        return _REASONS[self][1]


_REASONS = {
    Reason.TEST_RESERVE: (Outcome.FILTERED, "The scene is reserved for testing."),
    Reason.CFA_FILTER: (Outcome.FILTERED, "Another colour filter array was asked for."),
    Reason.SCENE_FILTER: (Outcome.FILTERED, "The scene is beyond --limit."),
    Reason.NO_GROUND_TRUTH: (Outcome.REJECTED, "The scene has no ground-truth photo that can be used."),
    Reason.NO_NOISY: (Outcome.REJECTED, "The scene has no noisy photo that can be used."),
    Reason.ALIGNMENT_UNCERTAIN: (
        Outcome.REJECTED,
        "No shift fits for sure: the photos show different scenes, or one that repeats.",
    ),
    Reason.ALIGNMENT_LOSS: (Outcome.REJECTED, "The aligned photos differ too much."),
    Reason.MISALIGNED: (
        Outcome.REJECTED,
        "No smooth warp brings the ground truth to where the noisy photo stood.",
    ),
    Reason.EXPOSURE: (
        Outcome.REJECTED,
        "Too much of a photo is over- or underexposed, or all of it is too dark beside its noise.",
    ),
    Reason.MASK_MEAN: (Outcome.REJECTED, "Too little of the pair is valid."),
    Reason.CFA_MISMATCH: (Outcome.REJECTED, "The photos have different colour filter arrays."),
    Reason.SIZE_MISMATCH: (Outcome.REJECTED, "The photos have different sizes."),
    Reason.TOO_SMALL: (Outcome.REJECTED, "What both photos show is smaller than a crop."),
    Reason.NO_VALID_CROP: (Outcome.REJECTED, "No crop has enough valid pixels."),
    Reason.NO_COLOR_MATRIX: (Outcome.REJECTED, "The camera's colour matrix is unknown."),
    Reason.CAMERA_MISMATCH: (Outcome.REJECTED, "The photos are of different cameras."),
    Reason.COLOR_MISMATCH: (
        Outcome.REJECTED,
        "The photos differ in colour: light, camera or black level changed.",
    ),
    Reason.ROLES_SWAPPED: (Outcome.REJECTED, "The ground truth is noisier than the noisy photo."),
    Reason.LIGHT_MISMATCH: (Outcome.REJECTED, "The light differs between parts of the frame."),
    Reason.LEVEL_MISMATCH: (Outcome.REJECTED, "The photos' black levels or responses differ."),
    Reason.MISSING_FILE: (Outcome.FAILED, "The file is not there."),
    Reason.SHA1_MISMATCH: (Outcome.FAILED, "The file's bytes do not match its SHA-1."),
    Reason.TRUNCATED: (Outcome.FAILED, "The file ends too early."),
    Reason.UNREADABLE: (Outcome.FAILED, "The file could not be read as a RAW photo."),
    Reason.ALL_ZERO: (Outcome.FAILED, "The photo holds almost nothing but zeros."),
    Reason.INCOMPLETE: (Outcome.FAILED, "The file does not hold all of the photo's pixels."),
    Reason.UNSUPPORTED_CFA: (
        Outcome.FAILED,
        "The sensor's pattern is neither Bayer nor X-Trans in red, green and blue.",
    ),
    Reason.UNSUPPORTED_LEVELS: (
        Outcome.FAILED,
        "The photo's black levels or its number format cannot be kept as they are.",
    ),
    Reason.WORKER_DIED: (
        Outcome.FAILED,
        "Decoding the file, or processing the scene, kills its process every time.",
    ),
    Reason.TIMEOUT: (Outcome.FAILED, "The scene took longer than --scene-timeout."),
    Reason.TOO_LARGE: (Outcome.FAILED, "The scene needs more memory than its worker can have."),
    Reason.INVALID_RESULT: (Outcome.FAILED, "The worker's answer did not pass the bridge's checks."),
}
