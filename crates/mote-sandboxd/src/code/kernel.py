"""The Python driver: one process is one context; it runs cells in a namespace that lasts, and tells what came of them.

Commands come as lines of JSON on the descriptor that was standard input, messages leave as lines of JSON on the one
that was standard output. Descriptors 0, 1 and 2 are then the user's: what the code and its children print is read from
pipes and sent in order. It enforces nothing: the sandbox around it does.
"""
import ast as _ast
import asyncio as _asyncio
import builtins as _builtins
import codecs as _codecs
import importlib.abc as _abc
import importlib.machinery as _machinery
import inspect as _inspect
import io as _io
import json as _json
import linecache as _linecache
import os as _os
import re as _re
import select as _select
import signal as _signal
import subprocess as _subprocess
import sys as _sys
import threading as _threading
import time as _time
import traceback as _traceback
import types as _types

_READ_BYTES = 65536


class _Wire:
    """The two private descriptors, and the pipes that catch what is printed."""

    def __init__(self):
        self.commands = _os.dup(0)
        self.messages = _os.dup(1)
        empty = _os.open(_os.devnull, _os.O_RDONLY)
        _os.dup2(empty, 0)
        _os.close(empty)
        self.lock = _threading.RLock()
        self.cell = None
        self.streams = {}
        for number, name in ((1, "stdout"), (2, "stderr")):
            reading, writing = _os.pipe()
            _os.dup2(writing, number)
            _os.close(writing)
            _os.set_blocking(reading, False)
            self.streams[reading] = (name, _codecs.getincrementaldecoder("utf-8")("replace"))
        _sys.stdin = _io.TextIOWrapper(open(0, "rb", closefd=False), encoding="utf-8")
        _sys.stdout = _io.TextIOWrapper(open(1, "wb", 0, closefd=False), encoding="utf-8", errors="replace",
                                        line_buffering=True, write_through=False)
        _sys.stderr = _io.TextIOWrapper(open(2, "wb", 0, closefd=False), encoding="utf-8", errors="replace",
                                        line_buffering=True)

    def send(self, **message):
        """One message; a value that JSON cannot carry becomes its text."""
        line = _json.dumps(message, default=str, allow_nan=False, ensure_ascii=False) if _sendable(message) \
            else _json.dumps(_cleaned(message), default=str, ensure_ascii=False)
        data = line.encode("utf-8", "replace") + b"\n"
        with self.lock:
            view = memoryview(data)
            while view:
                view = view[_os.write(self.messages, view):]

    def _take(self, descriptor):
        """Sends what one pipe holds now; false where it holds nothing."""
        name, decoder = self.streams[descriptor]
        with self.lock:
            try:
                data = _os.read(descriptor, _READ_BYTES)
            except BlockingIOError:
                return False
            text = decoder.decode(data)
            if text:
                self.send(type=name, cell=self.cell, text=text, timestamp=_time.time_ns())
            return bool(data)

    def pump(self):
        """Sends what is printed as it is printed. Runs in a thread of its own, for ever."""
        poll = _select.poll()
        for descriptor in self.streams:
            poll.register(descriptor, _select.POLLIN)
        while True:
            for descriptor, _ in poll.poll():
                self._take(descriptor)

    def drain(self):
        """Sends everything printed so far."""
        for stream in (_sys.stdout, _sys.stderr):
            try:
                stream.flush()
            except Exception:
                pass
        with self.lock:
            for descriptor in self.streams:
                while self._take(descriptor):
                    pass

    def lines(self):
        """Commands, one at a time."""
        with open(self.commands, "rb", closefd=False) as reader:
            for line in reader:
                yield _json.loads(line)


def _sendable(message):
    try:
        _json.dumps(message, default=str, allow_nan=False, ensure_ascii=False)
        return True
    except ValueError:
        return False


def _cleaned(value):
    """The same without what JSON has no place for: numbers that are none, cycles, keys that are not text."""
    return _cleaned_below(value, ())


