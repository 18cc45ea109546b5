"""`kernel`: numba.njit for loops over pixels, with a disk cache that many processes and checkouts may share.

numba's own cache (`cache=True`) has three faults here. Its stamp covers one source file, so that a constant or a kernel that
is changed in another module leaves the old number in the compiled code. Its place depends on the path of the source, so that
every checkout, and every copy that a Ray job makes of the working directory, compiles again. And its index and its machine
code are two files, replaced atomically one by one but not together: two processes that compile at once can leave an index
that points to another signature's code.

Here a file is named by a digest of everything that its machine code depends on, holds one signature, and is replaced as a
whole. A file that is damaged, or names a module that this version does not have, counts as absent. Where no folder can be written, each process compiles for itself.
"""

import contextlib
import os
import pickle
import tempfile
import time
import types
from collections.abc import Callable, Collection, Iterator
from hashlib import sha256
from typing import Any, TypeVar, overload

import llvmlite
import numba
import numpy as np
from numba.core.compiler import CompileResult
from numba.core.dispatcher import Dispatcher

Function = TypeVar("Function", bound=Callable[..., Any])

_MOST_FILES = 1000
"""Files that the folder may hold, some 50 kB each; one version of the package needs about 120."""
_TOUCHED_AFTER = 24 * 3600
"""Seconds after which a file that is used gets a new time, so that the oldest file is the one longest unused."""

_CAN_CACHE = hasattr(Dispatcher, "enable_caching") and {"_reduce", "_rebuild"} <= set(dir(CompileResult))
"""Whether this numba has the private hooks that a cache needs. There are no public ones; without them each process compiles
for itself. tests/imaging/test_jit.py fails then."""


