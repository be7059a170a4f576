"""A Ray actor handle that knows the actor's class, so that pyright checks every remote call.

    worker: Actor[RolloutWorker]
    reference = worker.call(RolloutWorker.generate, request_id, token_ids, sampling)

`make check` reports a misspelt method, a missing argument or an argument of another type.
"""

from collections.abc import Callable, Coroutine, Mapping
from typing import Any, Concatenate, Generic, ParamSpec, TypeVar, cast, overload

import ray
from ray import ObjectRef
from ray.actor import ActorHandle

T = TypeVar("T")
P = ParamSpec("P")
R = TypeVar("R")


class Actor(Generic[T]):
    """Handle of an actor whose class is `T`, a plain class without Ray."""

    def __init__(self, handle: ActorHandle) -> None:
        self._handle = handle

    @classmethod
    def create(
        cls, kind: Callable[P, T], options: Mapping[str, object], *args: P.args, **kwargs: P.kwargs
    ) -> "Actor[T]":
        """Starts an actor of class `kind` with Ray's `options`; `args` and `kwargs` go to its constructor."""
        remote: Any = ray.remote(kind)
        return cls(remote.options(**options).remote(*args, **kwargs))

    @overload
    def call(
        self, method: Callable[Concatenate[T, P], Coroutine[Any, Any, R]], *args: P.args, **kwargs: P.kwargs
    ) -> ObjectRef[R]: ...
    @overload
    def call(self, method: Callable[Concatenate[T, P], R], *args: P.args, **kwargs: P.kwargs) -> ObjectRef[R]: ...
    def call(self, method: Callable[..., object], *args: object, **kwargs: object) -> ObjectRef[Any]:
        """Calls `method` of the actor and returns a reference to its result at once."""
        return getattr(self._handle, method.__name__).remote(*args, **kwargs)

    def run(self, function: Callable[[T], R]) -> ObjectRef[R]:
        """Calls `function` with the actor's own object, in the actor's process."""
        return self._handle.__ray_call__.remote(function)

    @property
    def id(self) -> str:
        """Ray's id of the actor, which Ray's errors contain."""
        return self._handle._actor_id.hex()

    def kill(self) -> None:
        """Ends the actor's process at once."""
        ray.kill(self._handle)


def by_reference(argument: ObjectRef[R] | R) -> R:
    """Types an argument of a remote call as its value: Ray replaces a reference by the value."""
    return cast(R, argument)
