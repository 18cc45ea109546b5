"""Reads files over HTTP: ranges, redirects, limits and time-outs.

requests with urllib3, which Ray needs too: for files of 5 MB they cost half the CPU time of httpx, as much as curl (see
benchmarks/bench_fetch.py). Proxies and certificates are those of the environment (HTTPS_PROXY, NO_PROXY, REQUESTS_CA_BUNDLE).
"""

import contextlib
import email.utils
import os
import random
import re
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeVar
from urllib.parse import urljoin, urlsplit

import requests
import urllib3

from rawnind.errors import DownloadError, printable, redacted

TOKEN = "DATAVERSE_API_TOKEN"  # noqa: S105 - the name of the variable
"""Environment variable with the API token of a Dataverse server, for files that are not public."""

BLOCK = 1 << 18
"""Most bytes that are read at once."""

_REDIRECTS = 10
_WATCHED, _SLOWEST = 30.0, 1024.0
"""A connection that gives fewer bytes per second over so many seconds is given up."""

_LONGEST_WAIT = 600.0
"""Seconds; a server that asks for more is left alone."""

_SILENCE = 2.0
"""Seconds without an answer, after which people are told whom is waited for."""

_NO_SUCH_HOST = {socket.EAI_NONAME, socket.EAI_NODATA, socket.EAI_FAIL}

_Result = TypeVar("_Result")

_LENGTH = re.compile(r"[0-9]{1,18}")
_RANGE = re.compile(rf"bytes (?:({_LENGTH.pattern})-{_LENGTH.pattern}|\*)/({_LENGTH.pattern}|\*)")


@dataclass(frozen=True, kw_only=True, slots=True)
class Patience:
    """How long a client waits, and how often it tries.

    Attributes:
        attempts: in a row without a new byte.
        delay: seconds before the second attempt, at most; doubled for each further one.
        longest: seconds between two attempts, at most.
        connect: seconds until a connection stands.
        read: seconds without a byte.
    """

    attempts: int = 6
    delay: float = 1.0
    longest: float = 60.0
    connect: float = 20.0
    read: float = 60.0

    def pause(self, fruitless: int, asked: float) -> float:
        """Seconds until the next attempt: exponential, with jitter, and at least what the server asked for.

        Args:
            fruitless: attempts without a new byte.
            asked: by the server, in seconds.
        """
        most = min(self.longest, self.delay * 2 ** max(0, fruitless - 1))
        return asked + random.uniform(most / 2, most)  # noqa: S311 - only spreads requests


def retrying(error: DownloadError, pause: float) -> str:
    """A line for people who wait for the next attempt.

    >>> retrying(DownloadError("server_error", "https://example.org/a: status 503"), 1.6)
    'https://example.org/a: status 503; trying again in 1.6 s'
    """
    return f"{error.detail}; trying again in {pause:.1f} s"


@dataclass(frozen=True, kw_only=True, slots=True)
class Response:
    """What a server sends.

    Attributes:
        start: position of its first byte in the file.
        total: length of the whole file; None where the server does not say.
        blocks: the bytes.
    """

    start: int
    total: int | None
    blocks: Iterator[bytes]


