"""The routers of a project by name, with its settings, and nothing else of a mesh: no memory, no state folder."""

from collections.abc import Iterator, Mapping
from typing import Any, Self

from agentmesh.errors import ConfigError
from agentmesh.models import open_embedder, open_model
from agentmesh.models.base import ChatModel, Embedder
from agentmesh.project.loader import Project
from agentmesh.routing import Router, routers
from agentmesh.settings import ModelSettings

__all__ = ["ProjectRouters"]


class ProjectRouters(Mapping[str, Any]):
    """Makes routers when they are first named; of two of one name there is one. Use it as `async with`.

    What a router may ask for (`embedder`, `model`, `router_of`) it finds here by that name.
    """

    def __init__(self, project: Project) -> None:
        self._project = project
        self._made: dict[str, Router] = {}
        self._making: list[str] = []
        self._embedder: Embedder | None = None
        self._model: ChatModel | None = None

    def of(self, name: str) -> Router:
        """The router of this name.

        Raises:
            ConfigError: If it cannot be made; `UnknownNameError` if nothing is called so.
        """
        if name in self._making:
            way = " -> ".join([*self._making, name])
            raise ConfigError(f"the router {name!r} needs itself ({way}); name another one in its options")
        if name not in self._made:
            routing = self._project.settings.routing
            options = {**routing.routers.get(name, {}), **(routing.options if name == routing.router else {})}
            self._making.append(name)
            try:
                self._made[name] = routers.create(name, offered=self, **options)
            finally:
                self._making.pop()
        return self._made[name]

    @property
    def embedder(self) -> Embedder:
        """The embedder of the settings."""
        if self._embedder is None:
            self._embedder = open_embedder(self._project.settings.memory.embedder)
        return self._embedder

    @property
    def model(self) -> ChatModel:
        """The model that the settings let routers ask."""
        if self._model is None:
            name = self._project.settings.routing.model
            settings = self._project.settings.models.get(name) or ModelSettings(model=name)
            self._model = open_model(name, settings)
        return self._model

    async def aclose(self) -> None:
        """Close what was opened."""
        for router in self._made.values():
            close = getattr(router, "aclose", None)
            if close is not None:
                await close()
        if self._model is not None:
            await self._model.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    # --- what a router is offered -------------------------------------------------------------------------------------

    def __getitem__(self, name: str) -> Any:
        match name:
            case "embedder":
                return self.embedder
            case "model":
                return self.model
            case "router_of":
                return self.of
            case _:
                raise KeyError(name)

    def __iter__(self) -> Iterator[str]:
        return iter(("embedder", "model", "router_of"))

    def __len__(self) -> int:
        return 3
