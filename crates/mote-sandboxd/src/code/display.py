"""What a value looks like: the formats of a result, from the value's own `_repr_*_` methods.

It follows the display protocol that notebooks made common; it keeps no state and writes nothing.
"""
import base64 as _base64
import sys as _sys

# Format in a result -> MIME type -> method of the value, bytes or text.
_FORMATS = {
    "html": ("text/html", "_repr_html_"),
    "markdown": ("text/markdown", "_repr_markdown_"),
    "svg": ("image/svg+xml", "_repr_svg_"),
    "png": ("image/png", "_repr_png_"),
    "jpeg": ("image/jpeg", "_repr_jpeg_"),
    "pdf": ("application/pdf", "_repr_pdf_"),
    "latex": ("text/latex", "_repr_latex_"),
    "json": ("application/json", "_repr_json_"),
    "javascript": ("application/javascript", "_repr_javascript_"),
}
_BY_MIME = {mime: name for name, (mime, _) in _FORMATS.items()}
_BY_MIME["text/plain"] = "text"
_BY_MIME.update({"e2b/data": "data", "e2b/chart": "chart"})
_TEXT_MAX = 10_000_000
_DATA_DEPTH_MAX = 250
_DATA_ITEMS_MAX = 1_000_000


def _carried(value):
    return _base64.b64encode(value).decode("ascii") if isinstance(value, (bytes, bytearray)) else value


class Formatter:
    """How values of some types become one format, beside their own methods: what code registers."""

    def __init__(self):
        self.type_printers, self.deferred_printers, self.enabled = {}, {}, True

    def for_type(self, kind, function=None):
        if isinstance(kind, str):
            return self.for_type_by_name(*kind.rsplit(".", 1), function)
        known = self.type_printers.get(kind)
        if function is not None:
            self.type_printers[kind] = function
        return known

    def for_type_by_name(self, module, name, function=None):
        known = self.deferred_printers.get((module, name))
        if function is not None:
            self.deferred_printers[module, name] = function
        return known

    def pop(self, kind, default=None):
        return self.type_printers.pop(kind, default)

    def lookup(self, value):
        """The function for a value; None where there is none."""
        if not self.type_printers and not self.deferred_printers:
            return None
        for kind in type(value).__mro__:
            found = self.type_printers.get(kind) or self.deferred_printers.get((kind.__module__, kind.__name__))
            if found is not None:
                return found
        return None


class DisplayFormatter:
    """The formatters of all formats, by MIME type."""

    def __init__(self):
        self.formatters = {mime: Formatter() for mime, _ in _FORMATS.values()}
        self.formatters["text/plain"] = Formatter()
        self.mimebundle_formatter = self.ipython_display_formatter = Formatter()
        self.float_format = ""

    def format(self, value, include=None, exclude=None):
        return bundle_of(formats_of(value, self)), {}


def _made(value, method, mime="", formatter=None, failed=None):
    """What a registered function or the value's own method returns, without metadata; None where it is absent or declines. The first
    failure is kept in `failed`."""
    known = formatter.formatters.get(mime) if formatter is not None else None
    function = known.lookup(value) if known is not None else None
    if function is None:
        function = getattr(type(value), method, None)
    if function is None:
        return None
    try:
        made = function(value)
    except NotImplementedError:
        return None
    except Exception as error:
        if failed is not None:
            failed.append(error)
        return None
    return made[0] if isinstance(made, tuple) and len(made) == 2 else made


def _text(value, formatter=None, failed=None):
    """The text as notebooks print it, cut. As E2B tells it, text is without its quotes where they are single ones. None where the
    value's own method fails and somebody takes the failure."""
    try:
        text = pretty_text(value, formatter)
    except Exception as error:
        if failed is not None:
            failed.append(error)
            return None
        text = f"<{type(value).__name__}: its repr failed: {error!r}>"
    if len(text) > _TEXT_MAX:
        text = text[:_TEXT_MAX] + "…"
    return text[1:-1] if text.startswith("'") and text.endswith("'") else text


