"""How a contract suite works: a check with a sentence, run as a plain test in an event loop of its own."""

import asyncio
import inspect
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, ClassVar, Concatenate, Generic, TypeVar, cast
from unittest import SkipTest

__all__ = ["BrokenPromiseError", "Contract", "Made", "expect", "promise"]

S = TypeVar("S")
P = TypeVar("P")
C = TypeVar("C", bound="Contract[Any]")

Made = P | Awaitable[P] | AbstractAsyncContextManager[P]
"""What `make` may give: the part, an awaitable of it, or an async context manager that also closes it."""


class BrokenPromiseError(AssertionError):
    """A part does not do what its protocol promises."""


class Contract(Generic[S]):
    """A suite of checks; each gets the subject that `make` gives, made for it alone."""

    noun: ClassVar[str] = "part"
    """The protocol, for messages."""
    protocol: ClassVar[type[Any]] = object
    check_s: float = 30.0
    """Seconds after which a check that has not ended has failed."""

    def make(self, *args: Any, **kwargs: Any) -> Any:
        """The part under test."""
        raise NotImplementedError(f"give {type(self).__name__} a method `make` that returns the {self.noun} to test")

    def subject(self) -> AbstractAsyncContextManager[S]:
        """What checks are given: the part that `make` gives, closed at the end."""
        return self.opened(self.make())

    @asynccontextmanager
    async def opened(self, made: Any) -> AsyncGenerator[Any, None]:
        """The part, however it was given."""
        if not isinstance(made, self.protocol):
            if isinstance(made, AbstractAsyncContextManager):
                async with cast("AbstractAsyncContextManager[Any]", made) as part:
                    yield self._checked(part)
                return
            if inspect.isawaitable(made):
                made = await made
        part = self._checked(made)
        try:
            yield part
        finally:
            close: Any = getattr(part, "aclose", None)
            if close is not None:
                await close()

    def _checked(self, part: Any) -> Any:
        if not isinstance(part, self.protocol):
            wanted = [name for name in dir(self.protocol) if not name.startswith("_")]
            lacking = ", ".join(name for name in wanted if not hasattr(part, name))
            raise BrokenPromiseError(f"{type(part).__name__} is no {self.noun}: it lacks {lacking or 'its methods'}")
        return part

    async def _keep(self, text: str, check: Callable[[Any, S], Awaitable[None]]) -> None:
        broken = f"broken promise of {self.noun}: {text}"
        async with self.subject() as subject:
            try:
                async with asyncio.timeout(self.check_s):
                    await check(self, subject)
            except SkipTest:
                raise
            except BrokenPromiseError as error:
                raise BrokenPromiseError(f"{broken}; {error}") from error.__cause__
            except TimeoutError as error:
                raise BrokenPromiseError(f"{broken}; it was not done after {self.check_s:g} s") from error
            except Exception as error:
                raise BrokenPromiseError(f"{broken}; it raised {type(error).__name__}: {error}") from error


def promise(text: str) -> Callable[[Callable[[C, Any], Awaitable[None]]], Callable[[C], None]]:
    """Make a plain test of an async check of a suite.

    Args:
        text: The promise, for the message.
    """

    def made(check: Callable[Concatenate[C, ...], Awaitable[None]]) -> Callable[[C], None]:
        def test(self: C) -> None:
            asyncio.run(self._keep(text, check))  # pyright: ignore[reportPrivateUsage]

        test.__name__, test.__qualname__, test.__doc__ = check.__name__, check.__qualname__, f"Promise: {text}."
        test.__module__ = check.__module__
        return test

    return made


def expect(holds: bool, otherwise: str) -> None:
    """Raise `BrokenPromiseError` with these words unless it holds."""
    if not holds:
        raise BrokenPromiseError(otherwise)
