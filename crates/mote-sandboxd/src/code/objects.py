"""What `IPython.display` offers, for images without IPython: values with a MIME type of their own, and the modules that code imports
to get at them.

They show nothing by themselves: the kernel does.
"""


class DisplayObject:
    """Something that is shown as a MIME type. `data` is the content, or the address or the name of a file with it."""

    _mime = "text/plain"
    _binary = False

    def __init__(self, data=None, url=None, filename=None, metadata=None, **options):
        if isinstance(data, _os.PathLike):
            data, filename = None, _os.fspath(data)
        elif isinstance(data, str) and url is None and filename is None:
            if data.startswith(("http://", "https://")) and self._binary:
                data, url = None, data
            elif self._binary and _os.path.isfile(data):
                data, filename = None, data
        self.data, self.url, self.filename, self.metadata = data, url, filename, metadata
        vars(self).update(options)
        self.reload()

    def reload(self):
        if self.filename is not None:
            with open(self.filename, "rb") as file:
                self.data = file.read()
        elif self.url is not None and self.data is None:
            from urllib.request import urlopen
            with urlopen(self.url) as answer:
                self.data = answer.read()
        if isinstance(self.data, bytes) and not self._binary:
            self.data = self.data.decode("utf-8", "replace")

    def __repr__(self):
        return f"<IPython.core.display.{type(self).__name__} object>"

    def _repr_mimebundle_(self, include=None, exclude=None):
        return {} if self.data is None else {self._mime: self.data}


def _kind(name, mime):
    return type(name, (DisplayObject,), {"_mime": mime, "__module__": "IPython.core.display"})


HTML = _kind("HTML", "text/html")
Markdown = _kind("Markdown", "text/markdown")
Latex = _kind("Latex", "text/latex")
Math = type("Math", (Latex,), {
    "_repr_mimebundle_": lambda self, **_: {"text/latex": "$\\displaystyle " + self.data.strip("$") + "$"}})
SVG = _kind("SVG", "image/svg+xml")
JSON = _kind("JSON", "application/json")
GeoJSON = _kind("GeoJSON", "application/geo+json")
Javascript = _kind("Javascript", "application/javascript")


class Pretty(DisplayObject):
    def __repr__(self):
        return self.data


class Code(DisplayObject):
    def __init__(self, data=None, url=None, filename=None, language=None):
        super().__init__(data, url, filename, language=language)

    def __repr__(self):
        return self.data


class Image(DisplayObject):
    _binary = True
    _FORMATS = {"png": "image/png", "jpeg": "image/jpeg", "jpg": "image/jpeg", "gif": "image/gif", "webp": "image/webp",
                "svg": "image/svg+xml"}

    def __init__(self, data=None, url=None, filename=None, format=None, embed=None, width=None, height=None, **options):
        self.format, self.width, self.height = format, width, height
        super().__init__(data, url, filename, **options)
        if self.format is None and isinstance(self.data, bytes):
            known = ((b"\x89PNG", "png"), (b"\xff\xd8", "jpeg"), (b"GIF8", "gif"), (b"RIFF", "webp"), (b"<svg", "svg"))
            self.format = next((name for start, name in known if self.data.startswith(start)), "png")

    def _repr_mimebundle_(self, include=None, exclude=None):
        return {} if self.data is None else {self._FORMATS.get((self.format or "png").lower(), "image/png"): self.data}


class IFrame:
    """A frame around an address."""

    __module__ = "IPython.lib.display"

    def __init__(self, src, width, height, extras=None, **params):
        self.src, self.width, self.height = src, width, height

    def _repr_html_(self):
        return f'<iframe width="{self.width}" height="{self.height}" src="{self.src}" frameborder="0" allowfullscreen></iframe>'


class YouTubeVideo(IFrame):
    def __init__(self, id, width=400, height=300, **params):
        super().__init__(f"https://www.youtube.com/embed/{id}", width, height)


class ProgressBar(DisplayObject):
    """How far something is, as text and HTML."""

    def __init__(self, total):
        self.total, self._progress = total, 0
        super().__init__("")

    @property
    def progress(self):
        return self._progress

    @progress.setter
    def progress(self, value):
        self._progress = value

    def __repr__(self):
        done = int(60 * self._progress / self.total) if self.total else 0
        return f"[{'=' * done}{' ' * (60 - done)}] {self._progress}/{self.total}"

    def _repr_mimebundle_(self, include=None, exclude=None):
        return {"text/html": f"<progress style='width:60ex' max='{self.total}' value='{self._progress}'></progress>"}

    def __iter__(self):
        for self._progress in range(self.total):
            yield self._progress


