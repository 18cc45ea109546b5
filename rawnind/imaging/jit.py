"""`kernel`: numba.njit for loops over pixels, with a disk cache that many workers may share.

numba's own cache is not safe for that. Its index and its machine code are two files, each replaced atomically but not
together: two workers that compile at once, or two kinds of CPU that share a home folder, can leave an index that points to
somebody else's code. And it raises when a cache folder is full, turns read-only, or holds a damaged file. Here each
compiled signature is one file that says what it is; whatever else is found counts as absent, and the kernel is compiled.
"""

import contextlib
import pickle
from collections.abc import Callable, Collection
from hashlib import sha256
from typing import Any, TypeVar, overload

import numba
from numba.core.caching import FunctionCache, IndexDataCacheFile
from numba.core.dispatcher import Dispatcher

Function = TypeVar("Function", bound=Callable[..., Any])


@overload
def kernel(function: Function) -> Function: ...
@overload
def kernel(*, fastmath: Collection[str] = ...) -> Callable[[Function], Function]: ...
def kernel(
    function: Function | None = None, *, fastmath: Collection[str] = ()
) -> Function | Callable[[Function], Function]:
    """Compiles a module-level function at its first call: nopython, one thread, without the GIL, cached on disk.

    Division by zero gives inf or nan, as in NumPy.

    The cache lies in NUMBA_CACHE_DIR, else beside the module in __pycache__, else in the user's cache folder; where none
    can be written, each process compiles for itself. A cached kernel is fresh while its own file is unchanged: kernels
    that call each other belong in one file.

    Args:
        function: what to compile; None when called with options.
        fastmath: numba's fastmath flags, e.g. {"contract"}; only such that leave the result as exact as promised.

    >>> @kernel
    ... def double(x):
    ...     return 2 * x
    >>> double(4)
    8
    """
    if function is None:
        return lambda wrapped: _compiled(wrapped, fastmath)
    return _compiled(function, fastmath)


def _compiled(function: Function, fastmath: Collection[str]) -> Function:
    compiled: Any = numba.njit(nogil=True, error_model="numpy", fastmath=set(fastmath) or False)(function)
    if isinstance(compiled, Dispatcher):  # with NUMBA_DISABLE_JIT it is the function itself
        with contextlib.suppress(RuntimeError, OSError):  # no source file, or no folder that can be written
            compiled._cache = _KernelCache(function)  # type: ignore[attr-defined]  # numba's one place for a cache
    return compiled  # type: ignore[no-any-return]


class _OneFilePerSignature(IndexDataCacheFile):  # type: ignore[misc]
    """Machine code in one file per signature and CPU, sealed with a digest over its key and content.

    A file is replaced as a whole (`_open_for_write` writes beside it and calls os.replace) or not at all.
    """

    def load(self, key: object) -> Any:
        """The compiled result under `key`; None where there is no file, or one that is stale or damaged."""
        try:
            with open(self._path(key), "rb") as file:  # noqa: PTH123 - this layer knows no paths
                seal, content = file.read(32), file.read()
        except OSError:
            return None
        return pickle.loads(content) if seal == self._seal(key, content) else None  # noqa: S301 - sealed by `save`

    def save(self, key: object, data: object) -> None:
        """Keeps `data` under `key` for other processes."""
        content = self._dump(data)
        with self._open_for_write(self._path(key)) as file:
            file.write(self._seal(key, content) + content)

    def _path(self, key: Any) -> str:
        signature, cpu, _ = key
        digest = sha256(repr((self._version, str(signature), cpu)).encode()).hexdigest()[:16]
        return str(self._data_path(self._index_name.removesuffix("nbi") + f"{digest}.nbc"))

    def _seal(self, key: object, content: bytes) -> bytes:
        return sha256(repr((str(key), self._source_stamp)).encode() + content).digest()


class _KernelCache(FunctionCache):  # type: ignore[misc]
    """numba's cache of a function, with `_OneFilePerSignature` files and without errors from the disk."""

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__(function)
        self._cache_file = _OneFilePerSignature(
            cache_path=self._cache_path,
            filename_base=self._impl.filename_base,
            source_stamp=self._impl.locator.get_source_stamp(),
        )

    def save_overload(self, sig: object, data: object) -> None:
        """Saves a compiled signature; a folder that cannot be written any more is no reason to stop."""
        try:
            super().save_overload(sig, data)
        except OSError:
            self.disable()
