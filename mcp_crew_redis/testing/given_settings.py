"""Settings for tests: what a test gives, and nothing of the environment."""

from __future__ import annotations

from pydantic_settings import BaseSettings, PydanticBaseSettingsSource

from mcp_crew_redis.settings import CrewSettings

__all__ = ["GivenSettings"]


class GivenSettings(CrewSettings):
    """Settings from arguments alone: a test must not hear the environment."""

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],  # noqa: ARG003 - pydantic's signature
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Read the arguments."""
        return (init_settings,)
