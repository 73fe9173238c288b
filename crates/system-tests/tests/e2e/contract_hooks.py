"""What the description cannot say of right requests: they are set right just before they are sent, so that schemathesis does
not take their refusal for a mistake. What is wrong by the description stays as it is."""

import itertools
import re

import schemathesis

NUMBERS = itertools.count()
KEY = "Idempotency-Key"


def end_with_the_user(body):
    """A conversation ends with the user's message: JSON Schema has no word for an array's last item."""
    messages = body.get("input") if isinstance(body, dict) else None
    if isinstance(messages, list) and messages and isinstance(messages[-1], dict):
        if messages[-1].get("role") == "assistant":
            messages[-1]["role"] = "user"


def have_each_label_once(query):
    """A label's key stands once: JSON Schema knows equal items, not items that are equal up to a character."""
    labels = query.get("label") if query else None
    if isinstance(labels, list) and all(isinstance(label, str) and "=" in label for label in labels):
        query["label"] = list({label.split("=", 1)[0]: label for label in labels}.values())


def have_a_fresh_key(headers):
    """A key that is used again with another request is refused by design."""
    key = headers.get(KEY) if headers else None
    # Bare or quoted; what is wrong in a key stays in it.
    if isinstance(key, str) and len(key) < 200 and (form := re.fullmatch(r'("?)([!#-\[\]-~]+)("?)', key)):
        before, text, after = form.groups()
        headers[KEY] = f"{before}{text}-{next(NUMBERS)}{after}"


@schemathesis.hook
def before_call(context, case, kwargs):
    end_with_the_user(case.body)
    have_each_label_once(case.query)
    have_a_fresh_key(case.headers)
