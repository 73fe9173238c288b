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
_TEXT_MAX = 10_000_000


def _carried(value):
    return _base64.b64encode(value).decode("ascii") if isinstance(value, (bytes, bytearray)) else value


def _called(value, method):
    """What a display method returns, without metadata; None where it is absent, declines or fails."""
    function = getattr(type(value), method, None)
    if function is None:
        return None
    try:
        made = function(value)
    except Exception:
        return None
    return made[0] if isinstance(made, tuple) and len(made) == 2 else made


def _text(value):
    """`repr`, cut; the text itself where the value is text, as E2B tells it."""
    try:
        text = value if type(value) is str else repr(value)
    except Exception as error:
        text = f"<{type(value).__name__}: its repr failed: {error!r}>"
    return text if len(text) <= _TEXT_MAX else text[:_TEXT_MAX] + "…"


def _figure_formats(figure):
    import io

    image = io.BytesIO()
    figure.savefig(image, format="png", bbox_inches="tight")
    formats = {"text": repr(figure), "png": _carried(image.getvalue())}
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


def formats_of(value):
    """Formats of a value: `text` always, the others where the value knows them."""
    figure = _loaded_type("matplotlib.figure", "Figure")
    if figure is not None and isinstance(value, figure):
        return _figure_formats(value)
    found = {"text": _text(value)}
    bundle = _called(value, "_repr_mimebundle_") if not isinstance(value, type) else None
    if isinstance(bundle, dict):
        found.update(formats_of_bundle(bundle))
    if not isinstance(value, type):
        for name, (_, method) in _FORMATS.items():
            made = _called(value, method) if name not in found else None
            if made is not None:
                found[name] = _carried(made)
    frame = _loaded_type("pandas", "DataFrame")
    if frame is not None and isinstance(value, frame):
        try:
            found["data"] = _frame_columns(value)
        except Exception:
            pass
    return found


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
