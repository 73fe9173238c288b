"""Chart data from matplotlib figures, in the shape that E2B's clients read.

It reads artists that are already drawn; it does not draw, and it never imports matplotlib where the user's code has not. Where E2B's
own extractor guesses (bars that are all of one height, boxes that are drawn as lines) the artists' own orientation and statistics are
told instead.
"""
import re as _re

_POINTS_MAX = 100_000
_UNIT = _re.compile(r"\s\((.*?)\)|\[(.*?)\]")


def _plain(value):
    """A value that JSON can carry: numbers stay numbers, what is none becomes null, dates become ISO 8601, the rest becomes text."""
    if hasattr(value, "item") and getattr(value, "ndim", 0) == 0 and not hasattr(value, "isoformat"):
        made = value.item()
        # Nanoseconds have no other form than a number that says nothing.
        value = str(value.astype("datetime64[s]")) if type(value).__name__ == "datetime64" and isinstance(made, int) else made
    if hasattr(value, "isoformat"):
        return value.isoformat()
    if isinstance(value, bool) or value is None:
        return value
    if isinstance(value, (int, float)):
        return value if value == value and value not in (float("inf"), float("-inf")) else None
    return str(value)


def _point(value):
    """A coordinate: a number with a fraction, or text."""
    if type(value).__name__ == "datetime64":
        return str(value.astype("datetime64[s]"))
    value = _plain(value)
    return float(value) if isinstance(value, (int, float)) else value


def _points(x, y):
    return [[_point(one), _point(other)] for one, other in list(zip(x, y))[:_POINTS_MAX]]


def _rounded(number):
    """Without the noise of binary fractions: eight digits behind those before the point."""
    number = float(number)
    if number != number or number in (0.0, float("inf"), float("-inf")):
        return _plain(number)
    digits = 8 - int(f"{number:e}".split("e")[1])
    return float(f"{number:.{max(1, digits)}g}")


def _is_dated(axis):
    converter = getattr(axis, "get_converter", lambda: getattr(axis, "converter", None))()
    return type(converter).__name__ in ("_SwitchableDateConverter", "DateConverter", "ConciseDateConverter",
                                        "DatetimeConverter", "PeriodConverter")


def _ticks(axis):
    places = list(axis.get_ticklocs())
    if not _is_dated(axis):
        return [_point(place) for place in places]
    import matplotlib.dates

    return [matplotlib.dates.num2date(place).isoformat() for place in places]


def _labels(axis):
    return [label.get_text() for label in axis.get_ticklabels()]


def _scale(axis, ticks, labels):
    if _is_dated(axis):
        return "datetime"
    name = axis.get_scale()
    if name != "linear" or not ticks:
        return name
    named = all(isinstance(tick, float) and tick == at and label != str(at)
                for at, (tick, label) in enumerate(zip(ticks, labels)))
    return "categorical" if named else "linear"


def _is_grid_line(line):
    """One from end to end: two points on a level."""
    x, y = line.get_xdata(), line.get_ydata()
    return len(x) == 2 and len(y) == 2 and bool(x[0] == x[1] or y[0] == y[1])


def _unit(label):
    found = _UNIT.search(label or "")
    return (found[1] or found[2]) if found else None


def _common(ax, turned=False):
    """Title and labels; those of the axes change places where a chart lies on its side."""
    x, y = ax.get_xlabel() or None, ax.get_ylabel() or None
    x, y = (y, x) if turned else (x, y)
    return {"title": ax.get_title() or None, "x_label": x, "y_label": y, "x_unit": _unit(x), "y_unit": _unit(y)}


def _numbered(label, start, name):
    """A name for what the code gave none, which matplotlib numbers."""
    return f"{name} {label[len(start):]}" if label.startswith(start) else label


def _point_chart(ax, kind, elements):
    chart = {"type": kind, **_common(ax)}
    for name, axis in (("x", ax.xaxis), ("y", ax.yaxis)):
        ticks, labels = _ticks(axis), _labels(axis)
        chart.update({f"{name}_ticks": ticks, f"{name}_tick_labels": labels, f"{name}_scale": _scale(axis, ticks, labels)})
    chart["elements"] = elements
    return chart


def _line_chart(ax):
    return _point_chart(ax, "line", [
        {"label": _numbered(str(line.get_label()), "_child", "Line"), "points": _points(line.get_xdata(), line.get_ydata())}
        for line in ax.get_lines() if not _is_grid_line(line)])