def _data_of(value, depth=0):
    """A list or a mapping as JSON; `TypeError` where anything in it is not data, or there is very much of it."""
    if depth > _DATA_DEPTH_MAX or (hasattr(value, "__len__") and len(value) > _DATA_ITEMS_MAX and not isinstance(value, str)):
        raise TypeError("too deep or too long")
    if value is None or isinstance(value, (bool, str)):
        return value
    if isinstance(value, int):
        if not -2 ** 63 <= value < 2 ** 64:
            raise TypeError("too large")
        return int(value)
    if isinstance(value, float):
        return float(value) if value - value == 0 else None
    if isinstance(value, list) or type(value) is tuple:
        return [_data_of(item, depth + 1) for item in value]
    if isinstance(value, dict):
        return {_key_of(key): _data_of(item, depth + 1) for key, item in value.items()}
    if hasattr(type(value), "__dataclass_fields__"):
        return {name: _data_of(getattr(value, name), depth + 1) for name in type(value).__dataclass_fields__
                if not name.startswith("_")}
    if "enum" in _sys.modules and isinstance(value, _sys.modules["enum"].Enum):
        return _data_of(value.value, depth + 1)
    if type(value).__module__ in ("numpy", "datetime", "uuid"):
        if hasattr(value, "isoformat"):
            return value.isoformat()
        if hasattr(value, "tolist") and type(value).__name__ != "datetime64":
            return _data_of(value.tolist(), depth + 1)
        if type(value).__name__ == "UUID":
            return str(value)
    raise TypeError(f"{type(value).__name__} is not data")


def _key_of(key):
    if isinstance(key, str):
        return str(key)
    if key is None or isinstance(key, bool):
        return {None: "null", True: "true", False: "false"}[key]
    if isinstance(key, (int, float)):
        return str(key)
    raise TypeError(f"{type(key).__name__} is no key")


# How figures become pictures: the names that notebooks know.
_figure_kinds = ["png"]


def set_figure_formats(*kinds, **_):
    """Chooses among `png`, `retina`, `svg`, `jpeg` and `pdf`."""
    wanted = [kind.strip() for each in kinds for kind in ([each] if isinstance(each, str) else each)]
    _figure_kinds[:] = [kind for kind in wanted if kind in ("png", "retina", "png2x", "svg", "jpeg", "jpg", "pdf")] or ["png"]


def _figure_formats(figure):
    import io

    formats = {"text": _text(figure)}
    for kind in _figure_kinds if figure.axes or figure.lines or figure.texts or figure.patches else ():
        image, options = io.BytesIO(), {}
        name = {"retina": "png", "png2x": "png", "jpg": "jpeg"}.get(kind, kind)
        if kind in ("retina", "png2x"):
            options["dpi"] = 2 * figure.dpi
        figure.savefig(image, format=name, bbox_inches="tight", **options)
        formats[name] = image.getvalue().decode() if kind == "svg" else _carried(image.getvalue())
    try:
        chart = chart_of(figure)
    except Exception:
        chart = None
    if chart is not None:
        formats["chart"] = chart
    return formats


def _frame_columns(frame):
    columns = {}
    for name in frame.columns:
        # A value that does not equal itself is not a number: a gap in the data.
        columns[str(name)] = [_plain(value) if value == value else None for value in frame[name].tolist()]
    return columns


def _loaded_type(module, name):
    return getattr(_sys.modules.get(module), name, None)


def formats_of(value, formatter=None, failed=None):
    """Formats of a value: `text` always, the others where the value knows them. Failures of its methods are kept in `failed`, with
    which a value without a text has no formats."""
    figure = _loaded_type("matplotlib.figure", "Figure")
    if figure is not None and isinstance(value, figure):
        return _figure_formats(value)
    text = _text(value, formatter, failed)
    if text is None:
        return {}
    found = {"text": text}
    if not isinstance(value, type):
        bundle = _made(value, "_repr_mimebundle_", failed=failed)
        if isinstance(bundle, dict):
            found.update(formats_of_bundle(bundle))
        for name, (mime, method) in _FORMATS.items():
            made = _made(value, method, mime, formatter, failed) if name not in found else None
            if made is not None:
                found[name] = _carried(made)
    if isinstance(value, (list, dict)) and "json" not in found:
        try:
            found["json"] = _data_of(value)
        except (TypeError, RecursionError):
            pass
    frame = _loaded_type("pandas", "DataFrame")
    if frame is not None and isinstance(value, frame):
        try:
            found["data"] = _frame_columns(value)
        except Exception:
            pass
    return found


def bundle_of(formats):
    """Formats by MIME type again."""
    names = {name: mime for mime, name in _BY_MIME.items()}
    return {**{names.get(name, name): made for name, made in formats.items() if name != "extra"}, **formats.get("extra", {})}


def chosen(formats, include=None, exclude=None):
    """Only those whose MIME types are asked for."""
    if not include and not exclude:
        return formats
    bundle = bundle_of(formats)
    kept = {mime: made for mime, made in bundle.items() if (not include or mime in include) and mime not in (exclude or ())}
    return formats_of_bundle(kept)


def formats_of_bundle(bundle):
    """Formats of a bundle by MIME type; types that a result has no place for come under `extra`."""
    found, extra = {}, {}
    for mime, value in bundle.items():
        if mime in _BY_MIME:
            found[_BY_MIME[mime]] = _carried(value)
        else:
            extra[mime] = _carried(value)
    if extra:
        found["extra"] = extra
    return found