@overload
def kernel(function: Function) -> Function: ...
@overload
def kernel(*, fastmath: Collection[str] = ...) -> Callable[[Function], Function]: ...
def kernel(
    function: Function | None = None, *, fastmath: Collection[str] = ()
) -> Function | Callable[[Function], Function]:
    """Compiles a module-level function at its first call: nopython, one thread, without the GIL, cached on disk.

    Division by zero gives inf or nan, as in NumPy.

    The cache lies in NUMBA_CACHE_DIR, else in XDG_CACHE_HOME/rawnind/kernels, else in ~/.cache/rawnind/kernels. A cached
    kernel is used only where its bytecode, that of every kernel it calls, the value of every global that any of them reads,
    the compiler options, the versions of numba, llvmlite and NumPy, and the CPU are those that it was compiled with.

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


_unfinished = 0
"""Kernels whose compilation has begun and not ended."""


def is_compiling() -> bool:
    """Whether this process compiles a kernel at this moment; any thread may ask."""
    return _unfinished > 0


def _compiled(function: Function, fastmath: Collection[str]) -> Function:
    compiled: Any = numba.njit(nogil=True, error_model="numpy", fastmath=set(fastmath) or False)(function)
    if isinstance(compiled, Dispatcher) and _CAN_CACHE:  # with NUMBA_DISABLE_JIT it is the function itself
        compiled._cache = _KernelCache(compiled)  # type: ignore[attr-defined]
    return compiled  # type: ignore[no-any-return]


class _KernelCache:
    """The cache of one dispatcher: a file per signature and CPU, sealed with a digest of its content."""

    def __init__(self, dispatcher: Dispatcher) -> None:
        self._dispatcher = dispatcher
        self._stamp = ""
        self._enabled = True

    @property
    def cache_path(self) -> str:
        """The folder."""
        return _folder()

    def load_overload(self, sig: object, target_context: Any) -> Any:
        """The compiled result for a signature; None where there is no file, or none that can be used: numba then compiles it."""
        target_context.refresh()
        found = self._load(sig, target_context) if self._enabled else None
        if found is None:
            global _unfinished  # noqa: PLW0603 - numba holds its compiler lock
            _unfinished += 1
        return found

    def _load(self, sig: object, target_context: Any) -> Any:
        path = self._path(sig, target_context.codegen())
        try:
            with open(path, "rb") as file:  # noqa: PTH123 - this layer has no paths
                seal, content = file.read(32), file.read()
            if time.time() - os.stat(path).st_mtime > _TOUCHED_AFTER:  # noqa: PTH116
                os.utime(path)
        except OSError:
            return None
        if seal != sha256(content).digest():
            return None
        try:
            saved = pickle.loads(content)  # noqa: S301 - sealed by `save_overload`
        except (
            ImportError,
            AttributeError,
        ):  # a module or class that it names has another name in this version
            return None
        return CompileResult._rebuild(target_context, *saved)

    def save_overload(self, sig: object, data: Any) -> None:
        """Saves what numba has compiled; a folder that cannot be written is no reason to stop."""
        global _unfinished  # noqa: PLW0603 - numba holds its compiler lock
        _unfinished -= 1
        if not self._enabled or data.library.has_dynamic_globals:
            return
        content = numba.core.serialize.dumps(data._reduce())
        with contextlib.suppress(OSError):
            _replace(self._path(sig, data.codegen), sha256(content).digest() + content)

    def _path(self, sig: object, codegen: Any) -> str:
        self._stamp = self._stamp or _stamp(self._dispatcher)
        key = repr((self._stamp, str(sig), codegen.magic_tuple()))
        name = f"{self._dispatcher.py_func.__name__}-{sha256(key.encode()).hexdigest()[:32]}.nbc"
        return os.path.join(_folder(), name)  # noqa: PTH118

    def enable(self) -> None:
        """Turns the cache on."""
        self._enabled = True

    def disable(self) -> None:
        """Turns the cache off."""
        self._enabled = False

    def flush(self) -> None:
        """Does nothing: what is stale is never read, and the oldest files are removed when others are saved."""


def _folder() -> str:
    if numba.config.CACHE_DIR:
        return str(numba.config.CACHE_DIR)
    base = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")  # noqa: PTH111, PTH118
    return os.path.join(base, "rawnind", "kernels")  # noqa: PTH118


def _replace(path: str, content: bytes) -> None:
    """Writes a file beside its place and moves it there; keeps the folder at `_MOST_FILES`."""
    folder = os.path.dirname(path)  # noqa: PTH120
    os.makedirs(folder, mode=0o700, exist_ok=True)  # noqa: PTH103 - what lies here is executed
    with tempfile.NamedTemporaryFile(dir=folder, suffix=".tmp", delete=False) as file:
        try:
            file.write(content)
            file.close()
            os.replace(file.name, path)  # noqa: PTH105
        except OSError:
            os.unlink(file.name)  # noqa: PTH108
            raise
    with os.scandir(folder) as entries:
        files = [entry for entry in entries if entry.name.endswith((".nbc", ".tmp"))]
    if len(files) > _MOST_FILES:
        for entry in sorted(files, key=lambda entry: entry.stat().st_mtime)[: len(files) - _MOST_FILES]:
            os.unlink(entry.path)  # noqa: PTH108


def _stamp(dispatcher: Dispatcher) -> str:
    """Digest of a kernel, of all that it calls and reads, and of the compiler.

    Raises:
        TypeError: A kernel reads a global whose value does not say what compiled code makes of it.
    """
    versions = numba.__version__, llvmlite.__version__, np.__version__
    return sha256(repr((versions, *_described(dispatcher, set()))).encode()).hexdigest()


def _described(dispatcher: Dispatcher, seen: set[int]) -> Iterator[object]:
    """Everything that a kernel's machine code depends on, kernels that it calls included, each once."""
    if id(dispatcher) in seen:
        yield dispatcher.py_func.__qualname__
        return
    seen.add(id(dispatcher))
    function = dispatcher.py_func
    for option, value in sorted(dispatcher.targetoptions.items()):
        yield option, _ordered(value)
    for code in _codes(function.__code__):
        constants = [_ordered(part) for part in code.co_consts if not isinstance(part, types.CodeType)]
        yield code.co_code, constants, code.co_names, code.co_varnames
        for name in code.co_names:
            if name in function.__globals__:
                yield name
                yield from _value(function.__globals__[name], f"{function.__qualname__}: {name}", seen)


def _ordered(value: object) -> object:
    """A set as a sorted list: the order of a set of strings differs from process to process."""
    return sorted(value, key=repr) if isinstance(value, set | frozenset) else value


def _codes(code: types.CodeType) -> Iterator[types.CodeType]:
    yield code
    for part in code.co_consts:
        if isinstance(part, types.CodeType):
            yield from _codes(part)


def _value(value: Any, name: str, seen: set[int]) -> Iterator[object]:
    """What identifies the value of a global."""
    if isinstance(value, Dispatcher):
        yield from _described(value, seen)
    elif isinstance(value, np.ndarray):
        yield value.dtype.str, value.shape, value.tobytes()
    elif isinstance(value, tuple):
        for part in value:
            yield from _value(part, name, seen)
    elif isinstance(value, bool | int | float | complex | str | bytes | np.generic | np.dtype | None):
        yield type(value).__name__, repr(value)
    elif isinstance(value, type) or (isinstance(value, types.ModuleType) and value in {np, numba}):
        yield value.__name__, getattr(value, "_fields", None)
    else:
        raise TypeError(
            f"{name} is a {type(value).__name__}: a kernel may read numbers, arrays, tuples and kernels"
        )
