"""The text of a value as notebooks print it: containers broken into lines where they do not fit, types and functions by their names.

It follows the layout that IPython's users know, without IPython; values may print themselves by `_repr_pretty_`, as there.
"""
import contextlib as _contextlib

_WIDTH = 79
_ITEMS_MAX = 1000
_DEPTH_MAX = 200


class _Group:
    def __init__(self, depth):
        self.depth = depth
        self.breakables = []
        self.broken = False


class _Printer:
    """Text, and places at which it may be broken: those of the outermost group that does not fit become lines."""

    def __init__(self, formatter=None):
        self.formatter = formatter
        self.done = []
        # Pieces that may still be broken: text, or a place with its group.
        self.waiting = []
        self.groups = [_Group(0)]
        self.open = [[self.groups[0]]]
        self.indentation = 0
        # Columns of what is done, and of what waits.
        self.column = 0
        self.width = 0
        self.stack = []

    # What `_repr_pretty_` may call.

    def text(self, text):
        if not text:
            return
        if self.waiting:
            self.waiting.append(text)
            self.width += len(text)
            self._break_what_is_too_long()
        else:
            self.done.append(text)
            self.column += len(text)

    def breakable(self, sep=" "):
        group = self.groups[-1]
        if group.broken:
            self._flush()
            self.done.append("\n" + " " * self.indentation)
            self.column = self.indentation
        else:
            place = [sep, self.indentation, group]
            group.breakables.append(place)
            self.waiting.append(place)
            self.width += len(sep)
            self._break_what_is_too_long()

    def break_(self):
        # A line within a group makes its own places lines as well.
        self._break_outermost()
        self._flush()
        self.done.append("\n" + " " * self.indentation)
        self.column = self.indentation

    def begin_group(self, indent=0, open=""):
        if open:
            self.text(open)
        group = _Group(self.groups[-1].depth + 1)
        self.groups.append(group)
        while len(self.open) <= group.depth:
            self.open.append([])
        self.open[group.depth].append(group)
        self.indentation += indent

    def end_group(self, dedent=0, close=""):
        self.indentation -= dedent
        group = self.groups.pop()
        if not group.breakables:
            with _contextlib.suppress(ValueError):
                self.open[group.depth].remove(group)
        if close:
            self.text(close)

    @_contextlib.contextmanager
    def group(self, indent=0, open="", close=""):
        self.begin_group(indent, open)
        try:
            yield
        finally:
            self.end_group(indent, close)

    @_contextlib.contextmanager
    def indent(self, indent):
        self.indentation += indent
        try:
            yield
        finally:
            self.indentation -= indent

    def pretty(self, value):
        cycle = any(value is above for above in self.stack)
        if len(self.stack) > _DEPTH_MAX:
            self.text("...")
            return
        self.stack.append(value)
        self.begin_group()
        try:
            self._value(value, cycle)
        finally:
            self.end_group()
            self.stack.pop()

    # The layout.

    def _break_what_is_too_long(self):
        while self.column + self.width > _WIDTH and self._break_outermost():
            pass

    def _break_outermost(self):
        """Makes lines of the places of the outermost group that has some; what comes later in those around it is a line as well."""
        for level in self.open:
            group = next((group for group in reversed(level) if group.breakables), None)
            if group is None:
                for around in level:
                    around.broken = True
                level.clear()
                continue
            level.remove(group)
            group.broken = True
            places, group.breakables = group.breakables, []
            for _ in places:
                self._up_to_place(group)
            return True
        return False

    def _up_to_place(self, group):
        """Lets out all that waits up to the first place of a group, which becomes a line."""
        while self.waiting:
            piece = self.waiting.pop(0)
            if isinstance(piece, str):
                self.done.append(piece)
                self.column += len(piece)
                self.width -= len(piece)
                continue
            separator, indentation, owner = piece
            self.width -= len(separator)
            if owner is group:
                self.done.append("\n" + " " * indentation)
                self.column = indentation
                break
            self.done.append(separator)
            self.column += len(separator)
            if piece in owner.breakables:
                owner.breakables.remove(piece)
        # Text behind the last place cannot be broken any more.
        while self.waiting and isinstance(self.waiting[0], str):
            text = self.waiting.pop(0)
            self.done.append(text)
            self.column += len(text)
            self.width -= len(text)

    def _flush(self):
        for piece in self.waiting:
            text = piece if isinstance(piece, str) else piece[0]
            if not isinstance(piece, str) and piece in piece[2].breakables:
                piece[2].breakables.remove(piece)
            self.done.append(text)
            self.column += len(text)
        self.waiting, self.width = [], 0

    def told(self):
        self._flush()
        return "".join(self.done)

    # The values.

    def _value(self, value, cycle):
        registered = self.formatter.formatters["text/plain"].lookup(value) if self.formatter is not None else None
        if registered is not None:
            return registered(value, self, cycle)
        if type(value) is float and self.formatter is not None and self.formatter.float_format:
            return self.text(self.formatter.float_format % value)
        for kind in type(value).__mro__:
            printer = _PRINTERS.get(kind) or _NAMED_PRINTERS.get((kind.__module__, kind.__name__))
            if printer is not None:
                return printer(self, value, cycle)
            if "_repr_pretty_" in kind.__dict__ and callable(kind._repr_pretty_):
                return kind._repr_pretty_(value, self, cycle)
            if kind is not object and callable(kind.__dict__.get("__repr__")):
                return self._lines(repr(value))
        module = type(value).__module__
        name = _name(type(value)) if module == "builtins" else f"{module}.{_name(type(value))}"
        self.text(f"<{name} at {hex(id(value))}>")

    def _lines(self, text):
        first, *more = text.splitlines() or [""]
        with self.group():
            self.text(first)
            for line in more:
                self.break_()
                self.text(line)

    def _items(self, items, show):
        for number, item in enumerate(items):
            if number:
                self.text(",")
                self.breakable()
            if number == _ITEMS_MAX:
                self.text("...")
                return
            show(item)

    def _sequence(self, value, start, end, items=None):
        with self.group(len(start), start, end):
            self._items(value if items is None else items, self.pretty)
            if start == "(" and len(value) == 1:
                self.text(",")

    def _mapping(self, value):
        def pair(key):
            self.pretty(key)
            self.text(": ")
            self.pretty(value[key])

        with self.group(1, "{", "}"):
            self._items(value, pair)

    def _call(self, value, *shown):
        name = _name(type(value)) + "("
        with self.group(len(name), name, ")"):
            self._items(shown, lambda show: show())