def _scatter_chart(ax):
    elements = []
    for collection in ax.collections:
        offsets = collection.get_offsets()
        points = _points([point[0] for point in offsets], [point[1] for point in offsets])
        elements.append({"label": str(collection.get_label()), "points": points})
    return _point_chart(ax, "scatter", elements)


def _bar_labels(axis, middles):
    """Labels of bars: what stands at their places; else, where there are as many, one after the other."""
    labels, places = _labels(axis), list(axis.get_ticklocs())
    at = {round(float(place), 6): label for place, label in zip(places, labels) if label}
    found = [at.get(round(float(middle), 6)) for middle in middles]
    if None not in found:
        return found
    if len(labels) == len(middles) and all(labels):
        return labels
    return [label or str(_rounded(middle)) for label, middle in zip(found, middles)]


def _bar_chart(ax):
    from matplotlib.container import BarContainer

    elements, turned = [], False
    for container in ax.containers:
        if not isinstance(container, BarContainer):
            continue
        lies = getattr(container, "orientation", None) == "horizontal"
        turned = turned or lies
        bars = container.patches
        if lies:
            values, middles = [bar.get_width() for bar in bars], [bar.get_y() + bar.get_height() / 2 for bar in bars]
        else:
            values, middles = [bar.get_height() for bar in bars], [bar.get_x() + bar.get_width() / 2 for bar in bars]
        group = _numbered(str(container.get_label()), "_container", "Group ").replace("  ", " ")
        for label, value in zip(_bar_labels(ax.yaxis if lies else ax.xaxis, middles), values):
            elements.append({"label": label, "group": group, "value": _point(value)})
    return {"type": "bar", **_common(ax, turned), "elements": elements}


def _pie_chart(ax):
    return {"type": "pie", "title": _common(ax)["title"], "elements": [
        {"label": str(wedge.get_label()), "angle": abs(_rounded(wedge.theta2 - wedge.theta1)), "radius": _point(wedge.r)}
        for wedge in ax.patches]}


def _box_chart(ax, drawn):
    from matplotlib.patches import PathPatch

    # Boxes that are filled are the chart where there are any; lines beside them are another look of the same.
    filled = [each for each in drawn if any(isinstance(box, PathPatch) for box in each["boxes"])]
    elements, turned = [], False
    for each in filled or drawn:
        turned = turned or each["turned"]
        ticks = _labels(ax.yaxis if each["turned"] else ax.xaxis)
        for number, box in enumerate(each["statistics"]):
            label = ticks[number] if number < len(ticks) and ticks[number] else box.get("label", number + 1)
            elements.append({
                "label": str(label),
                "min": _rounded(box["whislo"]), "first_quartile": _rounded(box["q1"]), "median": _rounded(box["med"]),
                "third_quartile": _rounded(box["q3"]), "max": _rounded(box["whishi"]),
                "outliers": [_rounded(value) for value in box.get("fliers", [])]})
    return {"type": "box_and_whisker", **_common(ax, turned), "elements": elements}


def _axes_chart(ax):
    from matplotlib.collections import PathCollection
    from matplotlib.lines import Line2D
    from matplotlib.patches import Rectangle, Wedge
    from matplotlib.text import Text

    drawn = ax.__dict__.get("_mote_boxes")
    if drawn:
        return _box_chart(ax, drawn)
    artists = [artist for artist in ax._children if not isinstance(artist, Text)]
    if all(isinstance(artist, Line2D) for artist in artists):
        return _line_chart(ax)
    artists = [artist for artist in artists if not (isinstance(artist, Line2D) and _is_grid_line(artist))]
    for kind, chart in ((PathCollection, _scatter_chart), (Wedge, _pie_chart), (Rectangle, _bar_chart)):
        if all(isinstance(artist, kind) for artist in artists):
            return chart(ax)
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
        turned = named.get("vert") is False or named.get("orientation") == "horizontal"
        kept = self.__dict__.setdefault("_mote_boxes", [])
        kept.append({"statistics": statistics, "boxes": artists.get("boxes", []), "turned": turned})
        return artists

    bxp.mote = True
    Axes.bxp = bxp


def chart_of(figure):
    """The data of a figure: one chart, or a `superchart` of several; None where nothing was drawn."""
    if not any(ax.has_data() for ax in figure.axes):
        return None
    charts = [_axes_chart(ax) for ax in figure.axes]
    if len(charts) == 1:
        return charts[0]
    title = figure._suptitle.get_text() if getattr(figure, "_suptitle", None) else ""
    return {"type": "superchart", "title": title, "elements": charts}
