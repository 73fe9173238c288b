"""Chart data from matplotlib figures, in the shape that E2B's clients read.

It reads artists that are already drawn; it does not draw, and it never imports matplotlib where the user's code has not.
"""
import re as _re

_SCALES = {"linear", "log", "symlog", "logit", "function", "functionlog", "asinh"}
_POINTS_MAX = 100_000


def _plain(value):
    """A value that JSON can carry: numbers stay numbers, dates become ISO 8601, the rest becomes text."""
    if hasattr(value, "item") and getattr(value, "ndim", 0) == 0:
        value = value.item()
    if hasattr(value, "isoformat"):
        return value.isoformat()
    if isinstance(value, bool) or value is None:
        return value
    if isinstance(value, (int, float)):
        finite = value == value and value not in (float("inf"), float("-inf"))
        return value if finite else str(value)
    return str(value)


def _axis_is_dated(axis):
    import matplotlib.dates

    converter = getattr(axis, "get_converter", lambda: getattr(axis, "converter", None))()
    return isinstance(converter, matplotlib.dates.DateConverter) or type(converter).__name__ in (
        "_SwitchableDateConverter", "DatetimeConverter", "TimeSeries_DateFormatter", "PeriodConverter")


def _axis_scale(axis):
    import matplotlib.category

    if _axis_is_dated(axis):
        return "datetime"
    if isinstance(getattr(axis, "units", None), matplotlib.category.UnitData):
        return "categorical"
    name = axis.get_scale()
    return name if name in _SCALES else "unknown"


def _unit(label):
    """The unit in a label: `Speed (km/h)` or `Speed [km/h]`."""
    found = _re.search(r"[(\[]([^()\[\]]+)[)\]]\s*$", label or "")
    return found.group(1) if found else None


def _coordinates(axis, values):
    if _axis_scale(axis) == "datetime":
        import matplotlib.dates

        return [value.isoformat() if hasattr(value, "isoformat")
                else matplotlib.dates.num2date(value).isoformat() for value in values]
    if _axis_scale(axis) == "categorical":
        names = {place: name for name, place in axis.units._mapping.items()}
        return [names.get(value, _plain(value)) for value in values]
    return [_plain(value) for value in values]


def _common(ax):
    title = ax.get_title() or ax.get_title(loc="left") or ax.get_title(loc="right")
    x, y = ax.get_xlabel() or None, ax.get_ylabel() or None
    return {"title": title or None, "x_label": x, "y_label": y, "x_unit": _unit(x), "y_unit": _unit(y)}


def _point_chart(ax, kind, elements):
    chart = {"type": kind, **_common(ax)}
    for name, axis in (("x", ax.xaxis), ("y", ax.yaxis)):
        chart[f"{name}_ticks"] = _coordinates(axis, axis.get_ticklocs())
        chart[f"{name}_tick_labels"] = [label.get_text() for label in axis.get_ticklabels()]
        chart[f"{name}_scale"] = _axis_scale(axis)
    chart["elements"] = elements
    return chart


def _lines(ax):
    elements = []
    for line in ax.get_lines():
        x, y = line.get_xdata(orig=True), line.get_ydata(orig=True)
        if len(x) < 2 and line.get_linestyle() in ("None", "none", "", " "):
            continue
        label = line.get_label()
        points = list(zip(_coordinates(ax.xaxis, x), _coordinates(ax.yaxis, y)))[:_POINTS_MAX]
        elements.append({"label": label if not label.startswith("_") else f"Line {len(elements) + 1}", "points": points})
    return elements


def _scatters(ax):
    from matplotlib.collections import PathCollection

    elements = []
    for collection in ax.collections:
        if not isinstance(collection, PathCollection):
            continue
        offsets = collection.get_offsets()
        points = list(zip(_coordinates(ax.xaxis, [p[0] for p in offsets]),
                          _coordinates(ax.yaxis, [p[1] for p in offsets])))[:_POINTS_MAX]
        label = collection.get_label()
        elements.append({"label": label if not label.startswith("_") else f"Series {len(elements) + 1}", "points": points})
    return elements


def _bars(ax):
    from matplotlib.container import BarContainer

    elements = []
    for container in ax.containers:
        if not isinstance(container, BarContainer):
            continue
        group = container.get_label()
        group = "" if group.startswith("_") else group
        horizontal = container.orientation == "horizontal"
        axis = ax.yaxis if horizontal else ax.xaxis
        ticks = {round(float(place), 6): label.get_text()
                 for place, label in zip(axis.get_ticklocs(), axis.get_ticklabels())}
        for bar in container.patches:
            middle = bar.get_y() + bar.get_height() / 2 if horizontal else bar.get_x() + bar.get_width() / 2
            value = bar.get_width() if horizontal else bar.get_height()
            label = ticks.get(round(float(middle), 6)) or str(_plain(_coordinates(axis, [middle])[0]))
            elements.append({"label": label, "group": group, "value": _plain(value)})
    return elements


def _wedges(ax):
    from matplotlib.patches import Wedge

    wedges = [patch for patch in ax.patches if isinstance(patch, Wedge)]
    return [{"label": wedge.get_label(), "angle": _plain(abs(wedge.theta2 - wedge.theta1)), "radius": _plain(wedge.r)}
            for wedge in wedges]


def _boxes(ax):
    elements = []
    for statistics in getattr(ax, "_mote_boxes", []):
        for number, box in enumerate(statistics):
            elements.append({
                "label": str(box.get("label") or number + 1),
                "min": _plain(box["whislo"]), "first_quartile": _plain(box["q1"]), "median": _plain(box["med"]),
                "third_quartile": _plain(box["q3"]), "max": _plain(box["whishi"]),
                "outliers": [_plain(value) for value in box.get("fliers", [])]})
    return elements


def _axes_chart(ax):
    boxes = _boxes(ax)
    if boxes:
        return {"type": "box_and_whisker", **_common(ax), "elements": boxes}
    wedges = _wedges(ax)
    if wedges:
        return {"type": "pie", "title": _common(ax)["title"], "elements": wedges}
    bars = _bars(ax)
    if bars:
        return {"type": "bar", **_common(ax), "elements": bars}
    scatters = _scatters(ax)
    if scatters:
        return _point_chart(ax, "scatter", scatters)
    lines = _lines(ax)
    if lines:
        return _point_chart(ax, "line", lines)
    return {"type": "unknown", "title": _common(ax)["title"], "elements": []}


def record_boxes():
    """From now on the statistics of box plots stay with their axes: the artists alone do not tell them apart from lines."""
    from matplotlib.axes import Axes

    if hasattr(Axes.bxp, "mote"):
        return
    original = Axes.bxp

    def bxp(self, bxpstats, *arguments, **named):
        statistics = list(bxpstats)
        artists = original(self, statistics, *arguments, **named)
        kept = self.__dict__.setdefault("_mote_boxes", [])
        kept.append(statistics)
        return artists

    bxp.mote = True
    Axes.bxp = bxp


def chart_of(figure):
    """The data of a figure: one chart, or a `superchart` of several; None where there is nothing to tell."""
    charts = [_axes_chart(ax) for ax in figure.axes if ax.get_visible() and not hasattr(ax, "_colorbar")]
    if len(charts) > 1:
        known = [chart for chart in charts if chart["type"] != "unknown"]
        title = figure._suptitle.get_text() if getattr(figure, "_suptitle", None) else None
        return {"type": "superchart", "title": title, "elements": known} if known else None
    return charts[0] if charts else None
