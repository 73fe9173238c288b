"""Errors as notebooks tell them: each frame with the lines around it, from the cell inwards, the causes before what they caused.

It names cells by their numbers and shows nothing of the driver's own.
"""
import builtins as _builtins
import itertools as _itertools

_RULE = "-" * 75
# Lines before and behind the one that failed.
_AROUND = 2
# Frames of one error; more are counted, as an endless recursion has them.
_FRAMES_MAX = 30
_SAME_MAX = 2
_CAUSES_MAX = 20


def told_failure(error, plain=False):
    """The whole text of an error; `plain` as Python itself tells it."""
    if plain or isinstance(error, _GROUPS):
        return "".join(_traceback.format_exception(type(error), error, _trace_of_code(error.__traceback__)))
    if isinstance(error, SystemExit):
        text = f"SystemExit: {error}" if str(error) else "SystemExit"
        return f"An exception has occurred, use %tb to see the full traceback.\n\n{text}\n"
    if isinstance(error, SyntaxError) and not _frames(error.__traceback__):
        return _only(error)
    parts = [_RULE + "\n"]
    for one, relation in _chain(error):
        name = type(one).__name__
        parts.append(f"{name}{'Traceback (most recent call last)':>{max(75 - len(name), 34)}}\n")
        parts.append("\n".join(_shown(_frames(one.__traceback__))))
        parts.append(f"\n{_only(one)}" + (f"\n{relation}\n\n" if relation else ""))
    return "".join(parts)


def _trace_of_code(trace):
    while trace is not None and trace.tb_frame.f_code.co_filename == "<driver>":
        trace = trace.tb_next
    return trace


# Errors that hold several have a form of their own.
_GROUPS = getattr(_builtins, "BaseExceptionGroup", ())


def _chain(error):
    """An error with those that led to it, the first one first, each with what relates it to the next."""
    chain, seen = [(error, "")], {id(error)}
    while len(chain) < _CAUSES_MAX:
        error = chain[0][0]
        if error.__cause__ is not None:
            earlier, relation = error.__cause__, "The above exception was the direct cause of the following exception:"
        elif error.__context__ is not None and not error.__suppress_context__:
            earlier, relation = error.__context__, "During handling of the above exception, another exception occurred:"
        else:
            break
        if id(earlier) in seen:
            break
        seen.add(id(earlier))
        chain.insert(0, (earlier, relation))
    return chain


def _frames(trace):
    """The frames of a traceback, without the driver's; those before a cell's own are the driver's as well."""
    frames = []
    while trace is not None:
        if trace.tb_frame.f_code.co_filename != "<driver>":
            frames.append((trace.tb_frame, trace.tb_lineno))
        trace = trace.tb_next
    first = next((at for at, (frame, _) in enumerate(frames) if _cell_of(frame.f_code.co_filename)), 0)
    return frames[first:]


def _shown(frames):
    """Each frame's text; of frames that are all the same, and of very many, the first ones and how many more."""
    same = [(key, list(group)) for key, group in _itertools.groupby(
        frames, key=lambda each: (each[0].f_code, each[1]))]
    shown = []
    for (code, line), group in same:
        shown.extend(_frame(frame, number) for frame, number in group[:_SAME_MAX])
        if len(group) > _SAME_MAX:
            shown.append(f"    [... skipping similar frames: {code.co_name} at line {line} ({len(group) - _SAME_MAX} times)]\n")
    if len(shown) > _FRAMES_MAX:
        half = _FRAMES_MAX // 2
        shown[half:-half] = [f"    [... skipping {len(shown) - 2 * half} frames]\n"]
    return shown


def _cell_of(name):
    return _re.match(r"<cell (\d+)", name)


def _frame(frame, line):
    code = frame.f_code
    cell = _cell_of(code.co_filename)
    where = f"Cell In[{cell[1]}], line {line}" if cell else f"File {_short(code.co_filename)}:{line}"
    if code.co_name != "<module>":
        where += f", in {getattr(code, 'co_qualname', code.co_name)}({_parameters(code)})"
    numbers = range(max(line - _AROUND, 1), line + _AROUND + 1)
    lines = [(number, _linecache.getline(code.co_filename, number, frame.f_globals)) for number in numbers]
    while lines and not lines[-1][1].strip() and lines[-1][0] != line:
        lines.pop()
    if not any(text for _, text in lines):
        return where + "\n"
    return where + "\n" + "".join(
        (f"{'-' * max(5 - len(str(number)), 1)}> {number}" if number == line else f"{number:>7}") + f" {text.rstrip()}\n"
        for number, text in lines)


def _short(name):
    home = _os.path.expanduser("~")
    return "~" + name[len(home):] if home not in ("/", "~") and name.startswith(home + "/") else name


def _parameters(code):
    named = list(code.co_varnames[:code.co_argcount + code.co_kwonlyargcount])
    rest = list(code.co_varnames[len(named):])
    if code.co_flags & _inspect.CO_VARARGS and rest:
        named.append("*" + rest.pop(0))
    if code.co_flags & _inspect.CO_VARKEYWORDS and rest:
        named.append("**" + rest.pop(0))
    return ", ".join(named)


def _only(error):
    """The error without its way there."""
    text = "".join(_traceback.TracebackException(type(error), error, None).format_exception_only())
    return _re.sub(r'File "<cell (\d+)[^"]*"', r"Cell In[\1]", text)