def _name(kind):
    name = getattr(kind, "__qualname__", None)
    return name if isinstance(name, str) else kind.__name__


def _own_repr(value, kind):
    """A type derived from a container that prints itself."""
    return type(value) is not kind and type(value).__repr__ is not kind.__repr__


def _of_sequence(kind, start, end):
    def show(printer, value, cycle):
        if _own_repr(value, kind):
            return printer._lines(repr(value))
        if cycle:
            return printer.text(start + "..." + end)
        printer._sequence(value, start, end)
    return show


def _of_set(kind, start, end):
    def show(printer, value, cycle):
        if _own_repr(value, kind):
            return printer._lines(repr(value))
        if cycle:
            return printer.text(start + "..." + end)
        if not value:
            return printer.text(_name(kind) + "()")
        items = list(value)
        if len(items) <= _ITEMS_MAX:
            with _contextlib.suppress(Exception):
                items = sorted(items)
        printer._sequence(value, start, end, items)
    return show


def _of_mapping(printer, value, cycle):
    if _own_repr(value, dict):
        return printer._lines(repr(value))
    if cycle:
        return printer.text("{...}")
    printer._mapping(value)


def _of_type(printer, value, cycle):
    if type(value).__repr__ is not type.__repr__:
        return printer._lines(repr(value))
    module = getattr(value, "__module__", None)
    printer.text(_name(value) if module in (None, "builtins", "exceptions") else f"{module}.{_name(value)}")


def _of_function(printer, value, cycle):
    import inspect

    name = _name(value)
    if value.__module__ and value.__module__ not in ("builtins", "exceptions"):
        name = f"{value.__module__}.{name}"
    try:
        printer.text(f"<function {name}{inspect.signature(value)}>")
    except Exception:
        printer.text(f"<function {name}>")


def _of_exception(printer, value, cycle):
    if type(value).__repr__ is not BaseException.__repr__:
        return printer._lines(repr(value))
    kind = type(value)
    name = _name(kind) if kind.__module__ in ("exceptions", "builtins") else f"{kind.__module__}.{_name(kind)}"
    with printer.group(len(name) + 1, name + "(", ")"):
        printer._items(value.args, printer.pretty)


def _of_default_mapping(printer, value, cycle):
    if cycle:
        return printer._call(value, lambda: printer.text("..."))
    printer._call(value, lambda: printer.pretty(value.default_factory), lambda: printer._mapping(value))


def _of_counter(printer, value, cycle):
    if cycle:
        return printer._call(value, lambda: printer.text("..."))
    if not value:
        return printer._call(value)
    printer._call(value, lambda: printer._mapping(dict(value.most_common())))


def _of_ordered_mapping(printer, value, cycle):
    if cycle:
        return printer._call(value, lambda: printer.text("..."))
    printer._call(value, lambda: printer.pretty(list(value.items())))


def _of_queue(printer, value, cycle):
    if cycle:
        return printer._call(value, lambda: printer.text("..."))
    shown = [lambda: printer.pretty(list(value))]
    if value.maxlen is not None:
        shown.append(lambda: printer.text(f"maxlen={value.maxlen}"))
    printer._call(value, *shown)


def _of_pattern(printer, value, cycle):
    import re

    flags = re.RegexFlag(value.flags)
    names = [f"re.{flag.name}" for flag in re.RegexFlag if flag in flags and flag.name not in ("DEBUG", "NOFLAG")]
    pattern = repr(value.pattern)
    if pattern[:1] in "uU":
        pattern = pattern[1:]
    printer.text(f"re.compile(r{pattern.replace(chr(92) * 2, chr(92))}" + (f", {'|'.join(names)})" if names else ")"))


_PRINTERS = {
    int: lambda printer, value, cycle: printer._lines(repr(value)),
    list: _of_sequence(list, "[", "]"),
    tuple: _of_sequence(tuple, "(", ")"),
    dict: _of_mapping,
    set: _of_set(set, "{", "}"),
    frozenset: _of_set(frozenset, "frozenset({", "})"),
    type: _of_type,
    BaseException: _of_exception,
    type(lambda: 0): _of_function,
    type(len): _of_function,
}
_NAMED_PRINTERS = {
    ("collections", "defaultdict"): _of_default_mapping,
    ("collections", "Counter"): _of_counter,
    ("collections", "OrderedDict"): _of_ordered_mapping,
    ("collections", "deque"): _of_queue,
    ("re", "Pattern"): _of_pattern,
}


def pretty_text(value, formatter=None):
    """The text; may fail where the value's own methods do."""
    printer = _Printer(formatter)
    printer.pretty(value)
    return printer.told()
