"""From a cell as notebooks know it to Python: magics, shell lines, questions and prompts become calls of `get_ipython()`.

It knows where strings, brackets and comments are, so that only a statement's beginning is looked at; it executes nothing.
"""
import re as _re

_MAGIC = _re.compile(r"%(?P<name>%?[^\W\d][\w.]*)(?:[ \t]+(?P<rest>.*))?$", _re.S)
_ASSIGNED = _re.compile(r"^(?P<to>[^\W\d][\w.,\[\]'\" \t*]*?[ \t]*=[ \t]*)(?P<sign>!|%)(?P<rest>[^=\s].*)$", _re.S)
_QUESTION = _re.compile(r"^(?P<before>\?\??)?(?P<name>%{0,2}[^\W\d][\w.*]*(?:\[[^\]]*\])*)(?P<after>\?\??)?$")
# How a first line with a prompt begins, and how the others may.
_PROMPTS = (
    (_re.compile(r"^>>>(?: |$)"), _re.compile(r"^(?:>>>|\.\.\.)(?: |$)")),
    (_re.compile(r"^In \[\d+\]: "), _re.compile(r"^(?:In \[\d+\]: |[ \t]*\.{3,}: ?)")),
)


def python_of(cell):
    """The Python that a cell stands for."""
    cell = _without_indent(_without_prompts(_without_blank_beginning(cell)))
    if cell.startswith("%%"):
        first, _, body = cell.partition("\n")
        name, _, line = first[2:].partition(" ")
        if name.rstrip("?").isidentifier() and not name.endswith("?"):
            body += "" if body.endswith("\n") or not body else "\n"
            return f"get_ipython().run_cell_magic({name!r}, {line.strip()!r}, {body!r})\n"
    lines = cell.split("\n")
    made, at = [], 0
    while at < len(lines):
        end = _statement_end(lines, at)
        made.extend(_translated(lines[at:end]))
        at = end
    return "\n".join(made)


def _without_blank_beginning(cell):
    lines = cell.split("\n")
    while lines and not lines[0].strip():
        lines.pop(0)
    return "\n".join(lines)


def _without_indent(cell):
    """Without the first line's indentation on every line that has it: a cell that was cut out of a function."""
    indent = _re.match(r"[ \t]+", cell)
    if not indent:
        return cell
    space = indent[0]
    return "\n".join(line[len(space):] if line.startswith(space) else line for line in cell.split("\n"))


def _without_prompts(cell):
    lines = cell.split("\n")
    for first, prompt in _PROMPTS:
        if lines and first.match(lines[0]):
            return "\n".join(prompt.sub("", line, count=1) for line in lines)
    return cell


def _is_special(text):
    return text.startswith(("!", "%", "?")) or bool(_ASSIGNED.match(text)) or \
        (text.endswith("?") and bool(_QUESTION.match(text)))


def _statement_end(lines, at):
    """The line behind the statement that begins at a line; one of a notebook's own goes on only behind a backslash."""
    end = at + 1
    if _is_special(lines[at].strip()):
        while end < len(lines) and lines[end - 1].endswith("\\"):
            end += 1
        return end
    depth, quote = 0, ""
    for number in range(at, len(lines)):
        depth, quote, goes_on = _scanned(lines[number], depth, quote)
        if depth <= 0 and not quote and not goes_on:
            return number + 1
    # Brackets or quotes that stay open: only this line is taken for a statement, and the compiler says what is wrong.
    return at + 1


def _scanned(line, depth, quote):
    """Brackets and triple quotes that are open behind a line, and whether it goes on behind a backslash."""
    at, size = 0, len(line)
    while at < size:
        sign = line[at]
        if quote:
            if sign == "\\":
                at += 2
                continue
            if line.startswith(quote, at):
                at += len(quote)
                quote = ""
                continue
        elif sign == "#":
            return depth, "", False
        elif sign in "\"'":
            quote = line[at:at + 3] if line[at:at + 3] == sign * 3 else sign
            at += len(quote)
            continue
        elif sign in "([{":
            depth += 1
        elif sign in ")]}":
            depth -= 1
        at += 1
    goes_on = line.endswith("\\")
    # A plain quote ends with its line, unless a backslash carries it over.
    return depth, quote if len(quote) == 3 or goes_on else "", goes_on


def _translated(lines):
    """The lines of one statement; as many lines come out, so that errors name the right ones."""
    indent = lines[0][:len(lines[0]) - len(lines[0].lstrip())]
    text = lines[0].strip()
    if not _is_special(text):
        return lines
    whole = " ".join(line.rstrip("\\") if number < len(lines) - 1 else line for number, line in enumerate(lines)).strip()
    call = _call(whole)
    if call is None:
        return lines
    return [indent + call] + [""] * (len(lines) - 1)


def _call(text):
    asked = _QUESTION.match(text)
    if asked and (asked["before"] or asked["after"]):
        detail = max(len(asked["before"] or ""), len(asked["after"] or "")) - 1
        return f"get_ipython().run_line_magic('pinfo{'2' if detail else ''}', {asked['name']!r})"
    if text.startswith("!!"):
        return f"get_ipython().getoutput({text[2:].strip()!r})"
    if text.startswith("!"):
        return f"get_ipython().system({text[1:].strip()!r})"
    if text.startswith("%"):
        return _line_magic(text)
    assigned = _ASSIGNED.match(text)
    if assigned is None:
        return None
    if assigned["sign"] == "!":
        return f"{assigned['to']}get_ipython().getoutput({assigned['rest'].strip()!r})"
    call = _line_magic("%" + assigned["rest"])
    return None if call is None else assigned["to"] + call


def _line_magic(text):
    found = _MAGIC.match(text)
    if found is None:
        return None
    return f"get_ipython().run_line_magic({found['name']!r}, {(found['rest'] or '').strip()!r})"