class HttpClient:
    """Reads from servers; may be used by several threads.

    Args:
        patience: how long it waits.
        told: receives a line for people when a list is not read at once; downloads of files report in their own way.
    """

    def __init__(
        self, patience: Patience | None = None, told: Callable[[str], None] = lambda _: None
    ) -> None:
        self.patience = patience or Patience()
        self._told = told
        self._token = os.environ.get(TOKEN, "")
        self._local = threading.local()
        self._lock = threading.Lock()
        self._open: set[urllib3.BaseHTTPResponse] = set()

    @contextlib.contextmanager
    def open(self, url: str, *, start: int = 0) -> Iterator[Response]:
        """Asks for a file from a position on.

        Args:
            url: where it is.
            start: bytes that are there already; the server may begin at 0 all the same.

        Raises:
            DownloadError: The server refuses, breaks off, or cannot be reached; also while blocks are read.
        """
        with self._errors(url), self._followed(url, start) as answer:
            _check_status(answer, url)
            begin, total = _extent(answer, url)
            with self._lock:
                self._open.add(answer.raw)
            try:
                yield Response(start=begin, total=total, blocks=_blocks(answer.raw, url))
            finally:
                with self._lock:
                    self._open.discard(answer.raw)

    def abort(self) -> None:
        """Ends all responses that other threads read: they see them break off."""
        with self._lock:
            for raw in self._open:
                # RuntimeError: its last byte has been read, and its connection is free for the next request.
                with contextlib.suppress(OSError, ValueError, RuntimeError, urllib3.exceptions.HTTPError):
                    raw.shutdown()

    def read(self, url: str, most: int) -> bytes:
        """A whole small file, in one attempt.

        Args:
            url: where it is.
            most: bytes that are read at most.

        Raises:
            DownloadError: It is longer, or cannot be had.
        """
        data = bytearray()
        with self._telling(url), self.open(url) as response:
            for block in response.blocks:
                data += block
                if len(data) > most:
                    raise DownloadError("too_long", f"{_named(url)} has more than {most} bytes", final=True)
            if response.total is not None and len(data) < response.total:
                raise DownloadError("cut", f"{_named(url)} broke off")
        return bytes(data)

    @contextlib.contextmanager
    def _telling(self, url: str) -> Iterator[None]:
        """Says whom it waits for, where that takes long."""
        timer = threading.Timer(_SILENCE, self._told, [f"waiting for {_named(url)}"])
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()

    def persist(self, attempt: Callable[[], _Result]) -> _Result:
        """The result of an attempt that may be repeated.

        Raises:
            DownloadError: The last attempt's.
        """
        for fruitless in range(1, self.patience.attempts + 1):
            try:
                return attempt()
            except DownloadError as error:
                if error.final or fruitless == self.patience.attempts:
                    raise
                pause = self.patience.pause(fruitless, error.wait)
                self._told(retrying(error, pause))
                time.sleep(pause)
        raise AssertionError

    def location(self, url: str) -> str:
        """Where a server sends those who ask for an address.

        Raises:
            DownloadError: It does not, or not to a web page.
        """
        with self._errors(url), self._request(url, {}) as answer:
            _check_status(answer, url, redirects=True)
            return _target(answer, url) if answer.is_redirect else url

    @contextlib.contextmanager
    def _followed(self, url: str, start: int) -> Iterator[requests.Response]:
        """The answer behind redirects. The token is sent to the first server alone."""
        headers = {"Range": f"bytes={start}-"} if start else {}
        origin, place = _origin(url), url
        for _ in range(_REDIRECTS):
            token = {"X-Dataverse-key": self._token} if self._token and _origin(place) == origin else {}
            with self._request(place, headers | token) as answer:
                if not answer.is_redirect:
                    yield answer
                    return
                place = _target(answer, place)
        raise DownloadError("redirects", f"{_named(url)} redirects more than {_REDIRECTS} times", final=True)

    def _request(self, url: str, headers: dict[str, str]) -> requests.Response:
        session: requests.Session | None = getattr(self._local, "session", None)
        if session is None:
            session = self._local.session = _Session()
        timeout = self.patience.connect, self.patience.read
        sent = {"Accept-Encoding": "identity", "User-Agent": "rawnind"} | headers
        return session.get(url, headers=sent, stream=True, allow_redirects=False, timeout=timeout)

    @contextlib.contextmanager
    def _errors(self, url: str) -> Iterator[None]:
        try:
            yield
        except (
            requests.exceptions.InvalidURL,
            requests.exceptions.InvalidSchema,
            requests.exceptions.MissingSchema,
            urllib3.exceptions.LocationParseError,
        ) as error:
            raise DownloadError(
                "bad_address", f"{_named(url)} is not an address of a web server", final=True
            ) from error
        except (requests.Timeout, urllib3.exceptions.TimeoutError) as error:
            raise DownloadError("timeout", f"{_named(url)} did not answer in time") from error
        except (requests.RequestException, urllib3.exceptions.HTTPError, ConnectionError) as error:
            raise _unreachable(url, error) from error


_BROKEN_OFF = dict.fromkeys(("IncompleteRead", "RemoteDisconnected"), "the connection broke off")


