"""Drawing of accuracy over one setting."""

from dataclasses import dataclass

from matplotlib.figure import Figure

from fewshot.report.style import figure_with_legend, legend_below, line_style


@dataclass(frozen=True)
class SweepLine:
    """Numbers that differ in one setting.

    Attributes:
        name: in the legend.
        places: of the values among the ticks.
        means: accuracies, percent.
        widths: half widths of their intervals.
    """

    name: str
    places: tuple[int, ...]
    means: tuple[float, ...]
    widths: tuple[float, ...]


@dataclass(frozen=True)
class SweepPanel:
    """The lines of one data set and target."""

    title: str
    lines: tuple[SweepLine, ...]


def draw_sweep(data: tuple[str, tuple[str, ...], tuple[SweepPanel, ...]]) -> Figure:
    """Draw accuracy against the values of a setting, evenly spaced.

    Args:
        data: label of the setting, its values, panels.
    """
    label, ticks, panels = data
    names = list(dict.fromkeys(line.name for panel in panels for line in panel.lines))
    figure = figure_with_legend(2.8 * len(panels), names)
    for axis, panel in zip(figure.subplots(len(panels), 1, squeeze=False)[:, 0], panels, strict=True):
        for line in panel.lines:
            style = line_style(names.index(line.name))
            axis.errorbar(line.places, line.means, yerr=line.widths, ms=4, capsize=2, label=line.name, **style)
        axis.set(title=panel.title, xlabel=label, ylabel="accuracy (%)")
        axis.set_xticks(range(len(ticks)), ticks)
    legend_below(figure, figure.axes[0])
    return figure