def _cleaned_below(value, above):
    if id(value) in above:
        return "…"
    if isinstance(value, dict):
        return {str(key): _cleaned_below(item, (*above, id(value))) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_cleaned_below(item, (*above, id(value))) for item in value]
    return _plain(value)


class _Inline(_abc.MetaPathFinder, _abc.Loader):
    """Makes the modules that come into being only when the code asks for them: a matplotlib backend that displays."""

    BACKEND = "mote_inline_backend"

    def __init__(self, kernel):
        self.kernel = kernel

    def find_spec(self, name, path=None, target=None):
        return _machinery.ModuleSpec(name, self) if name == self.BACKEND else None

    def create_module(self, spec):
        return None

    def exec_module(self, module):
        from matplotlib.backends.backend_agg import FigureCanvasAgg

        record_boxes()
        module.FigureCanvas = FigureCanvasAgg
        module.show = lambda *arguments, **named: self.kernel.display_figures()


class _Shell:
    """`!command` and `%pip` lines, for code that is written for notebooks."""

    COMMAND = _re.compile(r"^(\s*)!(.+)$")
    MAGIC = _re.compile(r"^(\s*)%(pip|cd|env)\b\s*(.*)$")

    @classmethod
    def translated(cls, code):
        if code.lstrip().startswith(("%%bash", "%%sh")):
            return f"__mote_shell__({code.lstrip().partition(chr(10))[2]!r})"
        return "\n".join(cls._line(line) for line in code.split("\n"))

    @classmethod
    def _line(cls, line):
        found = cls.COMMAND.match(line)
        if found:
            return f"{found[1]}__mote_shell__({found[2]!r})"
        found = cls.MAGIC.match(line)
        if not found:
            return line
        if found[2] == "pip":
            return f"{found[1]}__mote_shell__({_sys.executable + ' -m pip ' + found[3]!r})"
        if found[2] == "cd":
            return f"{found[1]}__import__('os').chdir(__import__('os').path.expanduser({found[3].strip() or '~'!r}))"
        name, _, value = found[3].partition("=")
        return f"{found[1]}__import__('os').environ.__setitem__({name.strip()!r}, {value.strip()!r})"

    @staticmethod
    def run(command):
        _subprocess.run(["/bin/sh", "-c", command], check=False)


