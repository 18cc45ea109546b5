"""Memory that a worker frees stays with it, because the next pair needs it again."""

import ctypes

# numbers of mallopt's parameters in glibc's malloc.h
_TRIM_THRESHOLD = -1
_MMAP_MAX = -4
_KEPT = 512 << 20  # bytes; a pair of 24 megapixels frees 430 MB, and what is kept in one piece is seldom more


def keep_freed_memory() -> None:
    """Has malloc keep what this process frees, half a gigabyte in one piece at most, and use it again.

    glibc maps each large array anew and unmaps it when freed, so that the system clears and hands out the same memory for
    every pair. On a virtual machine whose host takes free memory back that is a quarter of a scene's CPU time: eight scenes
    of 16 to 30 megapixels with two pairs each take 16.7 CPU s instead of 21.2, and 985 MB at most instead of 998. In between
    a worker holds what its largest scene needed. Without glibc nothing changes.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except AttributeError:  # another C library
        return
    mallopt(_MMAP_MAX, 0)
    mallopt(_TRIM_THRESHOLD, _KEPT)
