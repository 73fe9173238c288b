"""The official Anthropic client, strict about what it receives, against the fake model."""
import os

import anthropic

client = anthropic.Anthropic(base_url=os.environ["FAKE_URL"], api_key="k", max_retries=0,
                             _strict_response_validation=True)
assert client.models.list().data[0].id == "fake/echo"
tools = [{"name": "get_ticket", "input_schema": {"type": "object", "properties": {"id": {"type": "string"}}}}]


def check_usage(usage):
    found = (usage.input_tokens, usage.cache_read_input_tokens, usage.cache_creation_input_tokens,
             usage.output_tokens)
    assert found == (15, 100, 5, 40), usage


def answered(messages, content):
    call = next(block for block in content if block.type == "tool_use")
    assert call.input == {"id": "T-1"}, call
    messages.append({"role": "assistant", "content": [block.model_dump(exclude_none=True) for block in content]})
    messages.append({"role": "user", "content": [
        {"type": "tool_result", "tool_use_id": call.id, "content": "a broken lamp"}]})


def check_answer(final):
    assert [block.type for block in final.content] == ["thinking", "text"], final
    assert final.content[0].thinking == "A short thought, in pieces."
    assert final.content[0].signature
    assert final.content[1].text == "It is about a broken lamp."
    assert final.stop_reason == "end_turn"
    check_usage(final.usage)


# Not streamed.
messages = [{"role": "user", "content": "What is ticket T-1?"}]
reply = client.messages.create(model="m", max_tokens=100, messages=messages, tools=tools)
assert reply.stop_reason == "tool_use", reply
check_usage(reply.usage)
answered(messages, reply.content)
final = client.messages.create(model="m", max_tokens=100, messages=messages, tools=tools)
check_answer(final)

# A thinking block that comes back unchanged is accepted, a changed one is refused.
messages.append({"role": "assistant", "content": [block.model_dump(exclude_none=True) for block in final.content]})
messages.append({"role": "user", "content": "And now?"})
client.messages.create(model="m", max_tokens=100, messages=messages, tools=tools)
messages[-2]["content"][0]["thinking"] += " (edited)"
try:
    client.messages.create(model="fake/echo", max_tokens=100, messages=messages)
    raise AssertionError("a changed thinking block was accepted")
except anthropic.BadRequestError as error:
    assert "signature" in str(error), error

# Streamed, through the SDK's own accumulator.
messages = [{"role": "user", "content": "What is ticket T-1?"}]
with client.messages.stream(model="m", max_tokens=100, messages=messages, tools=tools) as stream:
    reply = stream.get_final_message()
assert reply.stop_reason == "tool_use", reply
check_usage(reply.usage)
answered(messages, reply.content)
with client.messages.stream(model="m", max_tokens=100, messages=messages, tools=tools) as stream:
    text = "".join(stream.text_stream)
    final = stream.get_final_message()
assert text == "It is about a broken lamp."
check_answer(final)

# Errors arrive as the SDK's own types.
try:
    client.messages.create(model="fake/status-529", max_tokens=10, messages=[{"role": "user", "content": "x"}])
    raise AssertionError("529 was not raised")
except anthropic.APIStatusError as error:
    assert error.status_code == 529, error
print("ok")
