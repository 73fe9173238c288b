"""The official OpenAI client, strict about what it receives, against the fake model."""
import json
import os

import openai

client = openai.OpenAI(base_url=os.environ["FAKE_URL"] + "/v1", api_key="k", max_retries=0,
                       _strict_response_validation=True)
assert client.models.list().data[0].id == "fake/echo"
tools = [{"type": "function", "function": {
    "name": "get_ticket", "parameters": {"type": "object", "properties": {"id": {"type": "string"}}}}}]


def answered(messages, call, arguments):
    messages.append({"role": "assistant", "content": "Let me look.", "tool_calls": [
        {"id": call, "type": "function", "function": {"name": "get_ticket", "arguments": arguments}}]})
    messages.append({"role": "tool", "tool_call_id": call, "content": "a broken lamp"})


def check_usage(usage):
    assert (usage.prompt_tokens, usage.completion_tokens, usage.total_tokens) == (120, 40, 160), usage
    assert usage.prompt_tokens_details.cached_tokens == 100
    assert usage.completion_tokens_details.reasoning_tokens == 10


# Not streamed.
messages = [{"role": "user", "content": "What is ticket T-1?"}]
reply = client.chat.completions.create(model="m", messages=messages, tools=tools)
choice = reply.choices[0]
assert choice.finish_reason == "tool_calls", choice
call = choice.message.tool_calls[0]
assert json.loads(call.function.arguments) == {"id": "T-1"}
check_usage(reply.usage)
answered(messages, call.id, call.function.arguments)
reply = client.chat.completions.create(model="m", messages=messages, tools=tools)
assert reply.choices[0].message.content == "It is about a broken lamp.", reply
assert reply.choices[0].finish_reason == "stop"

# Streamed, by hand.
messages = [{"role": "user", "content": "What is ticket T-1?"}]
text, arguments, name, call_id, finish, usage = "", "", None, None, None, None
for chunk in client.chat.completions.create(model="m", messages=messages, tools=tools, stream=True,
                                            stream_options={"include_usage": True}):
    if chunk.usage:
        usage = chunk.usage
    for choice in chunk.choices:
        text += choice.delta.content or ""
        finish = choice.finish_reason or finish
        for part in choice.delta.tool_calls or []:
            call_id, name = part.id or call_id, part.function.name or name
            arguments += part.function.arguments or ""
assert (text, name, finish) == ("Let me look.", "get_ticket", "tool_calls")
assert json.loads(arguments) == {"id": "T-1"}
check_usage(usage)

# Streamed, through the SDK's own accumulator.
answered(messages, call_id, arguments)
with client.chat.completions.stream(model="m", messages=messages, tools=tools,
                                    stream_options={"include_usage": True}) as stream:
    for _ in stream:
        pass
    final = stream.get_final_completion()
assert final.choices[0].message.content == "It is about a broken lamp.", final
check_usage(final.usage)

# Errors arrive as the SDK's own types.
try:
    client.chat.completions.create(model="fake/status-429", messages=[{"role": "user", "content": "x"}])
    raise AssertionError("429 was not raised")
except openai.RateLimitError as error:
    assert error.code == "rate_limit_exceeded", error
print("ok")
