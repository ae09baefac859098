"""Blank sheets for pictures. Needs matplotlib, which is an extra: `cairn[plot]`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from node.errors import UsageError

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def sheet(width_inches: float, height_inches: float) -> Figure:
    """An empty figure that can be saved as PNG. Raises `UsageError` without matplotlib."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise UsageError(
            "--plot needs matplotlib: `pip install matplotlib` beside cairn, or '.[plot]' in its source"
        ) from error
    figure = Figure(figsize=(width_inches, height_inches), layout="constrained")
    FigureCanvasAgg(figure)
    return figure