class _Media(DisplayObject):
    _binary = True
    _tag, _mime = "audio", "audio/wav"

    def _repr_html_(self):
        source = self.url or f"data:{self._mime};base64,{_carried(bytes(self.data or b''))}"
        return f'<{self._tag} controls src="{source}"></{self._tag}>'

    def _repr_mimebundle_(self, include=None, exclude=None):
        return {"text/html": self._repr_html_()}


class Audio(_Media):
    pass


class Video(_Media):
    _tag, _mime = "video", "video/mp4"


class FileLink:
    """The way to a file, as text: nobody can follow it from outside."""

    def __init__(self, path, **_):
        self.path = path

    def __repr__(self):
        return _os.path.abspath(self.path)


FileLinks = FileLink


class DisplayHandle:
    """What was shown. What was sent cannot be changed, and clients have no place for a change: an update is not told."""

    __module__ = "IPython.core.display_functions"

    def __init__(self, display_id, show):
        self.display_id, self._show = display_id, show

    def display(self, value, **options):
        self._show(value, **options)

    def update(self, value, **options):
        pass


def _not_updated(value, *, display_id, **options):
    """What was sent cannot be changed."""


def modules_of(kernel):
    """Modules that code for notebooks imports, for an image without them: names and what stands in them."""
    shell = kernel.shell
    shows = {kind.__name__: kind for kind in (
        HTML, Markdown, Latex, Math, SVG, JSON, GeoJSON, Javascript, Pretty, Code, Image, IFrame, YouTubeVideo, Audio,
        Video, FileLink, DisplayObject, DisplayHandle)}
    shows["FileLinks"] = FileLinks

    def shown_as(kind):
        def show(*values, raw=False, **_):
            for value in values:
                kernel.display({kind._mime: value} if raw else value, raw=raw)
        return show

    def publish_display_data(data, metadata=None, **_):
        kernel.display(data, raw=True)

    shows.update(display=kernel.display, publish_display_data=publish_display_data, clear_output=lambda wait=False: None,
                 update_display=_not_updated, ProgressBar=ProgressBar,
                 set_matplotlib_formats=set_figure_formats,
                 display_html=shown_as(HTML), display_markdown=shown_as(Markdown), display_svg=shown_as(SVG),
                 display_latex=shown_as(Latex), display_json=shown_as(JSON), display_javascript=shown_as(Javascript))

    def registering(kind):
        def register(function):
            shell.register_magic_function(function, kind)
            return function
        return register

    get = {"get_ipython": lambda: shell}
    version = {"__version__": "8.0.0", "version_info": (8, 0, 0, "")}
    return {
        "IPython": {**get, **version, "display": None, "core": None, "InteractiveShell": InteractiveShell, "lib": None,
                    "__path__": []},
        "IPython.display": shows,
        "IPython.core": {"__path__": [], "display": None, "display_functions": None, "formatters": None, "magic": None},
        "IPython.core.display": shows,
        "IPython.core.display_functions": shows,
        "IPython.core.getipython": get,
        "IPython.core.interactiveshell": {"InteractiveShell": InteractiveShell},
        "IPython.core.error": {"UsageError": UsageError, "StdinNotImplementedError": StdinNotImplementedError},
        "IPython.core.formatters": {"DisplayFormatter": DisplayFormatter, "Formatter": Formatter},
        "IPython.core.pylabtools": {"backend2gui": {}},
        "IPython.core.magic": {"register_line_magic": registering("line"), "register_cell_magic": registering("cell"),
                               "register_line_cell_magic": registering("line_cell")},
        "IPython.lib": {"__path__": [], "pretty": None, "display": None, "latextools": None},
        "IPython.lib.pretty": {"pretty": pretty_text, "PrettyPrinter": _Printer, "RepresentationPrinter": _Printer},
        "IPython.lib.display": shows,
        # There is no LaTeX that would make pictures.
        "IPython.lib.latextools": {"latex_to_png": lambda *_, **__: None},
        "IPython.terminal": {"__path__": []},
        "IPython.terminal.interactiveshell": {"TerminalInteractiveShell": type("TerminalInteractiveShell", (), {})},
        "matplotlib_inline": {"__path__": [], "backend_inline": None},
        "matplotlib_inline.backend_inline": {"set_matplotlib_formats": set_figure_formats},
        "IPython.utils": {"__path__": []},
        "IPython.utils.capture": {"CapturedIO": CapturedIO, "RichOutput": RichOutput},
        "IPython.utils.text": {"SList": SList},
        # Charts ask for it before they show themselves, for its version alone.
        "nbformat": {"__version__": "5.0.0"},
    }
