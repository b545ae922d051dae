"""The version, once; pyproject.toml and meson.build take it from here."""

__version__ = "0.1.0"
