"""Markdown of models and people as HTML that can do nothing but be read."""

from annotation.rendering.markdown import RENDERER_VERSION, render_markdown

__all__ = ["RENDERER_VERSION", "render_markdown"]