def _unreachable(url: str, error: BaseException) -> DownloadError:
    """What keeps a server from being reached, and whether another attempt may change that."""
    causes = list(_causes(error))
    through = " through the proxy" if isinstance(error, requests.exceptions.ProxyError) else ""
    for cause in causes:
        if isinstance(cause, socket.gaierror) and cause.errno in _NO_SUCH_HOST:
            why = f"{through}: there is no server of this name; check its spelling and the network"
            return DownloadError("unreachable", f"{_named(url)}{why}", final=True)
        if isinstance(cause, ssl.SSLCertVerificationError):
            why = f": its certificate is not trusted ({printable(cause.verify_message)}); REQUESTS_CA_BUNDLE names a file of certificates"
            return DownloadError("unreachable", f"{_named(url)}{why}", final=True)
        if isinstance(cause, ssl.SSLError):
            ended = isinstance(cause, ssl.SSLEOFError | ssl.SSLZeroReturnError)
            why = f": no encrypted connection ({printable(cause.reason or 'it ended')})"
            return DownloadError("unreachable", f"{_named(url)}{why}", final=not ended)
    name = type(causes[-1]).__name__
    why = getattr(causes[-1], "strerror", None) or _BROKEN_OFF.get(name, name)
    return DownloadError("unreachable", f"{_named(url)}{through}: {printable(why)}")


def _causes(error: BaseException) -> Iterator[BaseException]:
    """An error and what led to it; the outer ones repeat the address with its query."""
    cause: BaseException | None = error
    while cause:
        yield cause
        cause = cause.__cause__ or cause.__context__


class _Session(requests.Session):
    """Leaves redirects to `HttpClient`: requests reads their bodies, however long, even where it does not follow them."""

    def get_redirect_target(self, resp: requests.Response) -> None:
        """Says that there is none."""


def _origin(url: str) -> tuple[str, str]:
    parts = urlsplit(url)
    return parts.scheme, parts.netloc


def _target(answer: requests.Response, url: str) -> str:
    try:
        target = urljoin(url, answer.headers.get("Location", ""))
    except ValueError:  # half of an IPv6 address
        raise DownloadError("unsafe_redirect", f"{_named(url)} redirects to no address", final=True) from None
    if urlsplit(target).scheme not in {"http", "https"}:
        raise DownloadError(
            "unsafe_redirect",
            f"{_named(url)} redirects to {_named(target)}, which is no web address",
            final=True,
        )
    return target


def _check_status(answer: requests.Response, url: str, *, redirects: bool = False) -> None:
    status = answer.status_code
    if status in {200, 206} or (redirects and answer.is_redirect):
        return
    if status in {401, 403}:
        detail = f"{_named(url)}: access is refused (status {status}); a token is taken from {TOKEN}"
        raise DownloadError("forbidden", detail, final=True)
    if status in {404, 410}:
        raise DownloadError("not_found", f"{_named(url)} does not exist (status {status})", final=True)
    if status == 416:
        raise DownloadError("no_range", f"{_named(url)} does not have the range that was asked for")
    wait = _retry_after(answer.headers.get("Retry-After", ""))
    again = status in {408, 425, 429} or status >= 500
    asked = f", asks to wait {wait:.0f} s" if wait else ""
    raise DownloadError("server_error", f"{_named(url)}: status {status}{asked}", final=not again or wait > _LONGEST_WAIT, wait=wait)  # fmt: skip


def _retry_after(text: str) -> float:
    """Seconds, of a header that has seconds or a date."""
    if text.strip().isdecimal():
        return float(text[:12])
    try:
        return max(0.0, email.utils.parsedate_to_datetime(text).timestamp() - time.time())
    except (ValueError, OverflowError):
        return 0.0


def _extent(answer: requests.Response, url: str) -> tuple[int, int | None]:
    """Position of the first byte, and the length of the whole file."""
    length = answer.headers.get("Content-Length", "")
    if answer.status_code == 200:
        return 0, int(length) if _LENGTH.fullmatch(length) else None
    match = _RANGE.fullmatch(answer.headers.get("Content-Range", ""))
    if match is None or match[1] is None:
        raise DownloadError("bad_range", f"{_named(url)} sends a range without saying which", final=True)
    return int(match[1]), None if match[2] == "*" else int(match[2])


def _blocks(raw: urllib3.BaseHTTPResponse, url: str) -> Iterator[bytes]:
    began, received = time.monotonic(), 0
    while block := raw.read1(BLOCK, decode_content=False):
        yield block
        received += len(block)
        seconds = time.monotonic() - began
        if seconds > _WATCHED:
            if received < seconds * _SLOWEST:
                raise DownloadError(
                    "stalled", f"{_named(url)} sends less than {_SLOWEST:.0f} bytes per second"
                )
            began, received = time.monotonic(), 0


def _named(url: str) -> str:
    """An address for messages: without what may be secret in it."""
    parts = urlsplit(url)
    return printable(redacted(parts._replace(query="", fragment="").geturl()))
