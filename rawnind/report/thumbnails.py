"""Pictures as data URIs within a budget of bytes, so that a page of 307 scenes stays below 5 MB."""

import base64
from dataclasses import dataclass

import cv2
import numpy as np

from rawnind.report.pixels import Rgb

TOTAL = 2_600_000
"""Bytes of all pictures of a page; base64 makes 3.5 MB of them."""
SMALLEST = 900
"""Bytes of a picture in which a person still recognises a scene."""
LARGEST = 60_000

_QUALITIES = (75, 45, 25)
_NARROWEST = 48  # pixels


@dataclass(frozen=True, kw_only=True, slots=True)
class Thumbnails:
    """How large the pictures of a page may be.

    Attributes:
        each: bytes of a picture.
        width: of a picture in pixels.
    """

    each: int
    width: int

    @classmethod
    def for_count(cls, count: int) -> "Thumbnails":
        """So that this many pictures fit in a page.

        >>> Thumbnails.for_count(100)
        Thumbnails(each=26000, width=456)
        >>> Thumbnails.for_count(1500)
        Thumbnails(each=1733, width=117)
        """
        each = min(max(TOTAL // max(count, 1), SMALLEST), LARGEST)
        return cls(
            each=each, width=min(int((each * 8) ** 0.5), 512)
        )  # an eighth of a byte per pixel is a fair WebP

    def uri(self, picture: Rgb) -> str:
        """A picture as a WebP data URI that fits: of lower quality and then smaller where it has much noise."""
        small = _narrowed(picture, self.width)
        while True:
            for quality in _QUALITIES:
                data = cv2.imencode(".webp", small[..., ::-1], [cv2.IMWRITE_WEBP_QUALITY, quality])[
                    1
                ].tobytes()
                if len(data) <= self.each:
                    return _uri(data)
            if small.shape[1] <= _NARROWEST:
                return _uri(data)
            share = max((self.each / len(data)) ** 0.5, 0.5)
            small = _narrowed(small, max(int(small.shape[1] * share * 0.95), _NARROWEST))


def _uri(data: bytes) -> str:
    return f"data:image/webp;base64,{base64.b64encode(data).decode('ascii')}"


def _narrowed(picture: Rgb, width: int) -> Rgb:
    height, wide = picture.shape[:2]
    if wide <= width:
        return np.ascontiguousarray(picture)
    size = (width, max(round(height * width / wide), 1))
    return np.asarray(cv2.resize(picture, size, interpolation=cv2.INTER_AREA), np.uint8)