class _Kernel:
    """The namespace, the count of cells, and the one thread that runs code."""

    def __init__(self, wire):
        self.wire = wire
        self.count = 0
        self.running = False
        self.loop = None
        self.module = _types.ModuleType("__main__")
        self.module.__dict__.update(__builtins__=_builtins, __mote_shell__=_Shell.run, display=self.display)
        _sys.modules["__main__"] = self.module
        _sys.meta_path.insert(0, _Inline(self))
        _os.environ.setdefault("MPLBACKEND", f"module://{_Inline.BACKEND}")
        _sys.argv = [""]
        _sys.path.insert(0, "")

    # What the code may call.

    def display(self, *values, **_):
        """Shows values as results of the cell beside its last expression."""
        for value in values:
            self.result(formats_of(value), main=False)

    def display_figures(self):
        """Shows and closes the figures that are open."""
        pyplot = _sys.modules.get("matplotlib.pyplot")
        if pyplot is None:
            return
        for number in pyplot.get_fignums():
            figure = pyplot.figure(number)
            try:
                if figure.axes or figure.texts:
                    self.result(formats_of(figure), main=False)
            finally:
                pyplot.close(figure)

    # Cells.

    def result(self, formats, main):
        self.wire.drain()
        self.wire.send(type="result", cell=self.wire.cell, is_main_result=main, **formats)

    def compiled(self, code, name):
        """The statements of a cell, and its last expression where it ends with one."""
        flags = _ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
        try:
            tree = compile(code, name, "exec", flags | _ast.PyCF_ONLY_AST)
        except SyntaxError:
            translated = _Shell.translated(code)
            if translated == code:
                raise
            tree = compile(translated, name, "exec", flags | _ast.PyCF_ONLY_AST)
        last = None
        if tree.body and isinstance(tree.body[-1], _ast.Expr) and not _ends_silently(code):
            last = compile(_ast.Expression(tree.body.pop().value), name, "eval", flags)
        return compile(tree, name, "exec", flags), last

    def evaluated(self, compiled):
        made = eval(compiled, self.module.__dict__)
        if compiled.co_flags & _inspect.CO_COROUTINE:
            if self.loop is None:
                self.loop = _asyncio.new_event_loop()
                _asyncio.set_event_loop(self.loop)
            return self._awaited(made)
        return made

    def _awaited(self, coroutine):
        task = self.loop.create_task(coroutine)
        try:
            return self.loop.run_until_complete(task)
        except KeyboardInterrupt:
            task.cancel()
            try:
                self.loop.run_until_complete(task)
            except BaseException:
                pass
            raise

    def execute(self, command):
        """One cell from start to end. Every way that code can fail becomes a message."""
        code, added = command["code"], command.get("env") or {}
        self.wire.cell = command["cell"]
        self.count += 1
        name = f"<cell {self.count}>"
        _linecache.cache[name] = (len(code), None, code.splitlines(keepends=True), name)
        before = {key: _os.environ.get(key) for key in added}
        self.wire.send(type="number_of_executions", cell=self.wire.cell, execution_count=self.count)
        try:
            try:
                _os.environ.update({key: str(value) for key, value in added.items()})
                self.running = True
                self.carry_out(code, name)
            finally:
                self.running = False
        except BaseException as error:
            self.running = False
            self.fail(error, name)
        for key, value in before.items():
            if value is None:
                _os.environ.pop(key, None)
            else:
                _os.environ[key] = value
        self.wire.drain()
        self.wire.send(type="end_of_execution", cell=self.wire.cell)

    def carry_out(self, code, name):
        statements, last = self.compiled(code, name)
        self.evaluated(statements)
        if last is not None:
            value = self.evaluated(last)
            if value is not None:
                self.module.__dict__["_"] = value
                self.result(formats_of(value), main=True)
                self._shown(value)
        self.display_figures()

    def interrupted(self, *_):
        """SIGINT: only a running cell is interrupted, never the driver between two."""
        if self.running:
            raise KeyboardInterrupt

    def _shown(self, value):
        """A figure that was the cell's own result is not shown again."""
        pyplot = _sys.modules.get("matplotlib.pyplot")
        if pyplot is not None and isinstance(value, pyplot.Figure):
            pyplot.close(value)

    def fail(self, error, name):
        self.wire.drain()
        trace = error.__traceback__
        while trace is not None and trace.tb_frame.f_code.co_filename != name:
            trace = trace.tb_next
        if trace is None and not isinstance(error, SyntaxError):
            trace = error.__traceback__
        try:
            told = _traceback.TracebackException(type(error), error, trace)
            told.stack = _traceback.StackSummary.from_list(
                [frame for frame in told.stack if frame.filename != "<driver>"])
            lines, value = list(told.format()), str(error)
        except Exception as broken:
            lines, value = [f"{type(error).__name__}: its text failed: {broken!r}"], ""
        self.wire.send(type="error", cell=self.wire.cell, name=type(error).__name__, value=value, traceback="".join(lines))

    # Commands.

    def serve(self):
        """Runs cells until the commands end."""
        for command in self.wire.lines():
            if command["op"] == "execute":
                self.execute(command)


def _ends_silently(code):
    """A last line that ends with `;` shows nothing."""
    return code.rstrip().endswith(";")


def _start():
    wire = _Wire()
    kernel = _Kernel(wire)
    # An interrupt is the main thread's: there it also ends a call that waits.
    _signal.pthread_sigmask(_signal.SIG_BLOCK, [_signal.SIGINT])
    _threading.Thread(target=wire.pump, daemon=True).start()
    _signal.signal(_signal.SIGINT, kernel.interrupted)
    _signal.pthread_sigmask(_signal.SIG_UNBLOCK, [_signal.SIGINT])
    wire.send(type="ready", cwd=_os.getcwd())
    kernel.serve()
    # Threads of the user's code must not keep an abandoned context alive.
    _os._exit(0)


_start()
