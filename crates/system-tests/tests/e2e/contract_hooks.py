"""What the description cannot say of right requests, so that schemathesis does not take their refusal for a mistake."""

import schemathesis


def ends_with_the_user(body):
    """A conversation ends with the user's message: JSON Schema has no word for an array's last item."""
    messages = body.get("input") if isinstance(body, dict) else None
    if isinstance(messages, list) and messages and isinstance(messages[-1], dict):
        return messages[-1].get("role") != "assistant"
    return True


def has_each_label_once(query):
    """A label's key stands once: JSON Schema knows equal items, not items that are equal up to a character."""
    labels = query.get("label") if isinstance(query, dict) else None
    if not isinstance(labels, list):
        return True
    keys = [label.split("=", 1)[0] for label in labels if isinstance(label, str)]
    return len(keys) == len(set(keys))


@schemathesis.hook
def filter_body(context, body):
    return ends_with_the_user(body)


@schemathesis.hook
def filter_query(context, query):
    return has_each_label_once(query)
